//! Healing what an interrupted command left; the other volume is never needed for it.

use snapsync_apply::{Incoming, Journal, Phase, discard};
use snapsync_model::{Monitor, Result, SnapshotInfo, Stage};
use snapsync_snapshot::{Request, Volume};
use snapsync_sys::fault;

/// Says what it did. The caller holds the lock.
pub(crate) fn recover(volume: &mut Volume, monitor: &Monitor) -> Result<Vec<String>> {
    monitor.start(Stage::Recover, 0);
    let mut done = volume.recover()?;
    let Some(journal) = Journal::load(&volume.store())? else { return Ok(done) };
    let name = journal.snapshot.name.clone();
    if journal.phase == Phase::Staging {
        give_up(volume, &journal)?;
        done.push(format!("discarded the staged part of snapshot {name}"));
    } else {
        if journal.phase != Phase::Applied {
            Incoming::open(volume.path(), &volume.store(), journal.clone(), monitor)?.commit()?;
        }
        finish(volume, &journal.snapshot, monitor)?;
        done.push(format!("finished the commit of snapshot {name}"));
    }
    Ok(done)
}

/// The tree is the new one: clears the stage, takes the standby's snapshot and closes the journal.
pub(crate) fn finish(volume: &mut Volume, info: &SnapshotInfo, monitor: &Monitor) -> Result<SnapshotInfo> {
    monitor.start(Stage::StandbySnapshot, 0);
    discard(volume.path(), info.id)?;
    let taken = volume.snapshots()?.into_iter().find(|s| s.id == info.id);
    let taken = match taken {
        Some(taken) => taken,
        None => volume.take(Request::Same(info.clone()), monitor)?,
    };
    fault::point("commit.snapshot");
    Journal::remove(&volume.store())?;
    fault::point("commit.cleaned");
    Ok(taken)
}

/// Throws away what is staged: the tree was not touched.
pub(crate) fn give_up(volume: &Volume, journal: &Journal) -> Result<()> {
    discard(volume.path(), journal.snapshot.id)?;
    Journal::remove(&volume.store())
}
