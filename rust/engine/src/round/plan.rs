//! What a round would do, found by looking alone: no lock is taken, nothing is written on either side.

use crate::delta::nested;
use crate::delta::outgoing::{count, header};
use crate::delta::sides::Sides;
use crate::location::place::Place;
use crate::location::target;
use crate::options::Options;
use crate::report::rounds::Planned;
use crate::round::passing::passing_on;
use crate::round::rights::Rights;
use crate::round::sizes::size_after;
use crate::round::steps::{StandbyEnd, StandbyInfo};
use crate::round::{guard, known};
use crate::volume::standing::was_replaced;
use snapsync_manifest::ManifestHeader;
use snapsync_model::{Counts, Error, Monitor, Provider, Result, Role, SnapshotInfo, Stage, Standing, Subset};
use snapsync_snapshot::{Claim, Volume};
use snapsync_sys::Root;
use snapsync_walk::Tree;
use std::time::Instant;
use uuid::Uuid;

/// The changes that a round from `source` would bring to `standby`.
pub(crate) fn plan(
    source: &Root,
    standby: &mut dyn StandbyEnd,
    options: &Options,
    monitor: &Monitor,
) -> Result<Planned> {
    let started = Instant::now();
    let primary = target::feeding(source)?;
    let options = &match &primary {
        Some(volume) if volume.info().role == Role::Standby => passing_on(volume, options)?,
        _ => options.clone(),
    };
    let asked = Rights::OWNER.subset(options, source, primary.as_ref())?;
    let looked = standby.look(primary.as_ref().map(|volume| volume.info().lineage), true)?;
    expect_follower(primary.as_ref(), &looked)?;
    known::is_standby_of(&looked, source, primary.as_ref())?;
    if !options.new_standby {
        known::is_there(&looked, primary.as_ref())?;
    }
    looked.expect_reachable()?;
    if looked.pending.is_some() {
        monitor.note("a transfer was cut: the round finishes that first, and sends less than is told here");
    }
    monitor.start(Stage::Compare, 0);
    let base = primary.as_ref().map(|volume| base_of(volume, &looked)).transpose()?.flatten();
    let (sides, snapshot) = compared(source, primary.as_ref(), base.as_ref(), options, asked, monitor)?;
    if base.is_some() && primary.as_ref().is_some_and(Volume::is_light) {
        monitor
            .note("the primary keeps no old bytes: what is told of changed files is the most that there is");
    }
    let scratch = snapsync_sys::scratch()?;
    let manifest = scratch.path().join("manifest.arrow");
    let head = primary
        .as_ref()
        .map_or_else(ManifestHeader::default, |volume| header(volume, base.as_ref(), &snapshot));
    let counts = sides.write_manifest(&manifest, &head, monitor)?;
    let snapshot = sized(snapshot, base.as_ref(), &sides, &counts)?;
    let limits = options.guard.as_ref().zip(base.as_ref());
    let guarded = limits.map_or(Ok(()), |(limits, base)| {
        guard::check(limits, &manifest, &counts, (base, &snapshot), &looked.path)
    });
    let guarded = guarded.and_then(|()| nested::check(source, &snapshot.subset, options));
    let refused = match guarded {
        Ok(()) => None,
        Err(error) if error.exit_code() == 3 => Some(error.sentence()),
        Err(error) => return Err(error),
    };
    Ok(Planned {
        verb: "plan",
        source: source.path().to_path_buf(),
        target: looked.path,
        base,
        unchanged: counts.rows == 0,
        changes: counts,
        data_bytes: counts.data_bytes,
        tree_bytes: snapshot.bytes.unwrap_or(0),
        tree_entries: snapshot.entries.unwrap_or(0),
        available: looked.available,
        refused,
        notes: monitor.take_notes(),
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// As `known::fence`, which also records what the standby claims.
fn expect_follower(primary: Option<&Volume>, looked: &StandbyInfo) -> Result<()> {
    let Some((volume, epoch)) = primary.zip(looked.epoch) else { return Ok(()) };
    let info = volume.info();
    if looked.lineage != Some(info.lineage) || epoch <= info.epoch {
        return Ok(());
    }
    let standing = looked.promotions.standing(epoch, volume.promotions(), info.epoch);
    let at = jiff::Timestamp::now().to_string();
    Err(was_replaced(volume, &looked.path, &Claim { epoch, shown: standing == Standing::Shown, at }))
}

/// The newest snapshot of the standby. One that does not tell it holds what the last round brought.
fn base_of(primary: &Volume, looked: &StandbyInfo) -> Result<Option<SnapshotInfo>> {
    let recorded = || looked.volume.and_then(|id| primary.standbys().get(&id)).map(|known| known.snapshot);
    let Some(newest) = looked.newest.or_else(recorded) else { return Ok(None) };
    let common = primary.snapshot(newest)?.filter(|snapshot| !snapshot.aside);
    let base = common.ok_or_else(|| {
        let (source, target) = (primary.path().display(), &looked.path);
        Error::refused(
            format!("{source} does not have the newest snapshot of {target}"),
            format!("`snapsync rejoin {target} {source}` goes back to an older one that both have"),
        )
    })?;
    primary.expect_there(&base)?;
    Ok(Some(base))
}

/// The base, and the tree as it is or the snapshot that was asked for.
fn compared(
    source: &Root,
    primary: Option<&Volume>,
    base: Option<&SnapshotInfo>,
    options: &Options,
    asked: Option<Subset>,
    monitor: &Monitor,
) -> Result<(Sides, SnapshotInfo)> {
    if let (Some(volume), Some(name)) = (primary, &options.snap) {
        let snapshot = volume.find_snapshot(name)?;
        return Ok((Sides::of_volume(volume, base, &snapshot, monitor)?, snapshot));
    }
    let own = primary.map(|volume| volume.subset().clone()).unwrap_or_default();
    let subset = asked.unwrap_or_else(|| own.clone());
    let snapshot = SnapshotInfo {
        name: options.name.clone().unwrap_or_else(|| "of now".to_owned()),
        id: Uuid::nil(),
        sequence: 0,
        parent: base.map(|base| base.id),
        created: jiff::Timestamp::now().to_string(),
        provider: primary.map_or(Provider::Pool, |volume| volume.info().provider),
        entries: None,
        bytes: None,
        subset: subset.clone(),
        aside: false,
    };
    let walked = || Tree::of(source.underneath()?, &subset, monitor);
    let sides = match primary.zip(base) {
        None => Sides::of_side(Box::new(walked()?)),
        Some((volume, base)) if subset == own => {
            let held = Volume::open_in(volume.root().again()?)?;
            let held = Place::Snapshot(Box::new((held, base.clone())));
            Sides::of_places(&held, &Place::Directory(source.again()?), monitor)?
        }
        Some((volume, base)) => {
            Sides::between_sides(volume.open_snapshot(base, monitor)?, Box::new(walked()?))
        }
    };
    Ok((sides, snapshot))
}

fn sized(
    snapshot: SnapshotInfo,
    base: Option<&SnapshotInfo>,
    sides: &Sides,
    counts: &Counts,
) -> Result<SnapshotInfo> {
    let size = match snapshot.entries.zip(snapshot.bytes) {
        Some(known) => Some(known),
        None if sides.target_is_whole => Some(count(&*sides.target)?),
        None => size_after(base, counts),
    };
    let (entries, bytes) = size.unzip();
    Ok(SnapshotInfo { entries, bytes, ..snapshot })
}
