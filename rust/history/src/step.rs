//! One manifest of a history.

use snapsync_manifest::{ManifestHeader, ManifestReader};
use snapsync_model::{Counts, Result, SnapshotInfo};
use snapsync_sys::Named;

/// The changes from one snapshot to the next.
pub struct Step {
    pub header: ManifestHeader,
    pub counts: Counts,
    /// Of the file, in bytes.
    pub bytes: u64,
    /// Whether the manifest before it is missing: what it changes may never have been seen.
    pub after_gap: bool,
    file: Box<dyn Named + Send + Sync>,
}

impl Step {
    /// Reads what the manifest says of itself.
    pub fn open(file: Box<dyn Named + Send + Sync>, bytes: u64) -> Result<Step> {
        let reader = ManifestReader::open(&*file)?;
        let (header, counts) = (reader.header()?, reader.counts()?);
        Ok(Step { header, counts, bytes, after_gap: false, file })
    }

    /// The same, of a snapshot that its manifest may not name.
    pub fn of(mut self, snapshot: &SnapshotInfo) -> Step {
        self.header.name = snapshot.name.clone();
        self.header.sequence = Some(snapshot.sequence);
        self.header.created = snapshot.created.clone();
        self.header.target = snapshot.id.to_string();
        self
    }

    /// Its rows.
    pub fn read(&self) -> Result<ManifestReader> {
        ManifestReader::open(&*self.file)
    }

    pub fn file(&self) -> &(dyn Named + Send + Sync) {
        &*self.file
    }
}
