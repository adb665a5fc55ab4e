//! What is told of what travels: rounds, deltas, differences.

use crate::report::checks::Changes;
use serde::{Deserialize, Serialize, Serializer};
use snapsync_apply::Loss;
use snapsync_model::{Counters, Result, SnapshotInfo, VolumeInfo, path_as_json};
use snapsync_snapshot::Scrub;
use std::path::PathBuf;

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
    /// Changes by hand to the standby, which were kept as this snapshot.
    pub set_aside: Option<SnapshotInfo>,
    pub pruned: Vec<SnapshotInfo>,
    pub scrub: Scrubbed,
    pub unchanged: bool,
    pub counters: Counters,
    pub seconds: f64,
    /// What this end has not seen itself.
    pub claimed: Option<Claimed>,
}

/// What of a report the other end of a round has told, and this one could not see.
#[derive(Debug, Serialize)]
pub struct Claimed {
    pub by: String,
    pub what: Vec<&'static str>,
}

/// What a round has read again of what both sides have in common, and what it brought again.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrubbed {
    pub files: u64,
    /// On each side.
    pub bytes: u64,
    /// Files that earlier rounds found to differ, and this one brought again.
    pub mended: u64,
    pub difference_count: u64,
    /// Some of them.
    pub differences: Vec<Unlike>,
    /// Everything was read since then: RFC 3339.
    pub all_since: Option<String>,
}

impl Scrubbed {
    /// As another end has told it, which may have no end.
    pub(crate) fn bounded(mut self) -> Scrubbed {
        self.differences.truncate(TOLD);
        self.difference_count = self.difference_count.max(self.differences.len() as u64);
        Scrubbed {
            all_since: self.all_since.filter(|since| since.parse::<jiff::Timestamp>().is_ok()),
            ..self
        }
    }

    pub(crate) fn at(mut self, state: &Scrub) -> Scrubbed {
        self.all_since = Some(moment(state.all_since()));
        self
    }
}

/// A file that is not the same on both sides, and what is wrong with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unlike {
    pub path: String,
    pub what: String,
}

/// A standby's scrubs, as its primary knows them.
#[derive(Debug, Serialize)]
pub struct ScrubStatus {
    pub files: u64,
    pub bytes: u64,
    pub differences: u64,
    /// Paths that the next round brings again.
    pub pending: Vec<String>,
    pub all_since: String,
}

impl ScrubStatus {
    pub(crate) fn of(state: &Scrub) -> ScrubStatus {
        ScrubStatus {
            files: state.files,
            bytes: state.bytes,
            differences: state.differences,
            pending: state.pending.values().cloned().collect(),
            all_since: moment(state.all_since()),
        }
    }
}

fn moment(seconds: u64) -> String {
    jiff::Timestamp::from_second(seconds as i64).unwrap_or_default().to_string()
}

#[derive(Debug, Serialize)]
pub struct Diff {
    pub verb: &'static str,
    #[serde(serialize_with = "path_as_json")]
    pub base: PathBuf,
    #[serde(serialize_with = "path_as_json")]
    pub target: PathBuf,
    #[serde(serialize_with = "optional_path_as_json")]
    pub output: Option<PathBuf>,
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
    pub set_aside: Option<SnapshotInfo>,
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

/// Differences that are told.
pub(crate) const TOLD: usize = 20;
