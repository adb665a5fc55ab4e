//! Reports of rounds, deltas and differences.

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
    /// The bytes that were sent, and those of the whole tree.
    pub data_bytes: u64,
    /// The bytes of data that an interrupted round had already brought.
    pub kept_bytes: u64,
    pub tree_bytes: u64,
    pub tree_entries: u64,
    pub losses: Vec<Loss>,
    pub notes: Vec<String>,
    pub recovered: Vec<String>,
    /// The snapshot that keeps changes made to the standby by hand.
    pub set_aside: Option<SnapshotInfo>,
    pub pruned: Vec<SnapshotInfo>,
    pub scrub: Scrubbed,
    pub unchanged: bool,
    pub counters: Counters,
    pub seconds: f64,
    /// What this end has not seen itself.
    pub claimed: Option<Claimed>,
}

/// What a round would do.
#[derive(Debug, Serialize)]
pub struct Planned {
    pub verb: &'static str,
    #[serde(serialize_with = "path_as_json")]
    pub source: PathBuf,
    pub target: String,
    pub base: Option<SnapshotInfo>,
    pub changes: Changes,
    pub data_bytes: u64,
    pub tree_bytes: u64,
    pub tree_entries: u64,
    /// The bytes that are free on the standby's file system, if it tells them.
    pub available: Option<u64>,
    /// Why a guard would refuse it, or `strict` for nested subvolumes.
    pub refused: Option<String>,
    pub unchanged: bool,
    pub notes: Vec<String>,
    pub counters: Counters,
    pub seconds: f64,
}

/// The parts of a report that only the other end of a round could see.
#[derive(Debug, Serialize)]
pub struct Claimed {
    pub by: String,
    pub what: Vec<&'static str>,
}

/// What a round has read again of data that both sides have, and what it sent again.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrubbed {
    pub files: u64,
    /// On each side.
    pub bytes: u64,
    /// The files that earlier rounds found different, and that this one sent again.
    pub mended: u64,
    pub difference_count: u64,
    /// Some of the differences.
    pub differences: Vec<Unlike>,
    /// Everything was read since then, in RFC 3339.
    pub all_since: Option<String>,
}

impl Scrubbed {
    /// Limits a report from another end, which may be of any size.
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

/// A file that differs between both sides, and the reason.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unlike {
    pub path: String,
    pub what: String,
}

/// The scrubs of a standby, as its primary knows them.
#[derive(Debug, Serialize)]
pub struct ScrubStatus {
    pub files: u64,
    pub bytes: u64,
    pub differences: u64,
    /// The paths that the next round sends again.
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
    /// The size of the data as it was sent.
    pub stored_bytes: u64,
    pub notes: Vec<String>,
    pub counters: Counters,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Received {
    pub verb: &'static str,
    /// The volume that it was applied to, or the path of the received snapshot.
    pub standby: Option<VolumeInfo>,
    #[serde(serialize_with = "optional_path_as_json")]
    pub path: Option<PathBuf>,
    pub base: Option<SnapshotInfo>,
    pub snapshot: SnapshotInfo,
    pub changes: Changes,
    pub data_bytes: u64,
    /// The bytes of data that an interrupted receive had already brought.
    pub kept_bytes: u64,
    pub losses: Vec<Loss>,
    pub notes: Vec<String>,
    pub recovered: Vec<String>,
    pub set_aside: Option<SnapshotInfo>,
    pub counters: Counters,
    pub seconds: f64,
}

/// The description in a delta's head, and the totals of its frames.
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
    /// Whether it has its end, and all frames that the end record counts.
    pub complete: bool,
}

fn optional_path_as_json<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => path_as_json(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// The most differences that are listed.
pub(crate) const TOLD: usize = 20;
