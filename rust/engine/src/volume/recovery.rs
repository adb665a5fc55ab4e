//! Recovers from interrupted commands, without needing the other volume.

use crate::delta::staging::give_up;
use crate::report::volumes::Unfinished;
use snapsync_apply::{Applied, Incoming, Journal, Phase, applied, clear, discard, has_received, is_intact};
use snapsync_model::{Context, Error, Monitor, Provider, Result, Role, Seen, SnapshotInfo, Stage};
use snapsync_snapshot::{Delta, LockedVolume, Request, Volume};
use snapsync_sys::{Spot, fault};
use std::collections::BTreeSet;
use uuid::Uuid;

/// In a stage: numbers of inodes, 8 bytes little endian each.
const DOUBTFUL: &str = "doubtful";

/// Keeps other commands from a volume, and ends what an interrupted one began; a cut delta may go on. Says
/// what it did.
pub(crate) fn lock(volume: &Volume, monitor: &Monitor) -> Result<(LockedVolume, Vec<String>)> {
    let mut volume = volume.lock()?;
    let done = recover(&mut volume, monitor)?;
    Ok((volume, done))
}

/// The same of one that is locked.
pub(crate) fn recover(volume: &mut LockedVolume, monitor: &Monitor) -> Result<Vec<String>> {
    monitor.start(Stage::Recover, 0);
    let mut done = volume.recovered();
    let Some(journal) = Journal::load(&volume.store())? else { return Ok(done) };
    done.extend(match journal.phase {
        // The same delta resumes from the stage, and any other discards it.
        Phase::Staging if can_go_on(volume, &journal) => None,
        Phase::Staging => Some(throw_away(volume, &journal)?),
        _ if journal.goes_back() => Some(take_back(volume, &journal, monitor)?),
        _ => Some(match go_on(volume, &journal, monitor) {
            Err(cause) if is_back(volume)? => format!("took back a commit: {}", cause.sentence()),
            done => done?,
        }),
    });
    Ok(done)
}

/// Finishes a commit. If that fails and there is a way back, restores the old tree.
pub(crate) fn go_on(volume: &mut LockedVolume, journal: &Journal, monitor: &Monitor) -> Result<String> {
    volume.unseal()?;
    if journal.phase != Phase::Applied {
        expect_intact(volume, journal)?;
        let mut incoming = Incoming::open(volume.root(), &volume.store(), journal.clone(), monitor)?;
        commit(volume, &mut incoming, monitor)?;
    }
    finish(volume, &journal.snapshot, journal.base, monitor)?;
    volume.seal()?;
    Ok(format!("finished the commit of snapshot {}", journal.snapshot.name))
}

/// Commits what is staged. If the tree goes back instead, its snapshot is taken again, because files that the
/// commit has touched have other change times.
pub(crate) fn commit(
    volume: &mut LockedVolume,
    incoming: &mut Incoming<'_>,
    monitor: &Monitor,
) -> Result<()> {
    let base = incoming.base();
    incoming.commit_or(&mut |back| take_base_again(volume, base, back, monitor))
}

fn take_base_again(
    volume: &mut LockedVolume,
    base: Option<Uuid>,
    back: Applied,
    monitor: &Monitor,
) -> Result<()> {
    let base = base.filter(|base| volume.has_table(*base));
    let base = volume.snapshots()?.into_iter().find(|snapshot| Some(snapshot.id) == base);
    let Some(base) = base else { return Ok(()) };
    note_doubtful(volume, base.id, &back)?;
    let back = as_taken_again(volume, base.id, back)?;
    let delta = Delta { base: base.id, manifest: back.manifest, seen: back.seen };
    volume.take_again(&base, Ok(delta), monitor)
}

