//! Recovers from interrupted commands, without needing the other volume.

use crate::delta::staging::give_up;
use crate::report::volumes::Unfinished;
use snapsync_apply::{
    Applied, Incoming, Journal, Phase, Returned, applied, clear, discard, has_received, is_intact, successors,
};
use snapsync_model::{Context, Error, Monitor, Provider, Result, Role, SnapshotInfo, Stage};
use snapsync_snapshot::{Delta, LockedVolume, Request, Volume};
use snapsync_sys::{Spot, Stat, fault};
use std::collections::{BTreeSet, HashMap};
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

/// Commits what is staged. If the tree goes back instead, its table is corrected, because files
/// that the commit has touched have other change times.
pub(crate) fn commit(
    volume: &mut LockedVolume,
    incoming: &mut Incoming<'_>,
    monitor: &Monitor,
) -> Result<()> {
    let base = incoming.base();
    incoming.commit_or(&mut |stage, back| correct(volume, base, stage, &back, monitor))
}

fn correct(
    volume: &mut LockedVolume,
    base: Option<Uuid>,
    stage: &Spot,
    back: &[Returned],
    monitor: &Monitor,
) -> Result<()> {
    let base = base.filter(|base| volume.has_table(*base));
    let base = base.map(|base| volume.snapshot(base)).transpose()?.flatten();
    let Some(base) = base else { return Ok(()) };
    note_doubtful(volume, base.id, stage, back)?;
    let doubtful = doubtful(stage)?.unwrap_or_default();
    let files: HashMap<u64, Stat> =
        back.iter().filter(|file| !doubtful.contains(&file.ino)).map(|file| (file.ino, file.now)).collect();
    volume.correct_times(&base, &files, monitor)?;
    // The base may be one that was kept aside. Reads go by the newest of the line.
    let newest = volume.line()?.pop().filter(|newest| newest.id != base.id && volume.has_table(newest.id));
    let Some(newest) = newest else { return Ok(()) };
    let inos = files.keys().copied().collect();
    let (rows, others) = (volume.objects_of(base.id, &inos)?, volume.objects_of(newest.id, &inos)?);
    let object = |rows: &HashMap<u64, (u64, i64)>, ino: &u64| rows.get(ino).map(|(object, _)| *object);
    let is_same = |ino: &u64| object(&rows, ino).is_some() && object(&rows, ino) == object(&others, ino);
    let same = files.into_iter().filter(|(ino, _)| is_same(ino)).collect();
    volume.correct_times(&newest, &same, monitor)
}

/// Files that were not what the table of the base says when they were checked. They are noted in the stage
/// before that table is corrected: later its times are those that a commit has left.
fn note_doubtful(volume: &Volume, base: Uuid, stage: &Spot, back: &[Returned]) -> Result<()> {
    if doubtful(stage)?.is_some() {
        return Ok(());
    }
    let rows = volume.objects_of(base, &back.iter().map(|file| file.ino).collect())?;
    let is_other = |file: &&Returned| rows.get(&file.ino).is_some_and(|(_, ctime)| *ctime != file.was);
    let bytes: Vec<u8> = back.iter().filter(is_other).flat_map(|file| file.ino.to_le_bytes()).collect();
    stage.write_file(DOUBTFUL, &bytes).context("write", stage.join(DOUBTFUL).show())
}

/// None where the table of the base was not corrected.
fn doubtful(stage: &Spot) -> Result<Option<BTreeSet<u64>>> {
    let noted = stage.join(DOUBTFUL);
    let bytes = noted.read_if_there().context("read", noted.show())?;
    Ok(bytes.map(|bytes| bytes.as_chunks().0.iter().map(|ino| u64::from_le_bytes(*ino)).collect()))
}

/// The table of the base may have been corrected since the files were checked: those that were right then are
/// what it says now.
fn as_corrected(volume: &Volume, base: Uuid, mut applied: Applied) -> Result<Applied> {
    let Some(stage) = applied.manifest.above() else { return Ok(applied) };
    let Some(doubtful) = doubtful(&stage)? else { return Ok(applied) };
    let inos = applied.seen.iter().flatten().map(|seen| seen.ino).collect();
    let rows = volume.objects_of(base, &inos)?;
    for seen in applied.seen.iter_mut().flatten().filter(|seen| !doubtful.contains(&seen.ino)) {
        seen.ctime = rows.get(&seen.ino).map_or(seen.ctime, |(_, ctime)| *ctime);
    }
    Ok(applied)
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
    let undone = incoming.undo_and(&mut |stage, back| correct(volume, journal.base, stage, &back, monitor));
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
    let taken = match volume.snapshot(info.id)? {
        Some(taken) => {
            went_back(volume, &taken, base, monitor)?;
            taken
        }
        None => take(volume, info, base, monitor)?,
    };
    let path = volume.path().to_path_buf();
    let step = |name| fault::step(name).context("finish the commit in", &path);
    step("commit.snapshot")?;
    discard(volume.root(), info.id)?;
    step("commit.discarded")?;
    if let Some(own) = Journal::load(&volume.store())?.and_then(|journal| journal.own) {
        volume.set_accounts(own.accounts)?;
        step("commit.owned")?;
    }
    Journal::remove(&volume.store())?;
    step("commit.cleaned")?;
    Ok(taken)
}

fn has_snapshot(volume: &Volume, id: Uuid) -> bool {
    volume.snapshot(id).is_ok_and(|snapshot| snapshot.is_some())
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
            let applied = as_corrected(volume, base, applied)?;
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
    let successors = successors(volume.root(), info.id)?;
    volume.follow(info.clone(), delta, successors, monitor)
}
