//! Finds what lies in a tree but in no snapshot of it.

use crate::names::STORE;
use crate::subset::Matcher;
use rustix::fs::{Mode, OFlags};
use snapsync_model::{Context, Kind, RelPath, Result, Subset};
use snapsync_sys::{Root, btrfs, stat_at};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// The first of `path` and the entries beneath it that a snapshot of `subset` does not hold: it is excluded
/// by patterns, a mount, a subvolume, or a store.
pub fn left_out(root: &Root, path: &RelPath, is_dir: bool, subset: &Subset) -> Result<Option<RelPath>> {
    let matcher = Matcher::new(subset)?;
    if let Some(at) = matcher.left_out_on(path, is_dir)? {
        return Ok(Some(at));
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
            if *entry.name == *STORE.as_bytes() || matcher.leaves_out(&path, &entry.name, is_dir)? {
                return Ok(Some(inner));
            }
            if is_dir {
                waiting.push(inner);
            }
        }
    }
    Ok(None)
}
