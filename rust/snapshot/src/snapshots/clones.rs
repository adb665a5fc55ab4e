//! Writable copies of snapshots outside the store. Their identities are recorded, so that no other directory
//! is deleted.

use crate::store::mark::{Mark, split};
use crate::store::restoring::strip;
use crate::volume::handle::Volume;
use crate::volume::locked::LockedVolume;
use crate::volume::record::CloneRecord;
use rustix::fs::AtFlags;
use snapsync_model::{Context, Error, Provider, Result, SnapshotInfo, Subset};
use snapsync_sys::{Root, btrfs, remove_all_in};
use std::ffi::OsStr;
use std::io;
use std::path::Path;

impl CloneRecord {
    pub fn of(path: &Path, mark: Mark, snapshot: &SnapshotInfo) -> CloneRecord {
        CloneRecord {
            path: path.to_path_buf(),
            snapshot: snapshot.id,
            of: snapshot.name.clone(),
            at: jiff::Timestamp::now().to_string(),
            mark,
        }
    }

    /// Whether the directory at its path still is this clone.
    pub fn is_there(&self) -> Result<bool> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_dir() => Ok(Mark::of(&Root::open(&self.path)?)? == self.mark),
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(e).context("read the attributes of", &self.path)
            }
            _ => Ok(false),
        }
    }

    /// Removes the directory, unless it contains something that is not the clone's own.
    pub fn remove(&self) -> Result<()> {
        let refused = |what: String, why: &str| {
            Err(Error::refused(
                format!("cannot delete {}: {what} {why}", self.path.display()),
                "move it away first",
            ))
        };
        let (above, name) = split(&self.path)?;
        let root = above.directory_in(name)?;
        if Mark::of(&root)? != self.mark {
            return refused("what is there".to_owned(), "is not the clone any more");
        }
        if Volume::find_in(root.again()?)?.is_some() {
            return refused("it".to_owned(), "is a volume with snapshots of its own by now");
        }
        let inner =
            snapsync_walk::left_out(&root, &snapsync_model::RelPath::root(), true, &Subset::default())?;
        if let Some(inner) = inner {
            return refused(root.show(&inner).display().to_string(), "is a mount or a subvolume in it");
        }
        if self.mark.subvolume.is_some() {
            return btrfs::delete_subvolume(above.fd(), name).context("delete the subvolume", &self.path);
        }
        // Removes the content of the checked directory. Another one that has its name by now is removed only
        // if it is empty.
        remove_all_in(root.fd()).context("remove", &self.path)?;
        rustix::fs::unlinkat(above.fd(), name, AtFlags::REMOVEDIR).context("remove", &self.path)
    }
}

/// The place of a clone until it is complete.
const WORK: &str = "clone";

impl Volume {
    /// Refuses the name of a clone, because `delete` accepts both kinds.
    pub(crate) fn is_no_clone(&self, name: &str) -> Result<()> {
        match self.clones().get(name) {
            None => Ok(()),
            Some(clone) => Err(Error::usage(
                format!("there is a clone named {name:?} already: {}", clone.path.display()),
                "choose another name, or delete that clone first",
            )),
        }
    }
}

impl LockedVolume {
    /// Makes `name` in `above`, which is absent or empty, a writable snapshot of a snapshot's tree. None
    /// where that cannot be.
    pub fn clone_tree(&self, info: &SnapshotInfo, above: &Root, name: &OsStr) -> Result<Option<Mark>> {
        if info.provider != Provider::Btrfs || !info.subset.is_everything() {
            return Ok(None);
        }
        let Some(tree) = self.tree_of(info) else { return Ok(None) };
        let (of, store) = (tree.tree()?, self.store());
        let into = store.directory().context("open", store.show())?;
        match btrfs::create_writable_snapshot(of.fd(), &into, OsStr::new(WORK)) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            other => other.context("take a writable snapshot of", of.path())?,
        }
        let made = store.join(WORK).tree()?;
        strip(&made)?;
        let mark = Mark::of(&made)?;
        snapsync_sys::fault::point("clone.made");
        // This also replaces an empty directory, but never crosses file systems or mounts.
        let is_moved = rustix::fs::renameat(into, WORK, above.fd(), name).is_ok();
        if is_moved { Ok(Some(mark)) } else { self.clear_clone().map(|_| None) }
    }

    /// Removes what a killed `clone` has left; returns whether there was anything.
    pub(crate) fn clear_clone(&self) -> Result<bool> {
        let store = self.store();
        if !store.join(WORK).is_there() {
            return Ok(false);
        }
        let dir = store.directory().context("open", store.show())?;
        btrfs::delete_subvolume(dir, OsStr::new(WORK)).context("delete the subvolume", store.show())?;
        Ok(true)
    }
}
