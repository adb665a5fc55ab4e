//! Healing what an interrupted command left; the other volume is never needed for it.

use snapsync_apply::{Incoming, Journal, Phase, applied, discard, has_received, is_intact};
use snapsync_model::{Error, Monitor, Provider, Result, Role, SnapshotInfo, Stage};
use snapsync_snapshot::{Delta, Request, Volume};
use snapsync_sys::fault;
use std::path::Path;
use uuid::Uuid;

/// Says what it did. The caller holds the lock.
pub(crate) fn recover(volume: &mut Volume, monitor: &Monitor) -> Result<Vec<String>> {
    monitor.start(Stage::Recover, 0);
    let mut done = volume.recover()?;
    let Some(journal) = Journal::load(&volume.store())? else { return Ok(done) };
    let name = journal.snapshot.name.clone();
    if journal.phase == Phase::Staging && can_go_on(volume, &journal) {
        // The same delta goes on from what is staged, and any other discards it.
        return Ok(done);
    }
    if journal.phase == Phase::Staging {
        volume.unseal()?;
        give_up(volume.path(), &volume.store(), &journal)?;
        volume.seal()?;
        done.push(format!("discarded the staged part of snapshot {name}"));
    } else {
        volume.unseal()?;
        if journal.phase != Phase::Applied {
            expect_intact(volume, &journal)?;
            Incoming::open(volume.path(), &volume.store(), journal.clone(), monitor)?.commit()?;
        }
        finish(volume, &journal.snapshot, journal.base, monitor)?;
        volume.seal()?;
        done.push(format!("finished the commit of snapshot {name}"));
    }
    Ok(done)
}

/// Data of a cut delta has arrived, and the same delta can be told. What a volume makes of its own snapshots is made
/// anew.
pub(crate) fn can_go_on(volume: &Volume, journal: &Journal) -> bool {
    let is_own = volume.info().role == Role::Primary || has_snapshot(volume, journal.snapshot.id);
    !is_own
        && journal.manifest.is_some()
        && has_received(volume.path(), journal.snapshot.id)
        && is_intact(volume.path(), journal).unwrap_or(false)
}

/// A commit goes on from what the stage says, or not at all.
fn expect_intact(volume: &Volume, journal: &Journal) -> Result<()> {
    if is_intact(volume.path(), journal)? {
        return Ok(());
    }
    let (name, show) = (&journal.snapshot.name, volume.path().display());
    Err(Error::integrity(
        format!(
            "cannot finish the commit of snapshot {name} in {show}: the manifest in its stage was damaged"
        ),
        "the tree is between two snapshots: check the disk, and make the volume anew from the other one",
    ))
}

/// The tree is the new one: takes the standby's snapshot, clears the stage and closes the journal.
pub(crate) fn finish(
    volume: &mut Volume,
    info: &SnapshotInfo,
    base: Option<Uuid>,
    monitor: &Monitor,
) -> Result<SnapshotInfo> {
    monitor.start(Stage::StandbySnapshot, 0);
    if volume.info().provider == Provider::Btrfs {
        // The stage would be in the snapshot.
        discard(volume.path(), info.id)?;
    }
    let taken = volume.snapshots()?.into_iter().find(|s| s.id == info.id);
    let taken = match taken {
        Some(taken) => {
            went_back(volume, &taken, base, monitor)?;
            taken
        }
        None => take(volume, info, base, monitor)?,
    };
    fault::point("commit.snapshot");
    discard(volume.path(), info.id)?;
    fault::point("commit.discarded");
    Journal::remove(&volume.store())?;
    fault::point("commit.cleaned");
    Ok(taken)
}

fn has_snapshot(volume: &Volume, id: Uuid) -> bool {
    volume.snapshots().is_ok_and(|snapshots| snapshots.iter().any(|s| s.id == id))
}

/// Where the tree went back to a snapshot from one that was kept aside, it is taken again.
fn went_back(volume: &mut Volume, to: &SnapshotInfo, from: Option<Uuid>, monitor: &Monitor) -> Result<()> {
    let is_aside = volume.snapshots()?.iter().any(|s| Some(s.id) == from && s.aside);
    let (true, Some(from)) = (is_aside, from) else { return Ok(()) };
    let delta = match volume.info().provider {
        Provider::Btrfs => Err("its snapshots are no tables"),
        Provider::Pool => how(volume, to, from)?,
    };
    volume.take_again(to, delta, monitor)
}

/// What the stage tells of how the tree came from `base`.
fn how(volume: &Volume, to: &SnapshotInfo, base: Uuid) -> Result<Result<Delta, &'static str>> {
    let Some(applied) = applied(volume.path(), to.id)? else {
        return Ok(Err("the stage does not say what was applied"));
    };
    match Journal::load(&volume.store())? {
        Some(journal) if !is_intact(volume.path(), &journal)? => Ok(Err("what the stage says was damaged")),
        _ => Ok(Ok(Delta { base, manifest: applied.manifest, seen: applied.seen })),
    }
}

/// From the last table and the stage where there are such.
fn take(
    volume: &mut Volume,
    info: &SnapshotInfo,
    base: Option<Uuid>,
    monitor: &Monitor,
) -> Result<SnapshotInfo> {
    let (Some(base), Provider::Pool) = (base, volume.info().provider) else {
        return volume.take(Request::Same(info.clone()), monitor);
    };
    let delta = how(volume, info, base)?;
    volume.follow(info.clone(), delta, monitor)
}

/// Throws away what is staged: the tree was not touched.
pub(crate) fn give_up(path: &Path, store: &Path, journal: &Journal) -> Result<()> {
    discard(path, journal.snapshot.id)?;
    Journal::remove(store)
}
