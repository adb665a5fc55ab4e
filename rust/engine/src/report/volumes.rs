//! Reports about a volume, its role and its standbys.

use crate::report::checks::Changes;
use crate::report::rounds::{ScrubStatus, Synced};
use crate::report::snapshots::{Hold, PartInfo};
use serde::{Deserialize, Serialize};
use snapsync_model::{SnapshotInfo, VolumeInfo, path_as_json};
use snapsync_snapshot::{Claim, Thinning, Weight};
use std::path::PathBuf;
use uuid::Uuid;

#[derive(Debug, Serialize)]
pub struct Unfinished {
    pub phase: String,
    /// Whether `recover --back` can restore the old tree.
    pub can_go_back: bool,
    pub snapshot: String,
}

#[derive(Debug, Serialize)]
pub struct Recovered {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    /// The snapshot in the tree, unless something is still unfinished.
    pub latest: Option<SnapshotInfo>,
    pub unfinished: Option<Unfinished>,
    pub recovered: Vec<String>,
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct StandbyStatus {
    pub volume: String,
    pub path: String,
    pub snapshot: String,
    pub name: String,
    pub at: String,
    /// The number of snapshots that the primary has taken since.
    pub lag: u64,
    /// None if no round has reported yet.
    pub scrub: Option<ScrubStatus>,
    /// Its claim to be in a later epoch, which keeps it from being fed.
    pub claim: Option<Claim>,
}

/// The highest epoch that any standby claims.
#[derive(Debug, Serialize)]
pub struct Replaced {
    pub epoch: u64,
    pub path: String,
}

#[derive(Debug, Serialize)]
pub struct Status {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshots: u64,
    pub latest: Option<SnapshotInfo>,
    pub unfinished: Option<Unfinished>,
    pub busy: bool,
    pub standbys: Vec<StandbyStatus>,
    pub holds: Vec<Hold>,
    /// What standbys say about a volume that was promoted in its place.
    pub replaced: Option<Replaced>,
    /// Whether its tree is read-only between rounds while it is a standby.
    pub read_only: bool,
    /// Whether it finds the owners of files by name.
    pub by_name: bool,
    /// What its snapshots take beside the tree. None if nobody asked, and of subvolumes, which share with it.
    pub history: Option<Weight>,
    /// The manifests that it keeps, also of snapshots that are gone, and their bytes.
    pub manifests: u64,
    pub manifest_bytes: u64,
    pub parts: Vec<PartInfo>,
}

/// A standby that became the primary.
#[derive(Debug, Serialize, Deserialize)]
pub struct Promoted {
    pub verb: String,
    pub volume: VolumeInfo,
    /// The last snapshot from the old primary, and the first of the new one.
    pub newest: SnapshotInfo,
    pub snapshot: SnapshotInfo,
    /// The snapshot that keeps changes made by hand.
    pub set_aside: Option<SnapshotInfo>,
    pub recovered: Vec<String>,
    pub notes: Vec<String>,
}

/// What a promotion would do for the history that only the tree has.
#[derive(Debug, Serialize)]
pub struct PromotePreview {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub newest: SnapshotInfo,
    /// Whether it makes objects of these files, which share their blocks; otherwise snapshots thin out.
    pub clones: bool,
    pub files: u64,
    pub bytes: u64,
    /// How long that takes, by a few trials.
    pub clone_seconds: Option<f64>,
    pub thins: Vec<Thinning>,
    /// What it would finish or discard before.
    pub unfinished: Option<Unfinished>,
    pub notes: Vec<String>,
}

/// A volume that went back to a snapshot that it shares with a primary.
#[derive(Debug, Serialize, Deserialize)]
pub struct Followed {
    pub volume: VolumeInfo,
    pub common: SnapshotInfo,
    pub left: Vec<SnapshotInfo>,
    pub changes: Changes,
    pub recovered: Vec<String>,
    pub notes: Vec<String>,
}

/// A primary that became a standby, if nothing was written to it meanwhile.
#[derive(Debug, Serialize, Deserialize)]
pub struct Demoted {
    pub volume: VolumeInfo,
    pub done: bool,
}

#[derive(Debug, Serialize)]
pub struct Rejoined {
    pub verb: &'static str,
    pub common: SnapshotInfo,
    /// The old primary's own snapshots, which are kept aside.
    pub left: Vec<SnapshotInfo>,
    /// The changes that were undone to go back to the common snapshot.
    pub back: Changes,
    pub recovered: Vec<String>,
    pub notes: Vec<String>,
    pub round: Synced,
    pub seconds: f64,
}

/// What a volume would leave behind.
#[derive(Debug, Serialize)]
pub struct Preview {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub common: SnapshotInfo,
    pub left: Vec<SnapshotInfo>,
    pub changes: Changes,
    pub data_bytes: u64,
    #[serde(serialize_with = "path_as_json")]
    pub output: PathBuf,
    pub recovered: Vec<String>,
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Switched {
    pub verb: &'static str,
    /// None if an interrupted switch had already done it.
    pub promoted: Option<Promoted>,
    pub round: Synced,
    pub notes: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Trusted {
    pub verb: &'static str,
    pub log: String,
    pub id: Uuid,
    /// In hexadecimal.
    pub key: String,
}

#[derive(Debug, Serialize)]
pub struct Initialised {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub read_only: bool,
    pub recovered: Vec<String>,
    pub notes: Vec<String>,
}
