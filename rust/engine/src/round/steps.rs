//! The steps of a round, and the messages between its two halves.

use crate::delta::staging::{Data, IncomingDelta, StageReport};
use crate::digest::{Reading, Record};
use crate::keep::Keep;
use crate::options::{DriftOptions, Terms};
use crate::secret::Secret;
use crate::volume::copies::{Copied, Stretch};
use crate::volume::lost::LostPaths;
use crate::volume::pieces::{Piece, Seen};
use serde::{Deserialize, Serialize};
use snapsync_apply::Loss;
use snapsync_model::{
    AccountNames, Error, Naming, Promotions, Result, Role, SnapshotInfo, Subset, VolumeInfo, printable_within,
};
use snapsync_stream::Transferred;
use snapsync_sys::Spot;
use std::path::PathBuf;
use uuid::Uuid;

/// The most bytes of a path, or of a file system's id, that are recorded.
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 100;

/// What is at the place of an existing or new standby, found without writing anything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StandbyInfo {
    /// For people, and for the primary's records.
    pub(crate) path: String,
    /// None if there is no volume yet.
    pub(crate) lineage: Option<Uuid>,
    #[serde(default)]
    pub(crate) role: Option<Role>,
    #[serde(default)]
    pub(crate) epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Promotions::is_empty")]
    pub(crate) promotions: Promotions,
    /// The snapshot of an interrupted delta.
    pub(crate) pending: Option<Uuid>,
    /// The id of the volume.
    #[serde(default)]
    pub(crate) volume: Option<Uuid>,
    /// The file system that it is on, or would be on.
    #[serde(default)]
    pub(crate) filesystem: Option<String>,
    /// Why it cannot be created there.
    #[serde(default)]
    pub(crate) lacks: Option<String>,
    /// For a plan: the snapshot in its tree.
    #[serde(default)]
    pub(crate) newest: Option<SnapshotInfo>,
    /// For a plan: files of that snapshot that its tree has not.
    #[serde(default, skip_serializing_if = "LostPaths::is_empty")]
    pub(crate) lost: LostPaths,
    /// There is no volume yet, but something else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) occupied: bool,
    /// The bytes that are free on its file system.
    #[serde(default)]
    pub(crate) available: Option<u64>,
}

impl StandbyInfo {
    /// Limits it to what can be recorded.
    pub(crate) fn bounded(self) -> StandbyInfo {
        StandbyInfo {
            path: printable_within(&self.path, LONGEST_PATH),
            filesystem: self.filesystem.map(|filesystem| printable_within(&filesystem, LONGEST_NAME)),
            ..self
        }
    }

    /// Checks that nothing is there that is no volume, unless that is adopted.
    pub(crate) fn expect_vacant(&self, adopts: bool) -> Result<()> {
        if adopts || !self.occupied { Ok(()) } else { Err(is_occupied(&self.path)) }
    }

    pub(crate) fn expect_reachable(&self) -> Result<()> {
        self.lacks.clone().map_or(Ok(()), |lacks| Err(Error::usage(lacks, "check the path")))
    }
}

/// The refusal of a directory that holds something, and is no standby.
pub(crate) fn is_occupied(path: &str) -> Error {
    Error::refused(
        format!("{path} is not empty and is not a standby"),
        "name an empty or absent directory, or move what is in it away; if it is a copy of the source, \
         --adopt brings only what differs",
    )
}

/// How a copy that is there already becomes the standby's tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adopt {
    /// The files of which digests are wanted.
    pub(crate) reading: Reading,
    /// What is replicated: all else in it is left alone.
    #[serde(default)]
    pub(crate) subset: Subset,
}

/// Changes that are planned, and what is asked of a standby.
#[derive(Clone, Copy)]
pub(crate) struct Prospect<'a> {
    /// They are in a file of the plan's own, which may be written.
    pub(crate) manifest: &'a PathBuf,
    /// The patterns of the snapshot that they lead to; None where an older primary does not say.
    pub(crate) subset: Option<&'a Subset>,
    /// The names of the owners of files in it, and how the round would find them here.
    pub(crate) names: Option<&'a AccountNames>,
    pub(crate) owners: Option<&'a Naming>,
    pub(crate) terms: Terms,
    /// Whether old snapshots would make space.
    pub(crate) spares: bool,
}

/// What a standby would make of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outlook {
    /// What it cannot hold; None where nothing could be tried.
    pub(crate) losses: Option<Vec<Loss>>,
    /// What it would take on the way.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Why it would refuse them.
    #[serde(default)]
    pub(crate) refused: Option<Refusal>,
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) what: String,
    pub(crate) advice: String,
}

