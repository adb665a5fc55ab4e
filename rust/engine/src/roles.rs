//! Who is primary: promote, rejoin, switch. Each is made of deeds that one volume does by itself, here or where it is.

use crate::back::{Turn, turn};
use crate::drift::{self, Drift};
use crate::known;
use crate::place::{existing_directory, open_directory};
use crate::recover::{give_up, recover};
use crate::remote::{Address, Reach, perform_there};
use crate::report::{Demoted, Followed, Preview, Promoted, Rejoined, Switched};
use crate::sync::STRICT;
use crate::sync::{Options, sync};
use crate::{Care, Travel};
use serde::{Deserialize, Serialize};
use snapsync_apply::Journal;
use snapsync_model::{Counts, Error, Monitor, Promotions, Result, Role, SnapshotInfo, Stage, VolumeInfo};
use snapsync_snapshot::{Request, Standby, Volume};
use snapsync_sys::{Root, fault};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use uuid::Uuid;

/// What becomes of changes that were made to a standby by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDrift {
    #[default]
    Refuse,
    /// They are kept as a snapshot, and the tree goes back.
    Discard,
    /// The tree goes on as it is.
    Accept,
}

/// What one volume can be asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Deed {
    Describe,
    /// Go back to the newest of these snapshots, and become a standby in this epoch.
    Follow {
        epoch: u64,
        #[serde(default)]
        promotions: Promotions,
        line: Vec<Uuid>,
    },
    /// Become a standby if the tree still holds this snapshot.
    Demote {
        newest: Uuid,
    },
    /// Become the primary of a new epoch, which knows these standbys.
    Promote {
        name: Option<String>,
        on_drift: OnDrift,
        standbys: BTreeMap<Uuid, Standby>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Described {
    volume: VolumeInfo,
    line: Vec<SnapshotInfo>,
    #[serde(default)]
    promotions: Promotions,
    standbys: BTreeMap<Uuid, Standby>,
}

/// What came of a deed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Described(Box<Described>),
    Followed(Box<Followed>),
    Demoted(Box<Demoted>),
    Promoted(Box<Promoted>),
}

impl Outcome {
    /// Whom a primary feeds is not for everybody who may read it.
    pub(crate) fn without_standbys(mut self) -> Outcome {
        if let Outcome::Described(described) = &mut self {
            described.standbys.clear();
        }
        self
    }
}

/// Does a deed with a volume on this machine.
pub(crate) fn perform(path: &Path, deed: Deed, monitor: &Monitor) -> Result<Outcome> {
    perform_in(open_directory(path)?, deed, monitor)
}

/// The same in a directory that is open.
pub(crate) fn perform_in(root: Root, deed: Deed, monitor: &Monitor) -> Result<Outcome> {
    let mut volume = Volume::open_in(root)?;
    if let Deed::Describe = deed {
        let (info, line) = (shown(&volume), volume.line()?);
        let (standbys, promotions) = (volume.standbys().clone(), volume.promotions().clone());
        return Ok(Outcome::Described(Box::new(Described { volume: info, line, promotions, standbys })));
    }
    let _lock = volume.lock()?;
    volume.reload()?;
    match deed {
        Deed::Describe => unreachable!("answered without the lock"),
        Deed::Follow { epoch, promotions, line } => follow(&mut volume, epoch, promotions, &line, monitor)
            .map(|followed| Outcome::Followed(Box::new(followed))),
        Deed::Demote { newest } => {
            demote(&mut volume, newest, monitor).map(|demoted| Outcome::Demoted(Box::new(demoted)))
        }
        Deed::Promote { name, on_drift, standbys } => {
            promote_volume(&mut volume, name, on_drift, standbys, monitor)
                .map(|promoted| Outcome::Promoted(Box::new(promoted)))
        }
    }
}

/// Paths that are not text would not come through a channel.
fn shown(volume: &Volume) -> VolumeInfo {
    let mut info = volume.info();
    info.path = info.path.to_string_lossy().into_owned().into();
    info
}

