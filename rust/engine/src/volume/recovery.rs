//! Healing what an interrupted command left; the other volume is never needed for it.

use crate::delta::staging::give_up;
use crate::report::volumes::Unfinished;
use snapsync_apply::{Applied, Incoming, Journal, Phase, applied, clear, discard, has_received, is_intact};
use snapsync_model::{Context, Error, Monitor, Provider, Result, Role, SnapshotInfo, Stage};
use snapsync_snapshot::{Delta, LockedVolume, Request, Volume};
use snapsync_sys::fault;
use uuid::Uuid;

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
        // The same delta goes on from what is staged, and any other discards it.
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

/// Finishes a commit. Where that cannot be, and there is a way back, the tree is what it was.
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

/// Commits what is staged. Where the tree goes back instead, the snapshot that it is again is taken again: what
/// the commit has touched has other change times.
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
    let delta = Delta { base: base.id, manifest: back.manifest, seen: back.seen };
    volume.take_again(&base, Ok(delta), monitor)
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

/// What an interrupted command has left.
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

/// Data of a cut delta has arrived, and the same delta can be told. What a volume makes of its own snapshots
/// is made anew.
pub(crate) fn can_go_on(volume: &Volume, journal: &Journal) -> bool {
    let is_own = volume.info().role == Role::Primary || has_snapshot(volume, journal.snapshot.id);
    !is_own
        && journal.manifest.is_some()
        && has_received(volume.root(), journal.snapshot.id)
        && is_intact(volume.root(), journal).unwrap_or(false)
}

/// A commit goes on from what the stage says, or not at all.
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

/// The tree is the new one: takes the standby's snapshot, clears the stage and closes the journal.
pub(crate) fn finish(
    volume: &mut LockedVolume,
    info: &SnapshotInfo,
    base: Option<Uuid>,
    monitor: &Monitor,
) -> Result<SnapshotInfo> {
    monitor.start(Stage::StandbySnapshot, 0);
    match volume.info().provider {
        // The stage would be in the snapshot.
        Provider::Btrfs => discard(volume.root(), info.id)?,
        // The next table is made with its help, and counts names.
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

/// Where the tree went back to a snapshot from one that was kept aside, or was mended, it is taken again.
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

/// What the stage tells of how the tree came from `base`.
fn how(volume: &Volume, to: &SnapshotInfo, base: Uuid) -> Result<Result<Delta, &'static str>> {
    let Some(applied) = applied(volume.root(), to.id)? else {
        return Ok(Err("the stage does not say what was applied"));
    };
    match Journal::load(&volume.store())? {
        Some(journal) if !is_intact(volume.root(), &journal)? => Ok(Err("what the stage says was damaged")),
        _ => Ok(Ok(Delta { base, manifest: applied.manifest, seen: applied.seen })),
    }
}

/// From the last table and the stage where there are such.
fn take(
    volume: &mut LockedVolume,
    info: &SnapshotInfo,
    base: Option<Uuid>,
    monitor: &Monitor,
) -> Result<SnapshotInfo> {
    let snapshots = volume.snapshots()?;
    // One that was deleted by hand tells nothing of how the tree was.
    let base = base.filter(|id| snapshots.iter().all(|s| s.id != *id || volume.missing(s).is_none()));
    let (Some(base), Provider::Pool) = (base, volume.info().provider) else {
        return volume.take(Request::Same(info.clone()), monitor);
    };
    let delta = how(volume, info, base)?;
    volume.follow(info.clone(), delta, monitor)
}