impl Refusal {
    /// What refuses a round; any other failure is one of the plan, too.
    pub(crate) fn of(error: Error) -> Result<Refusal> {
        if error.exit_code() != 3 {
            return Err(error);
        }
        Ok(Refusal { what: error.sentence(), advice: error.advice() })
    }
}

/// The primary that starts a round, and its options for drift.
#[derive(Clone, Debug)]
pub(crate) struct OpenRequest {
    pub(crate) lineage: Uuid,
    pub(crate) epoch: u64,
    /// The promotions that led to that epoch.
    pub(crate) promotions: Promotions,
    pub(crate) drift: DriftOptions,
    /// How owners are found, if it is to find them by name from now on.
    pub(crate) owners: Option<Naming>,
    /// Without it only an empty directory becomes a standby.
    pub(crate) adopt: Option<Adopt>,
    /// The primary's store, if it is on this machine: further channels may arrive there.
    pub(crate) store: Option<Spot>,
}

/// The standby after it was locked and recovered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) volume: VolumeInfo,
    /// The snapshot in its tree.
    pub(crate) newest: Option<SnapshotInfo>,
    /// What is in its tree instead: a copy, which the first delta starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) adopted: Option<SnapshotInfo>,
    /// An interrupted delta.
    pub(crate) pending: Option<Pending>,
    pub(crate) recovered: Vec<String>,
    /// The snapshot that keeps changes made by hand.
    #[serde(default)]
    pub(crate) set_aside: Option<SnapshotInfo>,
    /// Files of `newest` that its tree does not have: their bytes were lost, and the round is to bring them.
    #[serde(default, skip_serializing_if = "LostPaths::is_empty")]
    pub(crate) lost: LostPaths,
    /// Where further channels of this round come in.
    pub(crate) join: Option<Uuid>,
    /// The secret that its primary gave it.
    #[serde(default)]
    pub(crate) secret: Option<Secret>,
}

/// A delta of which the stage holds a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) snapshot: Uuid,
    pub(crate) base: Option<Uuid>,
    /// BLAKE3 of the manifest, in hexadecimal.
    pub(crate) manifest: String,
}

/// Takes the next records.
pub(crate) type TakeRecords<'t> = &'t mut dyn FnMut(Vec<Record>) -> Result<()>;

/// The questions of the primary's half to the standby's half, in this order.
pub(crate) trait StandbyEnd {
    /// `lineage` is the primary's, if it is a volume.
    /// Only a `plan` has to know what its tree holds, and how much room there is; it is refused if that was
    /// changed by hand.
    fn look(&mut self, lineage: Option<Uuid>, plan: Option<DriftOptions>) -> Result<StandbyInfo>;
    /// Tells what a plan would come to, and changes nothing; None if it cannot tell. It has `look`ed for one.
    fn foresee(&mut self, _prospect: Prospect<'_>) -> Result<Option<Outlook>> {
        Ok(None)
    }
    /// Opens the standby, and makes the volume if there is none.
    fn open(&mut self, opening: OpenRequest) -> Result<State>;
    /// Tells what is in the tree that it is to adopt, in the order of paths, once it is open.
    fn records(&mut self, reading: Reading, take: TakeRecords<'_>) -> Result<()>;
    /// Tells of its copies of some files, while the primary reads its own. Those of one question `fit`.
    fn copies(
        &mut self,
        stretches: &[Stretch],
        meanwhile: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Copied>>;
    fn begin(&mut self, offer: IncomingDelta<'_>) -> Result<StageReport>;
    /// Copies the data into the stage.
    fn transfer(&mut self, data: Data<'_>) -> Result<Transferred>;
    /// Applies the stage, and takes the standby's snapshot.
    fn commit(&mut self) -> Result<SnapshotInfo>;
    /// Stores the secret by which the primary recognises this standby from now on; false where it can keep
    /// none.
    fn keep_secret(&mut self, secret: &Secret) -> Result<bool>;
    /// Reads ranges of some files, while the primary reads its own.
    fn scrub(&mut self, pieces: &[Piece], meanwhile: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Seen>>;
    /// Deletes all snapshots except those to keep and those that are `needed`.
    fn prune(&mut self, keep: &Keep, needed: &[Uuid]) -> Result<Vec<SnapshotInfo>>;
    /// The name of the other end, if this process cannot see for itself what that does.
    fn tells(&self) -> Option<String>;
    /// What can be done about a primary at `source` that lacks its newest snapshot, if it cannot go back.
    fn lacks(&self, _source: &str) -> Option<String> {
        None
    }
    /// Called after a failure; returns whether the standby may still make this snapshot without the primary,
    /// or resume it.
    fn failed(&mut self, error: &Error, snapshot: Uuid) -> bool;
}
