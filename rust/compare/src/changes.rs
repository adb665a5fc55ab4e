//! All changes between two sides, in the order of inodes.

use crate::pair::{self, Pair, Pairs, Row};
use crate::share::{Fresh, Shares};
use crate::told::Told;
use crate::trust::Trust;
use rayon::prelude::*;
use snapsync_model::{Change, Counters, Inode, Link, Monitor, Result, Side, Unread, locked};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;

/// How many inodes are compared in parallel.
const CHUNK: usize = 1024;

/// Calls `emit` with every change from `base` to `target`, in order. Without a base everything is created.
/// The changes do not depend on the number of threads. Files in `again` count as changed as a whole, because
/// the receiver's copies cannot be trusted; of files in `told` the receiver's copy stands for the base's.
///
/// Returns, in order, a row for each inode that other rows refer to: files that clones come from, and
/// directories. Those without changes of their own must be inserted between the emitted rows, so that every
/// reference leads to a row.
pub fn changes(
    base: Option<&dyn Side>,
    target: &dyn Side,
    trust: Trust,
    again: &BTreeSet<u64>,
    told: &BTreeMap<u64, Told>,
    monitor: &Monitor,
    emit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<Vec<Change>> {
    let parents = Parents::find(base, target)?;
    let shares = Shares::new(base, target, again);
    let look = pair::Look {
        base,
        target,
        trust,
        again,
        told,
        shares,
        replaced: &parents.replaced,
        places: Mutex::default(),
        monitor,
    };
    let (mut fresh, mut rows_read, unread) = (Fresh::default(), 0, Unread::default());
    let mut pairs = Pairs::new(base, target)?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            let Some(pair) = pairs.next().transpose()? else { break };
            monitor.advance(1);
            rows_read += u64::from(pair.base.is_some()) + u64::from(pair.target.is_some());
            let anchor = parents.anchors.contains(&pair.ino());
            let moved = parents.took(links(pair.target.as_ref()));
            if anchor || moved || !look.is_plainly_same(&pair) || again.contains(&pair.ino()) {
                chunk.push((pair, anchor));
            }
        }
        if chunk.is_empty() {
            // Relevant for a table; a tree counted unreadable entries while it was walked or searched.
            unread.finish()?;
            let visited = if trust == Trust::Objects { rows_read } else { 0 };
            monitor.count(Counters { visited, ..Counters::default() });
            return references(&look);
        }
        monitor.check()?;
        look.shares.start_chunk();
        let rows: Vec<Result<Vec<Row>>> = chunk
            .par_iter()
            .map(|(pair, anchor)| noted(monitor, pair, look.changes(pair, *anchor)))
            .collect();
        for rows in rows {
            for Row { mut change, layout } in unread.take(rows)?.unwrap_or_default() {
                if let Some(layout) = layout {
                    fresh.deduplicate(&mut change, &layout);
                }
                emit(change)?;
            }
        }
    }
}

/// Remembers whose data could not be read.
fn noted<T>(monitor: &Monitor, pair: &Pair, result: Result<T>) -> Result<T> {
    result.inspect_err(|error| monitor.note_unread(pair.ino(), error))
}

fn references(look: &pair::Look<'_>) -> Result<Vec<Change>> {
    let Some(base) = look.base else { return Ok(Vec::new()) };
    let mut used = look.shares.used();
    used.append(&mut locked(&look.places));
    let mut targets = look.target.pick(&used)?.into_iter().peekable();
    let mut rows = Vec::new();
    for inode in base.pick(&used)? {
        while targets.next_if(|t| t.ino < inode.ino).is_some() {}
        let target = targets.next_if(|t| t.ino == inode.ino);
        // An inode that is gone, or replaced by now, has rows of its own.
        let pair = Pair { base: Some(inode), target };
        if !pair.is_replaced() {
            rows.extend(look.reference(&pair)?);
        }
    }
    Ok(rows)
}

/// Directories that affect the names of others.
#[derive(Default)]
struct Parents {
    /// Directories whose number was reused for another directory: entries of the old one are not in the new
    /// one, even if their names say so.
    replaced: HashSet<u64>,
    /// Directories in which names are added or removed. Each has a row, so that those names have a place.
    anchors: HashSet<u64>,
}

impl Parents {
    fn find(base: Option<&dyn Side>, target: &dyn Side) -> Result<Parents> {
        let mut parents = Parents::default();
        if base.is_none() {
            return Ok(parents);
        }
        for pair in Pairs::new(base, target)? {
            let pair = pair?;
            if pair.is_replaced() && pair.is_directory() {
                parents.replaced.insert(pair.ino());
            }
            parents.add(&pair);
        }
        if !parents.replaced.is_empty() {
            for pair in Pairs::new(base, target)? {
                parents.add(&pair?);
            }
        }
        Ok(parents)
    }

    fn add(&mut self, pair: &Pair) {
        let (old, new) = (links(pair.base.as_ref()), links(pair.target.as_ref()));
        if old != new || pair.is_replaced() || self.took(new) {
            let (removed, added) = pair.link_changes(&self.replaced);
            self.anchors.extend(removed.iter().chain(&added).map(|link| link.parent));
        }
    }

    /// Whether some of these names are in a directory whose number was reused.
    fn took(&self, links: &[Link]) -> bool {
        !self.replaced.is_empty() && links.iter().any(|link| self.replaced.contains(&link.parent))
    }
}

fn links(inode: Option<&Inode>) -> &[Link] {
    inode.map_or(&[], |i| &i.links)
}
