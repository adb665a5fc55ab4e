//! Names the manifests that are kept.

use crate::log::past::Past;
use snapsync_model::{Monitor, Result};
use std::path::{Path, PathBuf};

/// The files of the kept manifests of a volume, oldest first, and what is to be said about them. Manifests of
/// a log, and those that nobody has kept, are put into a directory.
pub fn kept(place: &Path, dir: &Path, monitor: &Monitor) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let files = Past::ask(place, monitor, |past| past.history.files_in(dir))?;
    Ok((files, monitor.take_notes()))
}
