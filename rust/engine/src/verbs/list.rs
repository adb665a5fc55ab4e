//! The snapshots of a volume.

use crate::location::directory::existing_directory;
use crate::report::snapshots::Listed;
use crate::volume::holds::holds;
use snapsync_model::Result;
use snapsync_snapshot::Volume;
use std::path::Path;

pub fn list(path: &Path) -> Result<Listed> {
    let volume = Volume::open(&existing_directory(path)?)?;
    let (snapshots, holds) = (volume.snapshots()?, holds(&volume)?);
    let clones = crate::verbs::clone::clones(&volume)?;
    Ok(Listed { verb: "list", volume: volume.info(), snapshots, holds, clones })
}
