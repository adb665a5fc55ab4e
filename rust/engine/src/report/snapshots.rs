//! Reports about snapshots, and about what is made from them.

use crate::report::checks::Changes;
use serde::{Deserialize, Serialize, Serializer};
use snapsync_apply::Loss;
use snapsync_model::{Counters, Skipped, SnapshotInfo, VolumeInfo, path_as_json};
use snapsync_snapshot::{Alone, CloneRecord};
use std::path::PathBuf;
use uuid::Uuid;

#[derive(Debug, Serialize)]
pub struct Taken {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshot: SnapshotInfo,
    pub skipped: Vec<Skipped>,
    pub notes: Vec<String>,
    pub seconds: f64,
}

/// A snapshot of a volume on another machine, which is fetched next.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) volume: VolumeInfo,
    pub(crate) snapshot: SnapshotInfo,
}

#[derive(Debug, Serialize)]
pub struct Listed {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshots: Vec<SnapshotInfo>,
    /// For each of them, if that was asked.
    pub alone: Vec<Alone>,
    pub holds: Vec<Hold>,
    pub clones: Vec<CloneInfo>,
    pub parts: Vec<PartInfo>,
}

/// A part of a volume's tree with a lineage of its own.
#[derive(Debug, Serialize)]
pub struct PartInfo {
    pub name: String,
    pub volume: Option<VolumeInfo>,
    pub snapshots: u64,
    pub latest: Option<SnapshotInfo>,
    /// Why nothing more is known of it.
    pub problem: Option<String>,
}

/// A writable copy of a snapshot.
#[derive(Debug, Serialize)]
pub struct CloneInfo {
    pub name: String,
    #[serde(serialize_with = "path_as_json")]
    pub path: PathBuf,
    pub snapshot: String,
    pub of: String,
    pub at: String,
    /// Whether the directory at its path still is the clone.
    pub exists: bool,
    #[serde(skip)]
    pub(crate) record: CloneRecord,
}

impl CloneInfo {
    pub(crate) fn new(name: String, record: CloneRecord) -> snapsync_model::Result<CloneInfo> {
        Ok(CloneInfo {
            name,
            path: record.path.clone(),
            snapshot: record.snapshot.to_string(),
            of: record.of.clone(),
            at: record.at.clone(),
            exists: record.is_there()?,
            record,
        })
    }
}

#[derive(Debug, Serialize)]
pub struct Cloned {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshot: SnapshotInfo,
    pub clone: Option<CloneInfo>,
    /// It is a snapshot itself: nothing was copied or examined.
    pub instant: bool,
    pub data_bytes: u64,
    pub shared_bytes: u64,
    pub losses: Vec<Loss>,
    pub notes: Vec<String>,
    pub seconds: f64,
}

/// What was mounted: a snapshot, or all of a volume.
#[derive(Debug, Serialize)]
pub struct Mounted {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    /// None for all.
    pub snapshot: Option<SnapshotInfo>,
    /// How many there were.
    pub snapshots: u64,
    pub path: PathBuf,
    /// Whether a process serves it, so that it ends with that process.
    pub served: bool,
    pub notes: Vec<String>,
    pub seconds: f64,
}

/// A deleted clone; if it did not exist any more, only its record was deleted.
#[derive(Debug, Serialize)]
pub struct Unlisted {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub clone: CloneInfo,
}

/// Why a snapshot may not be deleted: a standby continues from it, or a user holds it, perhaps for a given
/// reason.
#[derive(Debug, Serialize)]
pub struct Hold {
    pub snapshot: Uuid,
    pub name: String,
    pub reason: String,
    pub standby: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct HeldSnapshot {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshot: SnapshotInfo,
    pub reason: String,
}

#[derive(Debug, Serialize)]
pub struct Released {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    /// None if it was the base of a standby and does not exist any more.
    pub snapshot: Option<SnapshotInfo>,
    pub reason: String,
    /// The standby that was forgotten.
    pub standby: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Kept {
    pub snapshot: SnapshotInfo,
    pub why: Vec<String>,
    /// Whether a rule keeps it, and not only a hold.
    #[serde(skip)]
    pub(crate) by_rule: bool,
}

#[derive(Debug, Serialize)]
pub struct Pruned {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    /// Nothing was deleted: `pruned` lists what would have been.
    pub dry_run: bool,
    pub pruned: Vec<SnapshotInfo>,
    pub kept: Vec<Kept>,
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Deleted {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub deleted: SnapshotInfo,
}

#[derive(Debug, Serialize)]
pub struct RestoredTo {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshot: SnapshotInfo,
    /// Relative to the volume's root; empty for everything, unless paths were selected.
    #[serde(serialize_with = "paths_as_json")]
    pub paths: Vec<PathBuf>,
    /// The number of entries among which they were selected, if they were.
    pub searched: Option<u64>,
    #[serde(serialize_with = "path_as_json")]
    pub to: PathBuf,
    pub changes: Changes,
    pub data_bytes: u64,
    /// Its bytes that take no space because they are shared with the snapshot.
    pub shared_bytes: u64,
    pub losses: Vec<Loss>,
    pub notes: Vec<String>,
    pub counters: Counters,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct RestoredPaths {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshot: SnapshotInfo,
    /// The snapshot that holds their old content; None if nothing was selected.
    pub before: Option<SnapshotInfo>,
    #[serde(serialize_with = "paths_as_json")]
    pub paths: Vec<PathBuf>,
    /// The number of entries among which they were selected, if they were.
    pub searched: Option<u64>,
    pub changes: Changes,
    pub data_bytes: u64,
    pub shared_bytes: u64,
    pub losses: Vec<Loss>,
    pub notes: Vec<String>,
    pub recovered: Vec<String>,
    pub counters: Counters,
    pub seconds: f64,
}

fn paths_as_json<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| AsJson(path)))
}

struct AsJson<'a>(&'a std::path::Path);

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        path_as_json(self.0, serializer)
    }
}

/// A present or past version of a file.
#[derive(Debug, Serialize)]
pub struct Version {
    pub number: u64,
    pub kind: &'static str,
    pub size: u64,
    /// In ns since 1970.
    pub mtime: i64,
    /// The target of a symbolic link, if it is text.
    pub target: Option<String>,
    /// The path where a file's bytes can be read.
    #[serde(serialize_with = "path_as_json")]
    pub content: PathBuf,
    /// Where they begin there: many small files are in one.
    pub content_offset: u64,
    /// Its path in the newest of its snapshots, or now if none has it.
    #[serde(serialize_with = "path_as_json")]
    pub path: PathBuf,
    pub snapshots: Vec<SnapshotInfo>,
    /// Whether it is the present version.
    pub live: bool,
}

#[derive(Debug, Serialize)]
pub struct Versions {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    #[serde(serialize_with = "path_as_json")]
    pub path: PathBuf,
    pub exists: bool,
    pub versions: Vec<Version>,
    /// The patch that was asked for, which may hold any bytes.
    #[serde(serialize_with = "bytes_as_json")]
    pub diff: Option<PathBuf>,
    pub notes: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Restored {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    /// The restored snapshot, the one before it, and the new one.
    pub source: SnapshotInfo,
    pub before: SnapshotInfo,
    pub snapshot: SnapshotInfo,
    pub changes: Changes,
    pub data_bytes: u64,
    pub losses: Vec<Loss>,
    pub recovered: Vec<String>,
    pub notes: Vec<String>,
    pub counters: Counters,
    pub seconds: f64,
}

fn bytes_as_json<S: Serializer>(bytes: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => path_as_json(bytes, serializer),
        None => serializer.serialize_none(),
    }
}
