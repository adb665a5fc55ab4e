//! The snapshots of a volume.

use crate::location::directory::existing_directory;
use crate::report::snapshots::Listed;
use crate::volume::holds::holds;
use snapsync_model::Result;
use snapsync_snapshot::Volume;
use std::path::Path;

/// `alone`: what each snapshot holds by itself, which takes a look at many files of the store.
pub fn list(path: &Path, alone: bool) -> Result<Listed> {
    let volume = Volume::open(&existing_directory(path)?)?;
    let (snapshots, holds) = (volume.snapshots()?, holds(&volume)?);
    let clones = crate::verbs::clone::clones(&volume)?;
    let alone = if alone { volume.alone(&snapshots) } else { Vec::new() };
    Ok(Listed { verb: "list", volume: volume.info(), snapshots, alone, holds, clones })
}
