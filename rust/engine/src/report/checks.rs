//! Reports of comparisons by content.

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
    /// The bytes of files that were read and found equal.
    pub bytes: u64,
    /// What should be read (full, quick or sample), and how much of it.
    pub mode: &'static str,
    pub seed: Option<u64>,
    /// The number of files that were read on both sides.
    pub read_entries: u64,
    /// The files with equal size and time whose content was neither read nor proven equal by its address, and
    /// their bytes.
    pub unproven: u64,
    pub unproven_bytes: u64,
    pub difference_count: u64,
    pub differences: Vec<Difference>,
    /// What a repaired standby had before; None if nothing was repaired.
    pub mended: Option<Mended>,
    pub notes: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Default, Serialize)]
pub struct Mended {
    /// The number of differences before.
    pub difference_count: u64,
    pub differences: Vec<Difference>,
    pub changes: Changes,
    pub data_bytes: u64,
    pub losses: Vec<Loss>,
    /// The snapshot that keeps changes made by hand.
    pub set_aside: Option<SnapshotInfo>,
    pub recovered: Vec<String>,
}
