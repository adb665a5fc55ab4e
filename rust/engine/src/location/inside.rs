//! Paths in a volume.

use crate::location::directory::existing_directory;
use snapsync_model::{Error, RelPath, Result};
use snapsync_snapshot::Volume;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// The directories above a path, the root last.
pub(crate) fn above(path: &RelPath) -> impl Iterator<Item = RelPath> + use<> {
    std::iter::successors(path.split().map(|(dir, _)| dir), |dir| dir.split().map(|(dir, _)| dir))
}

/// Paths as users name them in a volume; each once.
pub(crate) fn within<P: AsRef<Path>>(volume: &Path, paths: &[P]) -> Result<Vec<RelPath>> {
    let found = paths.iter().map(|path| relative(volume, path.as_ref()));
    Ok(found.collect::<Result<BTreeSet<_>>>()?.into_iter().collect())
}

/// The paths that are not inside another one.
pub(crate) fn outermost(paths: &[RelPath]) -> Vec<RelPath> {
    let all: BTreeSet<&RelPath> = paths.iter().collect();
    let inner = |path: &RelPath| above(path).any(|above| all.contains(&above));
    paths.iter().filter(|path| !inner(path)).cloned().collect()
}

/// The path below the root: it is given relative to the root, or absolute and inside the volume.
pub(crate) fn relative(volume: &Path, path: &Path) -> Result<RelPath> {
    let outside = || {
        Error::usage(
            format!("{} is not in {}", path.display(), volume.display()),
            "name paths from the volume's root down, or absolute ones inside it",
        )
    };
    let inner =
        if path.is_absolute() { inside(volume, path).ok_or_else(outside)? } else { path.to_path_buf() };
    let mut found = RelPath::root();
    for part in inner.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => found = found.join(name.as_bytes())?,
            _ => return Err(outside()),
        }
    }
    Ok(found)
}

/// The path below the volume, by whatever name the volume is reached.
fn inside(volume: &Path, path: &Path) -> Option<std::path::PathBuf> {
    let is_volume = |above: &&Path| existing_directory(above).is_ok_and(|above| above == volume);
    let top = if path.starts_with(volume) { Some(volume) } else { path.ancestors().find(is_volume) };
    top.and_then(|top| path.strip_prefix(top).ok()).map(Path::to_path_buf)
}

pub(crate) fn is_in_store(path: &Path, volume: &Volume) -> bool {
    path.starts_with(volume.root().path().join(snapsync_walk::STORE))
}
