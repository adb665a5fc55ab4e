//! Files whose bytes the base has lost.

use crate::pair::Pairs;
use crate::trust::Trust;
use snapsync_model::{Error, Inode, Kind, Result, Side};
use std::collections::BTreeSet;

/// Files that are no larger on one of both sides are sent whole, unless their size and time say that they may
/// not differ at all: to ask costs a message.
const WORTH: u64 = 128 << 10;

/// The files worth asking for that both sides have, that may differ, and whose bytes the base has lost: the
/// base's inode and the target's.
pub fn lost<'a>(
    base: &'a dyn Side,
    target: &'a dyn Side,
    trust: Trust,
    again: &'a BTreeSet<u64>,
) -> Result<impl Iterator<Item = Result<(Inode, Inode)>> + 'a> {
    let is_same = move |base: &Inode, target: &Inode| match trust {
        Trust::Copy => trust.proves_data(base, target),
        _ => base.object == target.object && base.details == target.details,
    };
    let is_asked = move |base: &Inode, target: &Inode| {
        base.kind == Kind::File
            && is_worth_asking(base, target)
            && !is_same(base, target)
            && !again.contains(&target.ino)
    };
    // A pool loses bytes, and those of a copy are not at hand.
    let may_be_lost = matches!(trust, Trust::Objects | Trust::Copy);
    let pairs = may_be_lost.then(|| Pairs::new(Some(base), target)).transpose()?;
    Ok(pairs.into_iter().flatten().filter_map(move |pair| match pair {
        Err(error) => Some(Err(error)),
        Ok(pair) if pair.is_replaced() => None,
        Ok(pair) => {
            let (old, new) = pair.base.zip(pair.target).filter(|(old, new)| is_asked(old, new))?;
            matches!(base.open(&old), Err(Error::Lost { .. })).then_some(Ok((old, new)))
        }
    }))
}

fn is_worth_asking(base: &Inode, target: &Inode) -> bool {
    let stamp = |inode: &Inode| (inode.attributes.size, inode.attributes.time());
    base.attributes.size.min(target.attributes.size) > WORTH
        || (stamp(base) == stamp(target) && base.attributes.size > 0)
}
