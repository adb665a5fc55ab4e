//! Two sides to the set of changes between them: a merge of two sorted lists of inodes, then a close look at
//! each that may differ.

mod data;
mod pair;

use pair::Pairs;
use rayon::prelude::*;
use snapsync_model::{Change, Inode, Link, Monitor, Result, Side};
use std::collections::HashSet;

/// What proves, without opening it, that an inode is the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Both sides are pool snapshots of one volume: the tables hold everything, and the same object is the same data.
    Objects,
    /// Both sides are snapshots of one subvolume: equal attributes prove it for a change time clearly older than
    /// `before` (ns since 1970), when the base was taken.
    Times { before: i64 },
    /// Nothing does: everything is read.
    Nothing,
}

/// A change within one clock tick keeps its time; and clocks differ a little between what is compared.
pub const TICK: i64 = 100_000_000;

/// How many inodes are looked at side by side.
const CHUNK: usize = 1024;

/// Calls `emit` with every change from `base` to `target`, in order. Without a base everything is created.
/// The changes do not depend on the number of threads.
pub fn changes(
    base: Option<&dyn Side>,
    target: &dyn Side,
    trust: Trust,
    monitor: &Monitor,
    emit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let anchors = anchors(base, target)?;
    let look = pair::Look { base, target, trust, monitor };
    let mut pairs = Pairs::new(base, target)?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            let Some(pair) = pairs.next().transpose()? else { break };
            monitor.advance(1);
            let anchor = anchors.contains(&pair.ino());
            if anchor || !look.is_plainly_same(&pair) {
                chunk.push((pair, anchor));
            }
        }
        if chunk.is_empty() {
            return Ok(());
        }
        monitor.check()?;
        let rows: Vec<Result<Vec<Change>>> =
            chunk.par_iter().map(|(pair, anchor)| look.changes(pair, *anchor)).collect();
        for changes in rows {
            changes?.into_iter().try_for_each(&mut *emit)?;
        }
    }
}

/// Directories that a name is added to or removed from: each has a row, that the names have a place.
fn anchors(base: Option<&dyn Side>, target: &dyn Side) -> Result<HashSet<u64>> {
    let mut anchors = HashSet::new();
    if base.is_none() {
        return Ok(anchors);
    }
    for pair in Pairs::new(base, target)? {
        let pair = pair?;
        let (old, new) = (links(pair.base.as_ref()), links(pair.target.as_ref()));
        if old != new || pair.is_replaced() {
            let (removed, added) = pair.link_changes();
            anchors.extend(removed.iter().chain(&added).map(|link| link.parent));
        }
    }
    Ok(anchors)
}

fn links(inode: Option<&Inode>) -> &[Link] {
    inode.map_or(&[], |i| &i.links)
}
