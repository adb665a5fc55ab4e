//! What a single volume does to change its role.

use crate::delta::staging::give_up;
use crate::location::directory::open_directory;
use crate::options::{OnDrift, STRICT};
use crate::report::volumes::{Demoted, Followed, Promoted};
use crate::volume::drift::{self, Drift, cannot_go_back};
use crate::volume::lost;
use crate::volume::recovery::recover;
use crate::volume::rewind::{Rewind, rewind_without};
use serde::{Deserialize, Serialize};
use snapsync_apply::Journal;
use snapsync_model::{Counts, Error, Monitor, Promotions, Result, Role, SnapshotInfo, Stage, VolumeInfo};
use snapsync_snapshot::{LockedVolume, Request, Standby, Volume};
use snapsync_sys::{Root, fault, supports_reflinks};
use std::collections::BTreeMap;
use std::path::Path;
use uuid::Uuid;

/// A request to one volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RoleRequest {
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
    /// Become the primary of a new epoch that knows these standbys.
    Promote {
        name: Option<String>,
        on_drift: OnDrift,
        standbys: BTreeMap<Uuid, Standby>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Described {
    pub(crate) volume: VolumeInfo,
    pub(crate) line: Vec<SnapshotInfo>,
    #[serde(default)]
    pub(crate) promotions: Promotions,
    pub(crate) standbys: BTreeMap<Uuid, Standby>,
}

/// The result of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RoleReply {
    Described(Box<Described>),
    Followed(Box<Followed>),
    Demoted(Box<Demoted>),
    Promoted(Box<Promoted>),
}

impl RoleReply {
    /// Removes the standbys: not everybody who may read a primary may know them.
    pub(crate) fn without_standbys(mut self) -> RoleReply {
        if let RoleReply::Described(described) = &mut self {
            described.standbys.clear();
        }
        self
    }
}

/// Performs a request on a volume of this machine.
pub(crate) fn perform(path: &Path, request: RoleRequest, monitor: &Monitor) -> Result<RoleReply> {
    perform_in(open_directory(path)?, request, monitor)
}

/// The same in an open directory.
pub(crate) fn perform_in(root: Root, request: RoleRequest, monitor: &Monitor) -> Result<RoleReply> {
    let volume = Volume::open_in(root)?;
    if let RoleRequest::Describe = request {
        let (info, line) = (shown(&volume), volume.line()?);
        let (standbys, promotions) = (volume.standbys().clone(), volume.promotions().clone());
        return Ok(RoleReply::Described(Box::new(Described { volume: info, line, promotions, standbys })));
    }
    let mut volume = volume.lock()?;
    match request {
        RoleRequest::Describe => unreachable!("answered without the lock"),
        RoleRequest::Follow { epoch, promotions, line } => {
            follow(&mut volume, epoch, promotions, &line, monitor)
                .map(|followed| RoleReply::Followed(Box::new(followed)))
        }
        RoleRequest::Demote { newest } => {
            demote(&mut volume, newest, monitor).map(|demoted| RoleReply::Demoted(Box::new(demoted)))
        }
        RoleRequest::Promote { name, on_drift, standbys } => {
            let wanted = Wanted { name, on_drift, standbys };
            promote_volume(&mut volume, wanted, &mut |_, _, raised| Ok(raised), monitor)
                .map(|promoted| RoleReply::Promoted(Box::new(promoted)))
        }
    }
}

/// Paths that are not UTF-8 cannot be sent as text.
fn shown(volume: &Volume) -> VolumeInfo {
    let mut info = volume.info();
    info.path = info.path.to_string_lossy().into_owned().into();
    info
}

/// Finishes or discards what an earlier command left, even if it could be resumed.
fn recover_wholly(volume: &mut LockedVolume, monitor: &Monitor) -> Result<Vec<String>> {
    let mut done = recover(volume, monitor)?;
    if let Some(journal) = Journal::load(&volume.store())? {
        volume.unseal()?;
        give_up(volume.root(), &volume.store(), &journal)?;
        done.push(format!("discarded the part of snapshot {} that had arrived", journal.snapshot.name));
    }
    Ok(done)
}

pub(crate) fn newest_of(volume: &Volume) -> Result<SnapshotInfo> {
    volume.line()?.pop().ok_or_else(|| {
        Error::refused(
            format!("{} has no snapshot yet", volume.path().display()),
            "there is nothing in it to go on from: sync to it first",
        )
    })
}

/// Only one can be promoted.
pub(crate) fn expect_standby(volume: &Volume) -> Result<()> {
    if volume.info().role == Role::Standby {
        return Ok(());
    }
    Err(Error::refused(
        format!("{} is a primary already, of epoch {}", volume.path().display(), volume.info().epoch),
        "to make it the standby of another, use `snapsync rejoin`",
    ))
}

// --- requests ---------------------------------------------------------------------------------

/// How a standby is to be promoted.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) name: Option<String>,
    pub(crate) on_drift: OnDrift,
    /// Those that it is to know.
    pub(crate) standbys: BTreeMap<Uuid, Standby>,
}

