//! Reports directories that became subvolumes. The content of a subvolume is not replicated, so it is deleted
//! on the standby though it may still exist here.

use snapsync_manifest::ManifestReader;
use snapsync_model::{Context, Error, Kind, Monitor, RelPath, Result, entries};
use snapsync_sys::{FileSystem, Named, Root, stat_at, stat_of};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Reports directories that `manifest` deletes and that are subvolumes in its target, the tree. `strict`
/// refuses them.
pub(crate) fn tell(root: &Root, manifest: &dyn Named, strict: bool, monitor: &Monitor) -> Result<()> {
    let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", root.path())?;
    if filesystem.magic != FileSystem::BTRFS {
        return Ok(());
    }
    let lost = lost(root, manifest)?;
    for (path, held) in lost.iter().filter(|(_, held)| **held > 0) {
        let what = format!(
            "{} was a directory and is a subvolume now, which is not replicated: what it held ({}) is \
             deleted from the standby and stays in its earlier snapshots",
            path.display(),
            entries(*held)
        );
        if strict {
            let advice = "make the subvolume a volume of its own, and leave its path out with --exclude";
            return Err(Error::refused(what, advice));
        }
        monitor.note(what);
    }
    Ok(())
}

/// The outermost directories that became subvolumes, with the number of entries deleted in each.
fn lost(root: &Root, manifest: &dyn Named) -> Result<BTreeMap<RelPath, u64>> {
    let mut lost = BTreeMap::new();
    for change in ManifestReader::open(manifest)?.only(|row| row.flags.deleted && row.kind == Kind::Directory)
    {
        let path = change?.old_path.unwrap_or_default();
        if is_subvolume(root, &path)? {
            lost.insert(path, 0);
        }
    }
    if lost.is_empty() {
        return Ok(lost);
    }
    for change in ManifestReader::open(manifest)?.only(|row| row.flags.deleted) {
        let mut path = change?.old_path.unwrap_or_default();
        while let Some((above, _)) = path.split() {
            if let Some(entries) = lost.get_mut(&above) {
                *entries += 1;
                break;
            }
            path = above;
        }
    }
    Ok(lost)
}

/// A snapshot shows each as an empty directory with a device number of its own.
fn is_subvolume(root: &Root, path: &RelPath) -> Result<bool> {
    let Some((above, name)) = path.split() else { return Ok(false) };
    let Ok(dir) = root.directory(&above) else { return Ok(false) };
    let top = stat_of(root.fd()).context("read the attributes of", root.path())?;
    let found = stat_at(dir, OsStr::from_bytes(name));
    Ok(found
        .is_ok_and(|found| found.kind == Kind::Directory && found.dev != top.dev && found.mount == top.mount))
}
