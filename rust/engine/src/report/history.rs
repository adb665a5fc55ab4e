//! Reports about what changed from snapshot to snapshot.

use serde::Serialize;
use snapsync_history::{Event, Step};
use snapsync_model::{Counts, RelPath, VolumeInfo, path_as_json};
use std::path::PathBuf;

/// A snapshot that may be gone.
#[derive(Clone, Debug, Serialize)]
pub struct PastSnapshot {
    pub id: String,
    pub name: String,
    pub sequence: u64,
    pub created: String,
    /// Whether it is there, so that something can be restored from it.
    pub exists: bool,
}

impl PastSnapshot {
    pub(crate) fn of(step: &Step, exists: bool) -> PastSnapshot {
        let header = &step.header;
        PastSnapshot {
            id: header.target.clone(),
            name: header.name.clone(),
            sequence: header.sequence.unwrap_or_default(),
            created: header.created.clone(),
            exists,
        }
    }
}

/// A path in JSON.
#[derive(Clone, Debug, Serialize)]
pub struct ShownPath(#[serde(serialize_with = "path_as_json")] PathBuf);

impl From<&RelPath> for ShownPath {
    fn from(path: &RelPath) -> ShownPath {
        ShownPath(path.as_path().to_path_buf())
    }
}

impl ShownPath {
    /// The same, where the root is the directory itself.
    pub(crate) fn of(path: &RelPath) -> ShownPath {
        ShownPath(if path.is_root() { PathBuf::from(".") } else { path.as_path().to_path_buf() })
    }
}

/// What changed in each round, newest first.
#[derive(Debug, Serialize)]
pub struct Logged {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub rounds: Vec<LoggedRound>,
    /// The rounds that were looked through.
    pub searched: usize,
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct LoggedRound {
    pub snapshot: PastSnapshot,
    /// Everything that there was, as nothing is known of earlier times.
    pub first: bool,
    /// A manifest before it is missing.
    pub after_gap: bool,
    pub changes: Counts,
    pub data_bytes: u64,
    /// With `stat`: some of the paths, and how many more there are.
    pub paths: Vec<LoggedPath>,
    pub more: u64,
}

#[derive(Debug, Serialize)]
pub struct LoggedPath {
    pub what: &'static str,
    pub kind: &'static str,
    pub path: ShownPath,
    /// What it was before, if that was another path.
    pub old_path: Option<ShownPath>,
    pub size: Option<u64>,
    pub old_size: Option<u64>,
}

/// What became of one path, newest first.
#[derive(Debug, Serialize)]
pub struct Lived {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub path: ShownPath,
    pub events: Vec<LoggedEvent>,
    /// Whether it is in the tree now.
    pub exists: bool,
    /// From where it can be restored if it is not: the newest snapshot that has it and is there, and its path
    /// in that.
    pub restore: Option<RestorableFrom>,
    pub searched: usize,
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct RestorableFrom {
    pub snapshot: PastSnapshot,
    pub path: ShownPath,
}

#[derive(Debug, Serialize)]
pub struct LoggedEvent {
    pub snapshot: PastSnapshot,
    pub what: &'static str,
    pub kind: &'static str,
    pub paths: Vec<ShownPath>,
    pub old_paths: Vec<ShownPath>,
    pub size: Option<u64>,
    pub old_size: Option<u64>,
    pub data_bytes: u64,
    /// What changed beneath a directory.
    pub beneath: Option<Counts>,
}

impl LoggedEvent {
    pub(crate) fn of(event: &Event, snapshot: PastSnapshot) -> LoggedEvent {
        let paths = |paths: &[RelPath]| paths.iter().map(ShownPath::from).collect();
        LoggedEvent {
            snapshot,
            what: event.what.name(),
            kind: event.kind.name(),
            paths: paths(&event.paths),
            old_paths: paths(&event.old_paths),
            size: event.new.map(|new| new.size),
            old_size: event.old.map(|old| old.size),
            data_bytes: event.data_bytes,
            beneath: event.beneath,
        }
    }
}

/// The paths that were looked for, in all snapshots.
#[derive(Debug, Serialize)]
pub struct Sought {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub patterns: Vec<String>,
    pub found: Vec<FoundPath>,
    /// The snapshots that were looked through, whether they are there or not.
    pub searched: usize,
    pub notes: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct FoundPath {
    pub path: ShownPath,
    pub kind: &'static str,
    /// What the last snapshot that has it says.
    pub size: u64,
    pub mtime: i64,
    pub first: PastSnapshot,
    pub last: PastSnapshot,
    /// The sequences of the first and the last of successive snapshots that have it.
    pub stretches: Vec<(u64, u64)>,
    /// Whether it is not in the tree any more.
    pub deleted: bool,
    /// The newest snapshot that has it and is there.
    pub restorable: Option<String>,
}
