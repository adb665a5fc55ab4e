//! What is told of a comparison by content.

use serde::Serialize;
use snapsync_apply::Loss;
use snapsync_model::{Counts, SnapshotInfo, path_as_json};
use std::path::PathBuf;

pub type Changes = Counts;

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
    /// Files of one size and time whose content was neither read nor proven by where it lies, and their
    /// bytes.
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
