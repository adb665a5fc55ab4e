//! The snapshots of a volume.

use crate::location::directory::open_volume;
use crate::report::snapshots::Listed;
use crate::volume::holds::holds;
use crate::volume::parts::parts;
use snapsync_model::Result;
use std::path::Path;

/// `alone`: what each snapshot holds by itself, which takes a look at many files of the store.
pub fn list(path: &Path, alone: bool) -> Result<Listed> {
    let volume = open_volume(path)?;
    let (snapshots, holds) = (volume.snapshots()?, holds(&volume)?);
    let clones = crate::verbs::clone::clones(&volume)?;
    let alone = if alone { volume.alone(&snapshots) } else { Vec::new() };
    let parts = parts(&volume)?;
    Ok(Listed { verb: "list", volume: volume.info(), snapshots, alone, holds, clones, parts })
}