/// Files that were not what the table of the base says when they were checked. They are noted in the stage
/// before that table is taken again with the times that a commit has left.
fn note_doubtful(volume: &Volume, base: Uuid, back: &Applied) -> Result<()> {
    let noted = stage_of(back).join(DOUBTFUL);
    if noted.is_there() {
        return Ok(());
    }
    let rows = volume.objects_of(base, &inos_of(back))?;
    let is_other = |seen: &&Seen| rows.get(&seen.ino).is_some_and(|(_, ctime)| *ctime != seen.ctime);
    let found = back.seen.iter().flatten().filter(is_other).flat_map(|seen| seen.ino.to_le_bytes());
    let bytes: Vec<u8> = found.collect();
    stage_of(back).write_file(DOUBTFUL, &bytes).context("write", noted.show())
}

/// The table of the base may have been taken again since the files were checked: those that were right then
/// are what it says now.
fn as_taken_again(volume: &Volume, base: Uuid, mut applied: Applied) -> Result<Applied> {
    let noted = stage_of(&applied).join(DOUBTFUL);
    let Some(bytes) = noted.read_if_there().context("read", noted.show())? else { return Ok(applied) };
    let doubtful: BTreeSet<u64> = bytes.as_chunks().0.iter().map(|ino| u64::from_le_bytes(*ino)).collect();
    let rows = volume.objects_of(base, &inos_of(&applied))?;
    for seen in applied.seen.iter_mut().flatten().filter(|seen| !doubtful.contains(&seen.ino)) {
        seen.ctime = rows.get(&seen.ino).map_or(seen.ctime, |(_, ctime)| *ctime);
    }
    Ok(applied)
}

fn stage_of(applied: &Applied) -> Spot {
    applied.manifest.above().unwrap_or_else(|| applied.manifest.clone())
}

fn inos_of(applied: &Applied) -> BTreeSet<u64> {
    applied.seen.iter().flatten().map(|seen| seen.ino).collect()
}

/// After a commit that failed: whether its tree went back, and nothing of it is left.
pub(crate) fn is_back(volume: &mut LockedVolume) -> Result<bool> {
    let back = Journal::load(&volume.store())?.filter(|journal| journal.phase == Phase::Staging);
    if let Some(journal) = &back {
        give_up(volume.root(), &volume.store(), journal)?;
    }
    volume.seal()?;
    Ok(back.is_some())
}

pub(crate) fn take_back(volume: &mut LockedVolume, journal: &Journal, monitor: &Monitor) -> Result<String> {
    volume.unseal()?;
    expect_intact(volume, journal)?;
    let mut incoming = Incoming::open(volume.root(), &volume.store(), journal.clone(), monitor)?;
    let undone = incoming.undo_and(&mut |back| take_base_again(volume, journal.base, back, monitor));
    drop(incoming);
    if undone.is_ok() {
        give_up(volume.root(), &volume.store(), journal)?;
    }
    volume.seal()?;
    undone?;
    Ok(format!("took back the commit of snapshot {}", journal.snapshot.name))
}

pub(crate) fn throw_away(volume: &mut LockedVolume, journal: &Journal) -> Result<String> {
    volume.unseal()?;
    give_up(volume.root(), &volume.store(), journal)?;
    volume.seal()?;
    Ok(format!("discarded the staged part of snapshot {}", journal.snapshot.name))
}

/// The unfinished work of an interrupted command.
pub(crate) fn unfinished(volume: &Volume) -> Result<Option<Unfinished>> {
    Ok(Journal::load(&volume.store())?.map(|journal| Unfinished {
        phase: phase_name(journal.phase).to_owned(),
        can_go_back: journal.can_go_back() || journal.phase == Phase::Staging,
        snapshot: journal.snapshot.name,
    }))
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Staging => "staging",
        Phase::Committing => "committing",
        Phase::Detached => "detached",
        Phase::Settling => "settling",
        Phase::Applied => "applied",
        Phase::Undoing => "undoing",
        Phase::Returning => "returning",
    }
}

