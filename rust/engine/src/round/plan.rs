//! What a round would do, found by looking alone: no lock is taken, nothing is written on either side.

use crate::accounts::leaving::Leaving;
use crate::delta::became;
use crate::delta::nested;
use crate::delta::outgoing::{count, header};
use crate::delta::sides::Sides;
use crate::options::{Options, Terms};
use crate::report::rounds::{Planned, PlannedChange};
use crate::round::agreement::{Agreement, Purpose, agree, can_go_on, common};
use crate::round::guard;
use crate::round::rights::Rights;
use crate::round::sizes::{size_after, without};
use crate::round::steps::{Outlook, Prospect, Refusal, StandbyEnd, StandbyInfo};
use crate::volume::lost;
use crate::volume::now::since;
use snapsync_manifest::{ManifestHeader, ManifestReader};
use snapsync_model::{
    AccountNames, Context, Counts, End, Error, Guarded, Inode, Monitor, Naming, Provider, Result,
    SnapshotInfo, Stage, Subset,
};
use snapsync_snapshot::Volume;
use snapsync_sys::{Named, Root};
use snapsync_walk::Tree;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

/// The changes that a round from `source` would bring to `standby`; with `paths` each of them.
pub(crate) fn plan(
    source: &Root,
    standby: &mut dyn StandbyEnd,
    options: &Options,
    paths: bool,
    monitor: &Monitor,
) -> Result<Planned> {
    let started = Instant::now();
    let Agreement { primary, options, subset, looked } =
        agree(source, standby, options, Rights::OWNER, Purpose::Plan)?;
    tell_what_is_left_out(&options, &looked, monitor);
    monitor.start(Stage::Compare, 0);
    let base = match &primary {
        Some(volume) => base_of(volume, &looked, &*standby)?,
        None => None,
    };
    let base = base.as_ref();
    let lost = lost_of(primary.as_ref(), base, &looked, monitor)?;
    let (sides, snapshot) = compared(source, primary.as_ref(), (base, &looked), &options, subset, monitor)?;
    let sides = sides.with_all_of(&unlike(primary.as_ref(), &looked))?.without(End::Base, &lost)?;
    if base.is_some() && primary.as_ref().is_some_and(Volume::is_light) {
        monitor
            .note("the primary keeps no old bytes: what is told of changed files is the most that there is");
    }
    let scratch = snapsync_sys::scratch()?;
    let manifest = scratch.path().join("manifest.arrow");
    let head =
        primary.as_ref().map_or_else(ManifestHeader::default, |volume| header(volume, base, &snapshot));
    let mut leaving = match &primary {
        Some(volume) if options.snap.is_some() => Leaving::of(volume, &snapshot),
        volume => volume.as_ref().map(Leaving::of_tree).unwrap_or_default(),
    };
    let counts = sides.write_delta(None, &manifest, &head, &mut leaving, monitor)?;
    let there = base.map(|base| without(base, &lost));
    let snapshot = sized(snapshot, there.as_ref(), &sides, &counts)?;
    let judging =
        Judging { options: &options, base, snapshot: &snapshot, counts: &counts, target: &looked.path };
    let (guard, refused) = judging.judge(source, &manifest, monitor)?;
    let (outlook, refused_there) = foreseen(
        standby,
        (&manifest, &snapshot.subset),
        (&leaving, leaving.names(monitor).as_ref()),
        &options,
    )?;
    let refused = refused.or(refused_there);
    let (what, advice) = refused.map(|refused| (refused.what, refused.advice)).unzip();
    Ok(Planned {
        verb: "plan",
        source: source.path().to_path_buf(),
        target: looked.path.clone(),
        base: base.cloned(),
        unchanged: counts.rows == 0,
        changes: counts,
        data_bytes: counts.data_bytes,
        tree_bytes: snapshot.bytes.unwrap_or(0),
        tree_entries: snapshot.entries.unwrap_or(0),
        needed: outlook.as_ref().map(|outlook| outlook.bytes),
        needed_inodes: outlook.as_ref().map(|outlook| outlook.inodes),
        available: looked.available,
        losses: outlook.and_then(|outlook| outlook.losses),
        guard,
        refused: what,
        advice,
        paths: paths.then(|| listed(&manifest)).transpose()?,
        notes: monitor.take_notes(),
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn tell_what_is_left_out(options: &Options, looked: &StandbyInfo, monitor: &Monitor) {
    if looked.pending.is_some() {
        monitor.note("a transfer was cut: the round finishes that first, and sends less than is told here");
    }
    if !options.taking.is_empty() {
        monitor.note(
            "--take is not run: what is told is of the tree as it is, and not of the one that it makes",
        );
    }
}

/// What a guard judges, and what the primary itself refuses.
struct Judging<'a> {
    options: &'a Options,
    base: Option<&'a SnapshotInfo>,
    snapshot: &'a SnapshotInfo,
    counts: &'a Counts,
    target: &'a str,
}

impl Judging<'_> {
    fn judge(
        &self,
        source: &Root,
        manifest: &dyn Named,
        monitor: &Monitor,
    ) -> Result<(Option<Guarded>, Option<Refusal>)> {
        let tree = became::tell(source, manifest, self.options.strict, monitor);
        let tree = tree.and_then(|()| nested::check(source, &self.snapshot.subset, self.options));
        let mut refused = tree.err().map(Refusal::of).transpose()?;
        let Some((limits, base)) = self.options.guard.as_ref().zip(self.base) else {
            return Ok((None, refused));
        };
        let Some(judged) = guard::judge(limits, manifest, self.counts, (base, self.snapshot), true)? else {
            return Ok((None, refused));
        };
        let found = judged.found().clone();
        if let (None, Err(error)) = (&refused, judged.refuse(self.snapshot, self.target)) {
            refused = Some(Refusal::of(error)?);
        }
        Ok((Some(found), refused))
    }
}

/// What the standby would make of it; what it refuses is a part of the answer.
fn foreseen(
    standby: &mut dyn StandbyEnd,
    (manifest, subset): (&Path, &Subset),
    (leaving, names): (&Leaving, Option<&AccountNames>),
    options: &Options,
) -> Result<(Option<Outlook>, Option<Refusal>)> {
    // A standby may write other owners into its own.
    let scratch = snapsync_sys::scratch()?;
    let own = &scratch.path().join("manifest.arrow");
    std::fs::copy(manifest, own).context("copy", manifest)?;
    let by_name = leaving.is_by_name().then(Naming::default);
    let owners = options.owners.as_ref().or(by_name.as_ref());
    let terms = Terms { strict: options.strict, no_space_check: options.no_space_check };
    let (subset, spares) = (Some(subset), !options.keep.is_empty());
    match standby.foresee(Prospect { manifest: own, subset, names, owners, terms, spares }) {
        Ok(Some(mut outlook)) => {
            let refused = outlook.refused.take();
            Ok((Some(outlook), refused))
        }
        Ok(None) => Ok((None, None)),
        Err(error) => Ok((None, Some(Refusal::of(error)?))),
    }
}

fn listed(manifest: &dyn Named) -> Result<Vec<PlannedChange>> {
    let rows = ManifestReader::open(manifest)?;
    rows.filter_map(|row| row.map(|row| PlannedChange::of(&row)).transpose()).collect()
}

/// What the standby lacks of the base travels as if it were new.
fn lost_of(
    primary: Option<&Volume>,
    base: Option<&SnapshotInfo>,
    looked: &StandbyInfo,
    monitor: &Monitor,
) -> Result<Vec<Inode>> {
    match primary.zip(base) {
        Some((primary, base)) if !looked.lost.is_empty() => {
            lost::named(primary, base, &looked.lost.paths(), monitor)
        }
        _ => Ok(Vec::new()),
    }
}

/// The newest snapshot of the standby. One that does not tell it holds what the last round brought.
fn base_of(primary: &Volume, looked: &StandbyInfo, standby: &dyn StandbyEnd) -> Result<Option<SnapshotInfo>> {
    let base = match &looked.newest {
        Some(newest) => {
            let lacks = standby.lacks(&primary.path().display().to_string());
            Some(common(primary, newest, &looked.path, lacks)?)
        }
        None => looked
            .volume
            .and_then(|id| primary.standbys().get(&id))
            .map(|known| recorded(primary, known.snapshot, &looked.path))
            .transpose()?,
    };
    base.iter().try_for_each(|base| primary.expect_there(base))?;
    Ok(base)
}

fn recorded(primary: &Volume, snapshot: Uuid, target: &str) -> Result<SnapshotInfo> {
    primary.snapshot(snapshot)?.filter(|snapshot| !snapshot.aside).ok_or_else(|| {
        let source = primary.path().display();
        Error::refused(
            format!("{source} does not have the newest snapshot of {target}"),
            format!("`snapsync rejoin {target} {source}` goes back to an older one that both have"),
        )
    })
}

/// Files that were found to differ when they were read again, and travel whole.
fn unlike(primary: Option<&Volume>, looked: &StandbyInfo) -> BTreeSet<u64> {
    let known = primary.zip(looked.volume).and_then(|(primary, id)| primary.standbys().get(&id));
    let scrub = known.and_then(|standby| standby.scrub.clone());
    scrub.map(|scrub| scrub.pending.into_keys().collect()).unwrap_or_default()
}

/// The base, and the tree as it is or the snapshot that was asked for.
fn compared(
    source: &Root,
    primary: Option<&Volume>,
    (base, looked): (Option<&SnapshotInfo>, &StandbyInfo),
    options: &Options,
    asked: Option<Subset>,
    monitor: &Monitor,
) -> Result<(Sides, SnapshotInfo)> {
    if let (Some(volume), Some(name)) = (primary, &options.snap) {
        let snapshot = volume.find_snapshot(name)?;
        can_go_on(base, &snapshot, &looked.path)?;
        return Ok((Sides::of_volume(volume, base, &snapshot, monitor)?, snapshot));
    }
    let subset = asked.or_else(|| primary.map(|volume| volume.subset().clone())).unwrap_or_default();
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
    let sides = match primary.zip(base) {
        None => Sides::of_side(Box::new(Tree::of(source.underneath()?, &subset, monitor)?)),
        Some((volume, base)) => since(volume, base, source, &subset, monitor)?,
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
