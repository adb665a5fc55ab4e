//! Puts the next epoch into the log that a standby follows, before the standby is promoted: from then on the
//! old primary cannot publish any more.

use crate::location::logs;
use crate::log::pinned::is_same;
use snapsync_log::{Appended, Commit, Deed, LogAddress};
use snapsync_model::{Error, Monitor, Promotions, Result, SnapshotInfo};
use snapsync_snapshot::Volume;
use std::path::Path;

/// Returns the epoch and the promotions that the volume is to have. `raised` is what it would have by itself.
pub(crate) fn announce(
    volume: &Volume,
    newest: &SnapshotInfo,
    raised: (u64, Promotions),
    monitor: &Monitor,
) -> Result<(u64, Promotions)> {
    let Some(known) = volume.follows() else { return Ok(raised) };
    let address = &known.address;
    let address = LogAddress::parse(Path::new(address))?.ok_or_else(|| {
        Error::integrity(format!("{address} is the address of no log"), "sync it once more")
    })?;
    let log = logs::open(&address)?;
    let show = volume.path().display();
    let (head, digest) = log.head()?.ok_or_else(|| {
        Error::refused(format!("{address} has lost all of its snapshots"), "look what happened to it")
    })?;
    is_same(&log, (&head, &digest), known)?;
    let held = log.newest_snapshot(&head)?;
    let is_own = head.deed == Deed::Promotion && head.promotions.are_of(volume.info().id, newest.id);
    if !held.is_some_and(|held| held.is_of(newest.id)) {
        return Err(Error::refused(
            format!("{address} has other snapshots after {}, the newest of {show}", newest.name),
            format!("`snapsync sync {address} {show}` brings them, then promote it"),
        ));
    }
    if is_own && head.epoch == raised.0 {
        // An earlier try came this far.
        return Ok((head.epoch, head.promotions));
    }
    if head.epoch >= raised.0 {
        return Err(Error::refused(
            format!("{address} is in epoch {} already: another volume was promoted", head.epoch),
            "only one of them can go on; its snapshots come to the others with `snapsync sync`",
        ));
    }
    if let Some(key) = log.need_signer()? {
        monitor.note(format!(
            "this machine does not have the key of {address} and signs with its own: run `snapsync trust \
             {address} {key}` on the machines that follow it"
        ));
    }
    let (epoch, promotions) = raised.clone();
    let promotion = Commit { epoch, promotions, ..head }.next(digest, Deed::Promotion);
    match log.append(&promotion)? {
        Appended::Done { .. } => {
            // It needs nothing of the log any more. If this fails, `release` does it.
            let _ = log.forget_reader(volume.info().id);
            Ok(raised)
        }
        Appended::Taken(_) => Err(Error::refused(
            format!("something was just published to {address}"),
            format!("`snapsync sync {address} {show}` brings it, then promote it"),
        )),
    }
}
