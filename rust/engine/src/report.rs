//! What each verb tells when it is done; the JSON of the command line.

use crate::scrub;
use serde::{Deserialize, Serialize, Serializer};
use snapsync_apply::Loss;
use snapsync_model::{Counters, Counts, SnapshotInfo, VolumeInfo, path_as_json};
use snapsync_snapshot::CloneRecord;
use snapsync_snapshot::{Claim, Scrub};
use std::path::PathBuf;
use uuid::Uuid;

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
        self.differences.truncate(scrub::TOLD);
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
pub struct Held {
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
    /// What was to be read: full, quick or sample; and which share of it.
    pub mode: &'static str,
    pub seed: Option<u64>,
    /// Files that were read on both sides.
    pub read_entries: u64,
    /// Files of one size and time whose content was neither read nor proven by where it lies, and their bytes.
    pub unproven: u64,
    pub unproven_bytes: u64,
    pub difference_count: u64,
    pub differences: Vec<Difference>,
    /// What a standby that was to be mended had before; None where none was.
    pub mended: Option<Mended>,
    pub notes: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Default, Serialize)]
pub struct Mended {
    /// Before.
    pub difference_count: u64,
    pub differences: Vec<Difference>,
    pub changes: Changes,
    pub data_bytes: u64,
    pub losses: Vec<Loss>,
    /// Changes by hand, which were kept as this snapshot.
    pub set_aside: Option<SnapshotInfo>,
    pub recovered: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Unfinished {
    pub phase: String,
    /// `recover --back` makes the tree what it was.
    pub can_go_back: bool,
    pub snapshot: String,
}

#[derive(Debug, Serialize)]
pub struct Recovered {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    /// What the tree holds, unless something is still unfinished.
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
    /// Snapshots that the primary has taken since.
    pub lag: u64,
    /// None where no round has told yet.
    pub scrub: Option<ScrubStatus>,
    /// It says that it is of a later epoch, and is not fed.
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
    /// What standbys say of one that was promoted in the stead of this one.
    pub replaced: Option<Replaced>,
    /// As a standby its tree is read-only between rounds.
    pub read_only: bool,
}

/// A standby that became the primary.
#[derive(Debug, Serialize, Deserialize)]
pub struct Promoted {
    pub verb: String,
    pub volume: VolumeInfo,
    /// The last snapshot that came from the old primary, and the first of the new one.
    pub newest: SnapshotInfo,
    pub snapshot: SnapshotInfo,
    /// Changes by hand, which were kept as this snapshot.
    pub set_aside: Option<SnapshotInfo>,
    pub recovered: Vec<String>,
    pub notes: Vec<String>,
}

/// A volume that went back to a snapshot it has in common with a primary.
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
    /// What the old primary had of its own: snapshots that are kept aside.
    pub left: Vec<SnapshotInfo>,
    /// What was undone to go back to the common snapshot.
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
    /// None where an interrupted switch had done that already.
    pub promoted: Option<Promoted>,
    pub round: Synced,
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

#[derive(Debug, Serialize)]
pub struct Initialised {
    pub verb: &'static str,
    pub volume: VolumeInfo,
    pub read_only: bool,
    pub recovered: Vec<String>,
}
