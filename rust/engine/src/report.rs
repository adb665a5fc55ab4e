//! What each verb tells when it is done; the JSON of the command line.

use serde::{Serialize, Serializer};
use snapsync_apply::Loss;
use snapsync_model::{Counters, Counts, SnapshotInfo, VolumeInfo, path_as_json};
use std::path::PathBuf;

pub type Changes = Counts;

#[derive(Debug, Serialize)]
pub struct Synced {
    pub verb: &'static str,
    pub primary: VolumeInfo,
    pub standby: VolumeInfo,
    pub base: Option<SnapshotInfo>,
    pub snapshot: SnapshotInfo,
    pub changes: Changes,
    /// Bytes that moved, and what the whole tree holds.
    pub data_bytes: u64,
    /// Bytes of data that a cut round had brought before.
    pub kept_bytes: u64,
    pub tree_bytes: u64,
    pub tree_entries: u64,
    pub losses: Vec<Loss>,
    pub notes: Vec<String>,
    pub recovered: Vec<String>,
    pub pruned: Vec<SnapshotInfo>,
    pub unchanged: bool,
    pub counters: Counters,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Taken {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshot: SnapshotInfo,
    pub notes: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Listed {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshots: Vec<SnapshotInfo>,
}

#[derive(Debug, Serialize)]
pub struct Deleted {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub deleted: SnapshotInfo,
}

#[derive(Debug, Serialize)]
pub struct Diff {
    pub verb: &'static str,
    #[serde(serialize_with = "path_as_json")]
    pub base: PathBuf,
    #[serde(serialize_with = "path_as_json")]
    pub target: PathBuf,
    #[serde(serialize_with = "path_as_json")]
    pub output: PathBuf,
    pub changes: Changes,
    pub data_bytes: u64,
    pub notes: Vec<String>,
    pub counters: Counters,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Sent {
    pub verb: &'static str,
    pub snapshot: SnapshotInfo,
    pub base: Option<SnapshotInfo>,
    /// None for standard output.
    #[serde(serialize_with = "optional_path_as_json")]
    pub output: Option<PathBuf>,
    pub changes: Changes,
    pub data_bytes: u64,
    pub frames: u64,
    /// What the data came to when it travelled.
    pub stored_bytes: u64,
    pub notes: Vec<String>,
    pub counters: Counters,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Received {
    pub verb: &'static str,
    /// The volume that it was applied to, or the path of the snapshot that it was received as.
    pub standby: Option<VolumeInfo>,
    #[serde(serialize_with = "optional_path_as_json")]
    pub path: Option<PathBuf>,
    pub base: Option<SnapshotInfo>,
    pub snapshot: SnapshotInfo,
    pub changes: Changes,
    pub data_bytes: u64,
    /// Bytes of data that a cut receive had brought before.
    pub kept_bytes: u64,
    pub losses: Vec<Loss>,
    pub notes: Vec<String>,
    pub recovered: Vec<String>,
    pub counters: Counters,
    pub seconds: f64,
}

/// What a delta says of itself, and what its frames come to.
#[derive(Debug, Serialize)]
pub struct Inspected {
    pub version: u32,
    pub snapshot: SnapshotInfo,
    pub base: Option<String>,
    pub origin: Option<String>,
    pub volume: Option<String>,
    pub lineage: Option<String>,
    pub epoch: u64,
    pub software: String,
    pub frames: u64,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    /// It has its end, and the frames are those that this counts.
    pub complete: bool,
}

fn optional_path_as_json<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => path_as_json(path, serializer),
        None => serializer.serialize_none(),
    }
}

#[derive(Debug, Serialize)]
pub struct Difference {
    pub path: String,
    pub what: String,
    pub a: String,
    pub b: String,
}

#[derive(Debug, Serialize)]
pub struct Verified {
    pub verb: &'static str,
    #[serde(serialize_with = "path_as_json")]
    pub a: PathBuf,
    #[serde(serialize_with = "path_as_json")]
    pub b: PathBuf,
    pub equal: bool,
    pub entries: u64,
    /// Bytes of files that were read and found equal.
    pub bytes: u64,
    pub difference_count: u64,
    pub differences: Vec<Difference>,
    pub notes: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Unfinished {
    pub phase: String,
    pub snapshot: String,
}

#[derive(Debug, Serialize)]
pub struct StandbyStatus {
    pub volume: String,
    pub path: String,
    pub snapshot: String,
    pub name: String,
    pub at: String,
    /// Snapshots that the primary has taken since.
    pub lag: u64,
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
}
