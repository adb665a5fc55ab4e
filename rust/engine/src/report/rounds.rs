//! Reports of rounds, deltas and differences.

use crate::report::checks::Changes;
use crate::report::history::ShownPath;
use serde::{Deserialize, Serialize, Serializer};
use snapsync_apply::Loss;
use snapsync_model::{
    Attributes, Change, Counters, Guarded, Kind, Result, Skipped, SnapshotInfo, VolumeInfo, path_as_json,
};
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
    /// What could not be read, and is as it was before.
    pub skipped: Vec<Skipped>,
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
    /// The bytes and inodes that the round takes there on the way, and the bytes that are free, if the
    /// standby tells them.
    pub needed: Option<u64>,
    pub needed_inodes: Option<u64>,
    pub available: Option<u64>,
    /// What the standby cannot hold, if it tells that.
    pub losses: Option<Vec<Loss>>,
    /// What the guard measures; None if there is none.
    pub guard: Option<Guarded>,
    /// Why the round would be refused, and what to do about that.
    pub refused: Option<String>,
    pub advice: Option<String>,
    /// Every change, if that was asked for.
    pub paths: Option<Vec<PlannedChange>>,
    pub unchanged: bool,
    pub notes: Vec<String>,
    pub counters: Counters,
    pub seconds: f64,
}

/// One change of a plan.
#[derive(Debug, Serialize)]
pub struct PlannedChange {
    pub kind: &'static str,
    pub path: ShownPath,
    /// Where it was, if that was elsewhere.
    pub old_path: Option<ShownPath>,
    /// What of it changes.
    pub flags: Vec<&'static str>,
    pub size: Option<u64>,
    pub size_old: Option<u64>,
    pub data_bytes: u64,
}

impl PlannedChange {
    /// None where nothing changes, and other rows only name what is there.
    pub(crate) fn of(change: &Change) -> Option<PlannedChange> {
        let path = change.path.as_ref().or(change.old_path.as_ref()).filter(|_| change.flags.any())?;
        let old = change.old_path.as_ref().filter(|old| change.flags.renamed && *old != path);
        let size = |side: Option<Attributes>| side.filter(|_| change.kind == Kind::File).map(|a| a.size);
        Some(PlannedChange {
            kind: change.kind.name(),
            path: ShownPath::of(path),
            old_path: old.map(ShownPath::of),
            flags: change.flags.names().collect(),
            size: size(change.new),
            size_old: size(change.old),
            data_bytes: change.data_bytes(),
        })
    }
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
