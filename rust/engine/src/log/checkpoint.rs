//! When a log gets another checkpoint, and of what.

use snapsync_log::{Commit, Log, Since, Whole, fold};
use snapsync_model::{Monitor, Result, SnapshotInfo};
use std::sync::Arc;
use uuid::Uuid;

/// What gives the inodes of a snapshot the numbers that they have in another volume.
pub(crate) type Renumber<'a> = &'a dyn Fn(&Arc<Log>, Whole, &SnapshotInfo, Uuid) -> Result<Whole>;

/// The newest commit as the next one is to continue it: with a checkpoint of the newest snapshot, if one is
/// due, or if the next delta has the inode numbers of another volume, which `renumber` knows.
pub(crate) fn with_checkpoint(
    log: &Arc<Log>,
    head: Commit,
    next: Option<(Uuid, Renumber<'_>)>,
    monitor: &Monitor,
) -> Result<Commit> {
    let Some(newest) = log.newest_snapshot(&head)? else { return Ok(head) };
    let numbers = newest.published().and_then(|published| published.delta.volume);
    let other = next.filter(|(volume, _)| Some(*volume) != numbers);
    // A primary that cannot read an encrypted log leaves this to who can: `prune` does it too.
    let is_due = head.since.is_due() && log.can_open();
    let Some(info) = newest.info().filter(|_| other.is_some() || is_due) else { return Ok(head) };
    let history = log.history(&newest)?;
    let mut whole = fold(log, &log.deltas_to(&newest, &history)?, monitor)?;
    if let Some((volume, renumber)) = other {
        whole = renumber(log, whole, info, volume)?;
    }
    let (at, bytes) = log.put_checkpoint(&newest, history, &whole)?;
    let since = Since { whole: bytes, ..Since::default() };
    Ok(Commit { checkpoint: Some(at), since, ..head })
}
