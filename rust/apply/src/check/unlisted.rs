//! Entries that somebody put by hand into a directory that will be removed.

use snapsync_model::{Change, Context, Kind, Link, RelPath, Result};
use snapsync_sys::{Root, read_dir};
use std::collections::HashSet;
use std::io;

/// The entries of a directory deleted by the manifest that the manifest does not remove: they would be lost
/// with it.
pub(crate) fn unlisted(root: &Root, change: &Change, removed: &HashSet<Link>) -> Result<Vec<RelPath>> {
    let (true, Kind::Directory, Some(path)) = (change.flags.deleted, change.kind, &change.old_path) else {
        return Ok(Vec::new());
    };
    unknown(root, path, change.ino, removed)
}

/// The entries of a directory that are not among the known names.
pub(crate) fn unknown(root: &Root, path: &RelPath, ino: u64, known: &HashSet<Link>) -> Result<Vec<RelPath>> {
    let entries = match root.read(path).and_then(read_dir) {
        // It was reported as missing already, or an ordinary user took away his own right to read it.
        Err(e) if is_absent(&e) || e.kind() == io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
        other => other.context("read the directory", root.show(path))?,
    };
    let names = entries.into_iter().map(|entry| Link { parent: ino, name: entry.name });
    names.filter(|link| !known.contains(link)).map(|link| path.join(&link.name)).collect()
}

/// Whether nothing is there, or something else is on the way to it.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    // ENOENT, ENOTDIR, ELOOP, EXDEV
    matches!(error.raw_os_error(), Some(2 | 20 | 40 | 18))
}
