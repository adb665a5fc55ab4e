//! Directories that have become subvolumes. What a subvolume holds is not replicated, so what the directory
//! held goes from the standby as if it had been deleted, though it may all be there still: that is said of
//! each.

use snapsync_manifest::ManifestReader;
use snapsync_model::{Context, Error, Kind, Monitor, RelPath, Result};
use snapsync_sys::{FileSystem, Named, Root, stat_at, stat_of};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Tells of directories that `manifest` deletes where the tree, its target, has a subvolume now. `strict`
/// refuses them.
pub(crate) fn tell(root: &Root, manifest: &dyn Named, strict: bool, monitor: &Monitor) -> Result<()> {
    let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", root.path())?;
    if filesystem.magic != FileSystem::BTRFS {
        return Ok(());
    }
    let lost = lost(root, manifest)?;
    for (path, entries) in lost.iter().filter(|(_, entries)| **entries > 0) {
        let noun = if *entries == 1 { "entry" } else { "entries" };
        let what = format!(
            "{} was a directory and is a subvolume now, which is not replicated: what it held, {entries} \
             {noun}, is \
             deleted from the standby and stays in its earlier snapshots",
            path.display()
        );
        if strict {
            let advice = "make the subvolume a volume of its own, and leave its path out with --exclude";
            return Err(Error::refused(what, advice));
        }
        monitor.note(what);
    }
    Ok(())
}

/// The outermost directories that became subvolumes, with how many entries in each are deleted.
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

/// A snapshot shows an empty directory on a device of its own in the place of each.
fn is_subvolume(root: &Root, path: &RelPath) -> Result<bool> {
    let Some((above, name)) = path.split() else { return Ok(false) };
    let Ok(dir) = root.directory(&above) else { return Ok(false) };
    let top = stat_of(root.fd()).context("read the attributes of", root.path())?;
    let found = stat_at(dir, OsStr::from_bytes(name));
    Ok(found
        .is_ok_and(|found| found.kind == Kind::Directory && found.dev != top.dev && found.mount == top.mount))
}