/// Finishes or throws away what an earlier command left, also what could go on.
fn recover_wholly(volume: &mut Volume, monitor: &Monitor) -> Result<Vec<String>> {
    let mut done = recover(volume, monitor)?;
    if let Some(journal) = Journal::load(&volume.store())? {
        volume.unseal()?;
        give_up(volume.root(), &volume.store(), &journal)?;
        done.push(format!("discarded the part of snapshot {} that had arrived", journal.snapshot.name));
    }
    Ok(done)
}

fn newest_of(volume: &Volume) -> Result<SnapshotInfo> {
    volume.line()?.pop().ok_or_else(|| {
        Error::refused(
            format!("{} has no snapshot yet", volume.path().display()),
            "there is nothing in it to go on from: sync to it first",
        )
    })
}

// --- deeds ------------------------------------------------------------------------------------

fn promote_volume(
    volume: &mut Volume,
    name: Option<String>,
    on_drift: OnDrift,
    standbys: BTreeMap<Uuid, Standby>,
    monitor: &Monitor,
) -> Result<Promoted> {
    if volume.info().role == Role::Primary {
        return Err(Error::refused(
            format!("{} is a primary already, of epoch {}", volume.path().display(), volume.info().epoch),
            "to make it the standby of another, use `snapsync rejoin`",
        ));
    }
    if let Some(name) = &name {
        snapsync_snapshot::name_is_free(name, &volume.snapshots()?)?;
    }
    let recovered = recover_wholly(volume, monitor)?;
    let newest = newest_of(volume)?;
    let set_aside = match (drift::find(volume, &newest, "drift-", monitor)?, on_drift) {
        (None, _) => None,
        (Some(drift), OnDrift::Refuse) => return drift.refuse(volume, CHOOSE),
        (Some(drift), OnDrift::Discard) => Some(drift.discard(volume, &newest, monitor)?.0),
        (Some(drift), OnDrift::Accept) => {
            monitor.note("the standby was changed by hand, and goes on with those changes");
            volume.drop_probe(&drift.probe)?;
            None
        }
    };
    fault::point("promote.checked");
    volume.become_primary(newest.id)?;
    fault::point("promote.raised");
    standbys.into_iter().try_for_each(|(id, standby)| volume.remember_standby(id, standby))?;
    monitor.start(Stage::Snapshot, 0);
    let snapshot = volume.take(Request::New { name, subset: None }, monitor)?;
    let notes = monitor.take_notes();
    Ok(Promoted {
        verb: "promote".into(),
        volume: shown(volume),
        newest,
        snapshot,
        set_aside,
        recovered,
        notes,
    })
}

const CHOOSE: &str =
    "--discard-drift keeps them as a snapshot and goes back first; --accept-drift goes on with them";

fn demote(volume: &mut Volume, newest: Uuid, monitor: &Monitor) -> Result<Demoted> {
    recover_wholly(volume, monitor)?;
    volume.expect_primary("switch from")?;
    let last = newest_of(volume)?;
    let drift = drift::find(volume, &last, "left-", monitor)?;
    let is_still = last.id == newest && drift.is_none();
    drift.map_or(Ok(()), |drift| volume.drop_probe(&drift.probe))?;
    if is_still {
        let epoch = volume.info().epoch;
        volume.become_standby(epoch, volume.promotions().clone())?;
        fault::point("switch.demoted");
    }
    Ok(Demoted { volume: shown(volume), done: is_still })
}

