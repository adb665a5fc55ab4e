//! The newest snapshot of a log with the inode numbers of a primary that has just been promoted. It goes on
//! from that snapshot, which it holds itself, in its own numbers.

use crate::names::{Merged, Name, Names};
use snapsync_log::{Log, LogSnapshot, Whole};
use snapsync_model::{Error, Result, Side};
use std::sync::Arc;
use uuid::Uuid;

/// `own` is that snapshot as `volume` holds it.
pub(crate) fn renumbered(log: &Arc<Log>, whole: Whole, (own, volume): (&dyn Side, Uuid)) -> Result<Whole> {
    let theirs = LogSnapshot::new(log, whole)?;
    let numbers = {
        let (old, new) = (Names::of(&theirs)?, Names::of(own)?);
        pairs(&mut old.iter()?, &mut new.iter()?)?
    };
    let mut whole = theirs.into_whole();
    whole.renumber(numbers, volume)?;
    Ok(whole)
}

/// The numbers of each inode on both sides, which have the same names.
fn pairs(old: &mut Merged<'_>, new: &mut Merged<'_>) -> Result<Vec<(u64, u64)>> {
    let mut numbers = Vec::new();
    loop {
        let (one, other) = (next(old)?, next(new)?);
        let (one, other) = match (one, other) {
            (None, None) => return Ok(numbers),
            (Some(one), Some(other)) if one.path == other.path => (one, other),
            (one, other) => {
                let path = one.or(other).map(|name| name.path.display().into_owned()).unwrap_or_default();
                return Err(Error::refused(
                    format!("the log and this volume do not hold the same in their common snapshot: {path}"),
                    "`snapsync verify LOG VOLUME@SNAP` shows the differences; a new log begins with all",
                ));
            }
        };
        if let (Some(one), Some(other)) = (&one.inode, &other.inode)
            && !one.links.is_empty()
        {
            numbers.push((one.ino, other.ino));
        }
    }
}

fn next(names: &mut Merged<'_>) -> Result<Option<Name>> {
    names.next().map(|name| name?.decode()).transpose()
}
