//! What is told of snapshots, and of what is made from them.

use crate::report::checks::Changes;
use serde::{Serialize, Serializer};
use snapsync_apply::Loss;
use snapsync_model::{Counters, SnapshotInfo, VolumeInfo, path_as_json};
use snapsync_snapshot::CloneRecord;
use std::path::PathBuf;
use uuid::Uuid;

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
    pub holds: Vec<Hold>,
    pub clones: Vec<CloneInfo>,
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
    /// The directory at its path still is it.
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
    /// It is a snapshot itself: nothing was copied, and nothing looked at.
    pub instant: bool,
    pub data_bytes: u64,
    pub shared_bytes: u64,
    pub losses: Vec<Loss>,
    pub notes: Vec<String>,
    pub seconds: f64,
}

/// A snapshot that was mounted.
#[derive(Debug, Serialize)]
pub struct Browsed {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub snapshot: SnapshotInfo,
    pub path: PathBuf,
    /// A process answers for it, and it goes when that one ends.
    pub served: bool,
    pub notes: Vec<String>,
    pub seconds: f64,
}

/// A clone that was deleted; if it did not exist any more, only what was known of it.
#[derive(Debug, Serialize)]
pub struct Unlisted {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub clone: CloneInfo,
}

/// Why a snapshot may not go: a standby goes on from it, or somebody said so, perhaps with a reason.
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
    /// None where it was the base of a standby and is gone.
    pub snapshot: Option<SnapshotInfo>,
    pub reason: String,
    /// The standby that was forgotten.
    pub standby: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Kept {
    pub snapshot: SnapshotInfo,
    pub why: Vec<String>,
    /// Not only because it is held.
    #[serde(skip)]
    pub(crate) by_rule: bool,
}

#[derive(Debug, Serialize)]
pub struct Pruned {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    /// Nothing was deleted: `pruned` is what would have been.
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
    /// From the volume's root; none for all of it.
    #[serde(serialize_with = "paths_as_json")]
    pub paths: Vec<PathBuf>,
    #[serde(serialize_with = "path_as_json")]
    pub to: PathBuf,
    pub changes: Changes,
    pub data_bytes: u64,
    /// Bytes of it that take no space: they are those of the snapshot.
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
    /// What they were is in it.
    pub before: SnapshotInfo,
    #[serde(serialize_with = "paths_as_json")]
    pub paths: Vec<PathBuf>,
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

/// What a file was, or is.
#[derive(Debug, Serialize)]
pub struct Version {
    pub number: u64,
    pub kind: &'static str,
    pub size: u64,
    /// In ns since 1970.
    pub mtime: i64,
    /// What a link points at, as far as it is text.
    pub target: Option<String>,
    /// Where a file's bytes can be read.
    #[serde(serialize_with = "path_as_json")]
    pub content: PathBuf,
    pub snapshots: Vec<SnapshotInfo>,
    /// It is what the file is now.
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
    pub notes: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Restored {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    /// What the tree holds again, what it held before, and the snapshot of it now.
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
