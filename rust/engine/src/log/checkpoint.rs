//! When a log gets another checkpoint, and of what.

use snapsync_log::{Commit, Log, Since, Whole, fold};
use snapsync_model::{Monitor, Result, SnapshotInfo};
use std::sync::Arc;
use uuid::Uuid;

/// What gives the inodes of a snapshot the numbers that they have in another volume.
pub(crate) type Renumber<'a> = &'a dyn Fn(&Arc<Log>, Whole, &SnapshotInfo, Uuid) -> Result<Whole>;

/// The volume in whose inode numbers the next delta is.
pub(crate) struct Numbering<'a> {
    pub(crate) volume: Uuid,
    /// A primary of a later epoch was a standby meanwhile, and its files may have other numbers than they
    /// had. A standby that passes on what it gets stays what it is.
    pub(crate) is_primary: bool,
    /// A snapshot that has other numbers there than it had when it was published.
    pub(crate) renumbered: Option<Uuid>,
    pub(crate) renumber: Renumber<'a>,
}

/// The newest commit as the next one is to continue it: with a checkpoint of the newest snapshot, if one is
/// due, or if the next delta has other inode numbers.
pub(crate) fn with_checkpoint(
    log: &Arc<Log>,
    head: Commit,
    next: Option<Numbering<'_>>,
    monitor: &Monitor,
) -> Result<Commit> {
    let Some(newest) = log.newest_snapshot(&head)? else { return Ok(head) };
    let numbers = newest.published().map(|published| (published.delta.volume, published.delta.epoch));
    let other = next.filter(|next| {
        let epoch = numbers.map_or(head.epoch, |(_, epoch)| if next.is_primary { head.epoch } else { epoch });
        let went_back = newest.info().is_some_and(|newest| next.renumbered == Some(newest.id));
        went_back || numbers != Some((Some(next.volume), epoch))
    });
    // A primary that cannot read an encrypted log leaves this to who can: `prune` does it too.
    let is_due = head.since.is_due() && log.can_open();
    let Some(info) = newest.info().filter(|_| other.is_some() || is_due) else { return Ok(head) };
    let history = log.history(&newest)?;
    let mut whole = fold(log, &log.deltas_to(&newest, &history)?, monitor)?;
    if let Some(Numbering { volume, renumber, .. }) = other {
        whole = renumber(log, whole, info, volume)?;
        // Who compares snapshots of the log by their numbers goes by both.
        (whole.delta.epoch, whole.delta.promotions) = (head.epoch, head.promotions.clone());
    }
    let (at, bytes) = log.put_checkpoint(&newest, history, &whole)?;
    let since = Since { whole: bytes, ..Since::default() };
    Ok(Commit { checkpoint: Some(at), since, ..head })
}
