//! The snapshots of a volume, or of a log.

use crate::location::directory::open_volume;
use crate::log::seen;
use crate::report::snapshots::Listed;
use crate::volume::holds::holds;
use crate::volume::parts::parts;
use snapsync_log::LogAddress;
use snapsync_model::Result;
use snapsync_snapshot::Volume;
use std::path::Path;

/// `alone`: what each snapshot holds by itself, which takes a look at many files of the store.
pub fn list(path: &Path, alone: bool) -> Result<Listed> {
    if let Some(log) = LogAddress::parse(path)? {
        return seen::list(&log);
    }
    list_in(&open_volume(path)?, alone)
}

/// The same of a volume that is open.
pub(crate) fn list_in(volume: &Volume, alone: bool) -> Result<Listed> {
    let (snapshots, holds) = (volume.snapshots()?, holds(volume)?);
    let clones = crate::verbs::clone::clones(volume)?;
    let alone = if alone { volume.alone(&snapshots) } else { Vec::new() };
    let parts = parts(volume)?;
    Ok(Listed { verb: "list", volume: volume.info(), snapshots, alone, holds, clones, parts })
}