/// Which of two volumes goes on is for people to say: one that was promoted apart is followed like any other.
fn follow(
    volume: &mut Volume,
    epoch: u64,
    promotions: Promotions,
    theirs: &[Uuid],
    monitor: &Monitor,
) -> Result<Followed> {
    if epoch < volume.info().epoch || !promotions.lead_to(epoch) {
        return Err(Error::refused(
            format!(
                "{} is of epoch {}, and cannot follow a primary whose promotions lead to none that is later",
                volume.path().display(),
                volume.info().epoch
            ),
            "the one with the higher epoch goes on",
        ));
    }
    let recovered = recover_wholly(volume, monitor)?;
    let (common, after) = common(volume, theirs)?;
    let newest = after.last().unwrap_or(&common).clone();
    let drift = drift::find(volume, &newest, "left-", monitor)?;
    let mut left = after.clone();
    let mut now = newest;
    if let Some(Drift { probe, .. }) = &drift {
        volume.keep(probe)?;
        left.push(probe.clone());
        now = probe.clone();
    }
    after.iter().try_for_each(|snapshot| volume.set_aside(snapshot))?;
    let mut changes = Counts::default();
    if !left.is_empty() {
        let back = Turn { base: &now, to: &common, result: &common, terms: STRICT };
        changes = turn(volume, &back, monitor)?.counts;
    }
    fault::point("rejoin.back");
    volume.become_standby(epoch, promotions)?;
    volume.seal()?;
    fault::point("rejoin.standby");
    left.iter_mut().for_each(|snapshot| snapshot.aside = true);
    Ok(Followed { volume: shown(volume), common, left, changes, recovered, notes: monitor.take_notes() })
}

/// The newest snapshot of the line that another volume has too, and those after it.
fn common(volume: &Volume, theirs: &[Uuid]) -> Result<(SnapshotInfo, Vec<SnapshotInfo>)> {
    let mut line = volume.line()?;
    let at = line.iter().rposition(|snapshot| theirs.contains(&snapshot.id)).ok_or_else(|| {
        Error::refused(
            format!("{} has no snapshot in common with the new primary", volume.path().display()),
            "only a new standby can follow: sync to an empty target",
        )
    })?;
    let after = line.split_off(at + 1);
    line.pop().map(|common| (common, after)).ok_or_else(|| Error::failed("there is no such snapshot", ""))
}

// --- verbs ------------------------------------------------------------------------------------

/// A volume, wherever it is.
enum End {
    Here(PathBuf),
    There(Address),
}

impl End {
    fn parse(path: &Path) -> Result<End> {
        Ok(match Address::parse(path)? {
            Some(address) => End::There(address),
            None => End::Here(existing_directory(path)?),
        })
    }

    fn perform(&self, deed: Deed, reach: &Reach, monitor: &Monitor) -> Result<Outcome> {
        match self {
            End::Here(path) => perform(path, deed, monitor),
            End::There(address) => perform_there(address, deed, reach, monitor),
        }
    }

    fn describe(&self, reach: &Reach, monitor: &Monitor) -> Result<Described> {
        match self.perform(Deed::Describe, reach, monitor)? {
            Outcome::Described(described) => Ok(*described),
            other => Err(strange(&other)),
        }
    }

    /// As it is named from here.
    fn path(&self) -> PathBuf {
        match self {
            End::Here(path) => path.clone(),
            End::There(address) => address.show().into(),
        }
    }
}

fn strange(outcome: &Outcome) -> Error {
    Error::integrity(
        format!("the other end did something else than it was asked: {outcome:?}"),
        "use the same snapsync on both sides",
    )
}

/// Makes a standby the primary.
pub fn promote(path: &Path, name: Option<String>, on_drift: OnDrift, monitor: &Monitor) -> Result<Promoted> {
    match perform(path, Deed::Promote { name, on_drift, standbys: BTreeMap::new() }, monitor)? {
        Outcome::Promoted(promoted) => Ok(*promoted),
        other => Err(strange(&other)),
    }
}