/// Tells others of the epoch that is about to begin; returns the one that does. Given the snapshot that the
/// standby holds.
pub(crate) type Announce<'a> =
    &'a mut dyn FnMut(&Volume, &SnapshotInfo, (u64, Promotions)) -> Result<(u64, Promotions)>;

/// Makes the standby in a directory the primary.
pub(crate) fn promote_in(
    root: Root,
    wanted: Wanted,
    announce: Announce<'_>,
    monitor: &Monitor,
) -> Result<Promoted> {
    promote_volume(&mut Volume::open_in(root)?.lock()?, wanted, announce, monitor)
}

fn promote_volume(
    volume: &mut LockedVolume,
    Wanted { name, on_drift, standbys }: Wanted,
    announce: Announce<'_>,
    monitor: &Monitor,
) -> Result<Promoted> {
    expect_standby(volume)?;
    if let Some(name) = &name {
        snapsync_snapshot::name_is_free(name, &volume.snapshots()?)?;
    }
    let recovered = recover_wholly(volume, monitor)?;
    let newest = newest_of(volume)?;
    let absent = volume.absent_files(&newest)?;
    if !absent.is_empty() && on_drift != OnDrift::Accept {
        return Err(cannot_go_back(volume, &newest, &absent, monitor));
    }
    let set_aside = match (drift::find(volume, &newest, "drift-", monitor)?, on_drift) {
        (None, _) => None,
        (Some(drift), OnDrift::Refuse) => return drift.refuse(volume, CHOOSE),
        (Some(drift), OnDrift::Discard) => Some(drift.discard_alone(volume, &newest, monitor)?.0),
        (Some(drift), OnDrift::Accept) => {
            monitor.note("the standby was changed by hand, and goes on with those changes");
            volume.drop_probe(&drift.probe)?;
            None
        }
    };
    fault::point("promote.checked");
    keep_bytes(volume, &newest, monitor)?;
    let raised = announce(volume, &newest, volume.next_epoch(newest.id)?)?;
    fault::point("promote.announced");
    volume.become_primary(raised)?;
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

/// From now on others write to the tree, where snapshots have bytes: where blocks can be shared, they get
/// objects that hold on to them.
fn keep_bytes(volume: &mut LockedVolume, newest: &SnapshotInfo, monitor: &Monitor) -> Result<()> {
    if !volume.is_partly_in_tree() {
        return Ok(());
    }
    let path = volume.path().display().to_string();
    if !volume.store().directory().is_ok_and(supports_reflinks) {
        monitor.note(format!(
            "{path} has one copy of its data: its snapshots lose the bytes of files that change from now on, \
             and its other standbys keep them"
        ));
        return Ok(());
    }
    monitor.start(Stage::Snapshot, 0);
    let kept = volume.keep_bytes(newest, monitor)?;
    fault::point("promote.kept");
    if kept.lost > 0 {
        let lost = kept.lost;
        monitor
            .note(format!("{lost} files of snapshot {} were changed by hand, and lost there", newest.name));
    }
    volume.note_all_kept()
}

const CHOOSE: &str =
    "--discard-drift keeps them as a snapshot and goes back first; --accept-drift goes on with them";

fn demote(volume: &mut LockedVolume, newest: Uuid, monitor: &Monitor) -> Result<Demoted> {
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

/// Follows any volume, even one that was promoted separately: people decide which of two goes on.
fn follow(
    volume: &mut LockedVolume,
    epoch: u64,
    promotions: Promotions,
    theirs: &[Uuid],
    monitor: &Monitor,
) -> Result<Followed> {
    if epoch < volume.info().epoch || !promotions.lead_to(epoch) {
        return Err(Error::refused(
            format!(
                "{} is of epoch {}, and cannot follow a primary whose promotions lead to no later one",
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
        now = probe.clone();
    }
    let absent = volume.absent_files(&common)?;
    let lost = if now.id == common.id { absent } else { lost::find(volume, &common, &now, monitor)? };
    if let Some(Drift { probe, .. }) = &drift {
        volume.keep(probe)?;
        left.push(probe.clone());
    }
    after.iter().try_for_each(|snapshot| volume.set_aside(snapshot))?;
    let mut changes = Counts::default();
    if !left.is_empty() {
        let back = Rewind { base: &now, to: &common, result: &common, terms: STRICT };
        changes = rewind_without(volume, &back, &lost, monitor)?.counts;
    }
    fault::point("rejoin.back");
    volume.forget_accounts_after(common.sequence)?;
    volume.become_standby(epoch, promotions)?;
    volume.seal()?;
    fault::point("rejoin.standby");
    left.iter_mut().for_each(|snapshot| snapshot.aside = true);
    Ok(Followed { volume: shown(volume), common, left, changes, recovered, notes: monitor.take_notes() })
}

/// The newest snapshot of the line that another volume also has, and those after it.
pub(crate) fn common(volume: &Volume, theirs: &[Uuid]) -> Result<(SnapshotInfo, Vec<SnapshotInfo>)> {
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
