//! What lies in a tree and in no snapshot of it.

use crate::Matcher;
use rustix::fs::{Mode, OFlags};
use snapsync_model::{Context, Kind, RelPath, Result, Subset};
use snapsync_sys::{Root, btrfs, stat_at};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// The first of a path and what is beneath it that a snapshot of `subset` does not hold: one that patterns leave out, a mount,
/// a subvolume.
pub fn left_out(root: &Root, path: &RelPath, is_dir: bool, subset: &Subset) -> Result<Option<RelPath>> {
    let matcher = Matcher::new(subset)?;
    for at in ancestors(path) {
        if let Some((above, name)) = at.split()
            && matcher.leaves_out(&above, name, is_dir || at != *path)?
        {
            return Ok(Some(at));
        }
    }
    let mut waiting = if is_dir { vec![path.clone()] } else { Vec::new() };
    while let Some(path) = waiting.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = match root.open_at(&path, flags, Mode::empty()) {
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => return Ok(Some(path)),
            other => other.context("open the directory", root.show(&path))?,
        };
        if !path.is_root() && btrfs::is_subvolume(&dir).context("read the subvolume of", root.show(&path))? {
            return Ok(Some(path));
        }
        for entry in snapsync_sys::read_dir(&dir).context("list", root.show(&path))? {
            let inner = path.join(&entry.name)?;
            let is_dir = match entry.is_dir {
                Some(is_dir) => is_dir,
                None => {
                    let stat = stat_at(&dir, OsStr::from_bytes(&entry.name));
                    stat.context("read the attributes of", root.show(&inner))?.kind == Kind::Directory
                }
            };
            if matcher.leaves_out(&path, &entry.name, is_dir)? {
                return Ok(Some(inner));
            }
            if is_dir {
                waiting.push(inner);
            }
        }
    }
    Ok(None)
}

/// A path and those it is in, the outermost first.
fn ancestors(path: &RelPath) -> Vec<RelPath> {
    let up = |path: &RelPath| path.split().map(|(above, _)| above);
    let mut found: Vec<_> = std::iter::successors(Some(path.clone()), up).collect();
    found.reverse();
    found
}