/// Whether data of an interrupted delta has arrived and the same delta can be recognised. A delta between the
/// volume's own snapshots is made anew.
pub(crate) fn can_go_on(volume: &Volume, journal: &Journal) -> bool {
    let is_own = volume.info().role == Role::Primary || has_snapshot(volume, journal.snapshot.id);
    !is_own
        && journal.manifest.is_some()
        && has_received(volume.root(), journal.snapshot.id)
        && is_intact(volume.root(), journal).unwrap_or(false)
}

/// A commit continues only if its stage is intact.
fn expect_intact(volume: &Volume, journal: &Journal) -> Result<()> {
    if is_intact(volume.root(), journal)? {
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

/// The tree is the new one: takes the standby's snapshot, removes the stage, and closes the journal.
pub(crate) fn finish(
    volume: &mut LockedVolume,
    info: &SnapshotInfo,
    base: Option<Uuid>,
    monitor: &Monitor,
) -> Result<SnapshotInfo> {
    monitor.start(Stage::StandbySnapshot, 0);
    match volume.info().provider {
        // Otherwise the stage would be in the snapshot.
        Provider::Btrfs => discard(volume.root(), info.id)?,
        // The stage is needed to make the next table, and then removed, because it holds further names of
        // files.
        Provider::Pool => clear(volume.root(), info.id)?,
    }
    let taken = volume.snapshots()?.into_iter().find(|s| s.id == info.id);
    let taken = match taken {
        Some(taken) => {
            went_back(volume, &taken, base, monitor)?;
            taken
        }
        None => take(volume, info, base, monitor)?,
    };
    let step = |name| fault::step(name).context("finish the commit in", volume.path());
    step("commit.snapshot")?;
    discard(volume.root(), info.id)?;
    step("commit.discarded")?;
    Journal::remove(&volume.store())?;
    step("commit.cleaned")?;
    Ok(taken)
}

fn has_snapshot(volume: &Volume, id: Uuid) -> bool {
    volume.snapshots().is_ok_and(|snapshots| snapshots.iter().any(|s| s.id == id))
}

/// Takes a snapshot again after the tree was restored to it from one that was kept aside, or was repaired.
fn went_back(
    volume: &mut LockedVolume,
    to: &SnapshotInfo,
    from: Option<Uuid>,
    monitor: &Monitor,
) -> Result<()> {
    let is_other = volume.snapshots()?.iter().any(|s| Some(s.id) == from && (s.aside || s.id == to.id));
    let (true, Some(from)) = (is_other, from) else { return Ok(()) };
    let delta = match volume.info().provider {
        Provider::Btrfs => Err("its snapshots are no tables"),
        Provider::Pool => how(volume, to, from)?,
    };
    volume.take_again(to, delta, monitor)
}

/// How the tree came from `base`, according to the stage.
fn how(volume: &Volume, to: &SnapshotInfo, base: Uuid) -> Result<Result<Delta, &'static str>> {
    let Some(applied) = applied(volume.root(), to.id)? else {
        return Ok(Err("the stage does not say what was applied"));
    };
    match Journal::load(&volume.store())? {
        Some(journal) if !is_intact(volume.root(), &journal)? => Ok(Err("what the stage says was damaged")),
        _ => {
            let applied = as_taken_again(volume, base, applied)?;
            Ok(Ok(Delta { base, manifest: applied.manifest, seen: applied.seen }))
        }
    }
}

/// Uses the last table and the stage if they exist.
fn take(
    volume: &mut LockedVolume,
    info: &SnapshotInfo,
    base: Option<Uuid>,
    monitor: &Monitor,
) -> Result<SnapshotInfo> {
    let snapshots = volume.snapshots()?;
    // If the base was deleted by hand, nothing is known about the tree before.
    let base = base.filter(|id| snapshots.iter().all(|s| s.id != *id || volume.missing(s).is_none()));
    let (Some(base), Provider::Pool) = (base, volume.info().provider) else {
        return volume.take(Request::Same(info.clone()), monitor);
    };
    let delta = how(volume, info, base)?;
    volume.follow(info.clone(), delta, monitor)
}