/// Makes `old` a standby of `new`: what it has of its own is kept as snapshots, it goes back to the newest snapshot
/// they have in common, and gets all that `new` has since.
pub fn rejoin(old: &Path, new: &Path, travel: &Travel, reach: &Reach, monitor: &Monitor) -> Result<Rejoined> {
    let started = Instant::now();
    let (old_end, new_end) = ends(old, new)?;
    let theirs = new_end.describe(reach, monitor)?;
    let ours = old_end.describe(reach, monitor)?;
    can_follow(&old_end.path(), &ours.volume, &new_end.path(), &theirs.volume)?;
    let line = theirs.line.iter().map(|snapshot| snapshot.id).collect();
    let (epoch, promotions) = (theirs.volume.epoch, theirs.promotions);
    let followed = match old_end.perform(Deed::Follow { epoch, promotions, line }, reach, monitor)? {
        Outcome::Followed(followed) => *followed,
        other => return Err(strange(&other)),
    };
    let round = sync(new, old, &Options::default(), travel, reach, monitor)?;
    let mut notes = followed.notes;
    notes.extend(monitor.take_notes());
    Ok(Rejoined {
        verb: "rejoin",
        common: followed.common,
        left: followed.left,
        back: followed.changes,
        recovered: followed.recovered,
        notes,
        round,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn ends(one: &Path, other: &Path) -> Result<(End, End)> {
    match (End::parse(one)?, End::parse(other)?) {
        (End::There(_), End::There(_)) => {
            Err(Error::usage("both volumes are on other machines", "run snapsync on one of the two"))
        }
        both => Ok(both),
    }
}

fn same_lineage(a: (&Path, &VolumeInfo), b: (&Path, &VolumeInfo)) -> Result<()> {
    if a.1.id == b.1.id {
        let what = format!("{} and {} are one volume", a.0.display(), b.0.display());
        return Err(Error::usage(what, "name two"));
    }
    if a.1.lineage == b.1.lineage {
        return Ok(());
    }
    Err(Error::refused(
        format!("{} and {} never were primary and standby of each other", a.0.display(), b.0.display()),
        "name two volumes of one lineage: `snapsync status` shows it",
    ))
}

fn can_follow(old: &Path, ours: &VolumeInfo, new: &Path, theirs: &VolumeInfo) -> Result<()> {
    same_lineage((old, ours), (new, theirs))?;
    if theirs.role != Role::Primary {
        return Err(Error::refused(
            format!("{} is a standby: nobody can follow it", new.display()),
            "promote it first, or name the primary",
        ));
    }
    if ours.epoch > theirs.epoch {
        return Err(Error::refused(
            format!(
                "{} is of epoch {}, and {} only of epoch {}",
                old.display(),
                ours.epoch,
                new.display(),
                theirs.epoch
            ),
            "the one with the higher epoch goes on: name them the other way round",
        ));
    }
    Ok(())
}

/// What `old` would leave behind if it followed `new`, written to the manifest `output`. Nothing changes.
pub fn rejoin_preview(
    old: &Path,
    new: &Path,
    output: &Path,
    reach: &Reach,
    monitor: &Monitor,
) -> Result<Preview> {
    let (old_end, new_end) = ends(old, new)?;
    let End::Here(path) = &old_end else {
        return Err(Error::usage(
            format!("{} is on another machine", old.display()),
            "run the preview there",
        ));
    };
    let theirs = new_end.describe(reach, monitor)?;
    let mut volume = Volume::open(path)?;
    can_follow(path, &volume.info(), &new_end.path(), &theirs.volume)?;
    let _lock = volume.lock()?;
    volume.reload()?;
    let recovered = recover(&mut volume, monitor)?;
    let line: Vec<Uuid> = theirs.line.iter().map(|snapshot| snapshot.id).collect();
    let (common, left) = common(&volume, &line)?;
    let probe = volume.probe("left-", monitor)?;
    let written = crate::diff::of_volume(&volume, &common, &probe, output, monitor);
    volume.drop_probe(&probe)?;
    let changes = written?;
    Ok(Preview {
        verb: "rejoin",
        volume: volume.info(),
        common,
        left,
        changes,
        data_bytes: changes.data_bytes,
        output: output.to_path_buf(),
        recovered,
        notes: monitor.take_notes(),
    })
}

/// Rounds after which a primary that is still written to is left what it is.
const TRIES: usize = 3;

/// Changes the roles of a primary and its standby, with no change lost.
pub fn switch(
    primary: &Path,
    standby: &Path,
    travel: &Travel,
    reach: &Reach,
    monitor: &Monitor,
) -> Result<Switched> {
    let started = Instant::now();
    let (from, to) = named(primary, standby, reach, monitor)?;
    let ours = from.describe(reach, monitor)?;
    let theirs = to.describe(reach, monitor);
    let theirs = theirs.map_err(|error| known::explained(&ours.standbys, &to.path(), error))?;
    same_lineage((&from.path(), &ours.volume), (&to.path(), &theirs.volume))?;
    let newest = |described: &Described| described.line.last().map(|snapshot| snapshot.id);
    let mut promoted = None;
    match (ours.volume.role, theirs.volume.role) {
        // A switch that was interrupted goes on.
        (Role::Standby, Role::Primary) => {}
        (Role::Standby, Role::Standby) if newest(&ours) == newest(&theirs) => {}
        (Role::Primary, Role::Standby) => {
            hand_over(primary, standby, &from, travel, reach, monitor)?;
        }
        _ => {
            return Err(Error::refused(
                format!("{} is not the primary of {}", primary.display(), standby.display()),
                "name the primary first; `snapsync status` tells which it is",
            ));
        }
    }
    if theirs.volume.role == Role::Standby {
        let mut standbys = ours.standbys;
        standbys.remove(&theirs.volume.id);
        let deed = Deed::Promote { name: None, on_drift: OnDrift::Refuse, standbys };
        match to.perform(deed, reach, monitor) {
            Ok(Outcome::Promoted(done)) => promoted = Some(*done),
            Ok(other) => return Err(strange(&other)),
            Err(error) => return Err(without_primary(&from.path(), &error)),
        }
    }
    let round = sync(standby, primary, &Options::default(), travel, reach, monitor)?;
    Ok(Switched {
        verb: "switch",
        promoted,
        round,
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Both ends; a standby that is not there may be known to its primary.
fn named(primary: &Path, standby: &Path, reach: &Reach, monitor: &Monitor) -> Result<(End, End)> {
    let is_far = |path| matches!(End::parse(path), Ok(End::There(_)));
    let ask = || End::parse(primary).and_then(|end| end.describe(reach, monitor));
    ends(primary, standby).map_err(|error| {
        // Two other machines are a mistake, whatever they know.
        let ours = if is_far(primary) && is_far(standby) { None } else { ask().ok() };
        match ours {
            Some(ours) => known::explained(&ours.standbys, standby, error),
            None => error,
        }
    })
}

/// Brings the standby all that the primary has, until nothing is written in between; the primary is a standby then.
fn hand_over(
    primary: &Path,
    standby: &Path,
    from: &End,
    travel: &Travel,
    reach: &Reach,
    monitor: &Monitor,
) -> Result<()> {
    let options = Options { care: Care { check: true, ..Care::default() }, ..Options::default() };
    for _ in 0..TRIES {
        let newest = sync(primary, standby, &options, travel, reach, monitor)?.snapshot.id;
        match from.perform(Deed::Demote { newest }, reach, monitor)? {
            Outcome::Demoted(demoted) if demoted.done => return Ok(()),
            Outcome::Demoted(_) => {}
            other => return Err(strange(&other)),
        }
    }
    Err(Error::refused(
        format!("{} is still being written to", primary.display()),
        "stop what writes to it, and run this again: nothing has changed roles",
    ))
}

fn without_primary(old: &Path, error: &Error) -> Error {
    let told = error.advice();
    let advice = format!(
        "{told}{}both are standbys now: run this again, or `snapsync promote {}` makes that one the primary again",
        if told.is_empty() { "" } else { "; " },
        old.display()
    );
    Error::refused(error.sentence(), advice)
}
