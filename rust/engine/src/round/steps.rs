//! The steps of a round, and what the two halves tell each other.

use crate::delta::staging::{Data, IncomingDelta, StageReport};
use crate::keep::Keep;
use crate::options::DriftOptions;
use crate::secret::Secret;
use crate::volume::lost::LostPaths;
use crate::volume::pieces::{Piece, Seen};
use serde::{Deserialize, Serialize};
use snapsync_model::{Error, Promotions, Result, Role, SnapshotInfo, VolumeInfo, printable_within};
use snapsync_stream::Transferred;
use snapsync_sys::Spot;
use uuid::Uuid;

/// Bytes of a path, and of a file system's name, that are remembered.
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 100;

/// What is at the place where a standby is or is to be, found without writing anything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StandbyInfo {
    /// For people, and for the primary to remember it by.
    pub(crate) path: String,
    /// None where there is no volume yet.
    pub(crate) lineage: Option<Uuid>,
    #[serde(default)]
    pub(crate) role: Option<Role>,
    #[serde(default)]
    pub(crate) epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Promotions::is_empty")]
    pub(crate) promotions: Promotions,
    /// The snapshot of a delta that was cut.
    pub(crate) pending: Option<Uuid>,
    /// Which volume it is.
    #[serde(default)]
    pub(crate) volume: Option<Uuid>,
    /// The file system that it is on, or would be.
    #[serde(default)]
    pub(crate) filesystem: Option<String>,
    /// Why it cannot be made there.
    #[serde(default)]
    pub(crate) lacks: Option<String>,
}

impl StandbyInfo {
    /// As far as it can be remembered.
    pub(crate) fn bounded(self) -> StandbyInfo {
        StandbyInfo {
            path: printable_within(&self.path, LONGEST_PATH),
            filesystem: self.filesystem.map(|filesystem| printable_within(&filesystem, LONGEST_NAME)),
            ..self
        }
    }

    pub(crate) fn expect_reachable(&self) -> Result<()> {
        self.lacks.clone().map_or(Ok(()), |lacks| Err(Error::usage(lacks, "check the path")))
    }
}

/// The primary that begins a round, and how careful it is.
#[derive(Clone, Debug)]
pub(crate) struct OpenRequest {
    pub(crate) lineage: Uuid,
    pub(crate) epoch: u64,
    /// How that epoch came to be.
    pub(crate) promotions: Promotions,
    pub(crate) care: DriftOptions,
    /// Its own, if it is on this machine: further channels may come in there.
    pub(crate) store: Option<Spot>,
}

/// The standby as it stands, locked and healed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) volume: VolumeInfo,
    /// What its tree holds.
    pub(crate) newest: Option<SnapshotInfo>,
    /// A delta that was cut.
    pub(crate) pending: Option<Pending>,
    pub(crate) recovered: Vec<String>,
    /// Changes by hand that were kept as this snapshot.
    #[serde(default)]
    pub(crate) set_aside: Option<SnapshotInfo>,
    /// Files of `newest` that its tree does not have: their bytes were lost, and the round is to bring them.
    #[serde(default, skip_serializing_if = "LostPaths::is_empty")]
    pub(crate) lost: LostPaths,
    /// Where further channels of this round come in.
    pub(crate) join: Option<Uuid>,
    /// What its primary has given it, to be known again.
    #[serde(default)]
    pub(crate) secret: Option<Secret>,
}

/// A delta of which the stage holds a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) snapshot: Uuid,
    pub(crate) base: Option<Uuid>,
    /// BLAKE3, in hexadecimal.
    pub(crate) manifest: String,
}

/// What the primary's half asks of the standby's, in this order.
pub(crate) trait StandbyEnd {
    /// `lineage` is the primary's, if that is a volume.
    fn look(&mut self, lineage: Option<Uuid>) -> Result<StandbyInfo>;
    /// Makes the volume where there is none.
    fn open(&mut self, opening: OpenRequest) -> Result<State>;
    fn begin(&mut self, offer: IncomingDelta<'_>) -> Result<StageReport>;
    /// Brings the data into the stage.
    fn transfer(&mut self, data: Data<'_>) -> Result<Transferred>;
    /// Applies what is staged, and takes the standby's snapshot.
    fn commit(&mut self) -> Result<SnapshotInfo>;
    /// Is known by this from now on.
    fn keep_secret(&mut self, secret: &Secret) -> Result<()>;
    /// What it has of some files, while the primary looks at its own.
    fn scrub(&mut self, pieces: &[Piece], meanwhile: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Seen>>;
    /// Deletes all but what is to be kept, and what is `needed`.
    fn prune(&mut self, keep: &Keep, needed: &[Uuid]) -> Result<Vec<SnapshotInfo>>;
    /// Who it is that tells of itself, where this process does not see what it does.
    fn tells(&self) -> Option<String>;
    /// After a failure: whether it may still make this snapshot without the primary, or go on with it.
    fn failed(&mut self, error: &Error, snapshot: Uuid) -> bool;
}
