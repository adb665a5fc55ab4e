//! Removes what a failed round has made.

use crate::location::target::volume_around;
use crate::process::{hooks, taking};
use rustix::fs::{AtFlags, Mode};
use snapsync_apply::Journal;
use snapsync_model::{Context, Error, Monitor, Result};
use snapsync_snapshot::{LockedVolume, Volume};
use snapsync_sys::{Root, btrfs};
use std::ffi::{OsStr, OsString};

/// Checks that the tree can be read-only between rounds, which only a subvolume can be.
pub(crate) fn can_be_kept(root: &Root, read_only: bool) -> Result<()> {
    let path = root.path();
    if let Some(part) = root.part().filter(|_| read_only) {
        return Err(Error::usage(
            format!("{part} is a part of {}, and only a whole tree is made read-only", path.display()),
            "leave out --read-only",
        ));
    }
    if !read_only || btrfs::is_subvolume(root.fd()).context("read the subvolume of", path)? {
        return Ok(());
    }
    Err(Error::usage(
        format!("{} is not a Btrfs subvolume: it cannot be made read-only", path.display()),
        "leave out --read-only",
    ))
}

/// Says of a new volume that it is part of the tree of another, which is seldom meant.
pub(crate) fn tell_what_it_lies_in(root: &Root, monitor: &Monitor) {
    if let Some(outer) = volume_around(root.path()) {
        let (path, outer) = (root.path().display(), outer.path().display());
        monitor.note(format!(
            "{path} lies in the volume {outer}, and is a volume of its own now: snapshots of {outer} hold \
             what is in it, but not its snapshots"
        ));
    }
}

/// Chooses what a new primary keeps of older snapshots, where nobody has said it.
pub(crate) fn choose_history(volume: &mut LockedVolume, monitor: &Monitor) -> Result<()> {
    volume.choose_history()?;
    if volume.is_light() {
        let path = volume.path().display();
        monitor.note(format!(
            "{path} keeps no copy of what it holds, because its file system cannot share blocks: its \
             standbys have the history. `snapsync init {path} --history full` keeps one there as well"
        ));
    }
    Ok(())
}

/// What a round has made, to be removed if it fails before anything is in it.
#[derive(Default)]
pub(crate) struct Made {
    pub(crate) store: Option<Volume>,
    /// The parent of the directory, and its name there.
    pub(crate) directory: Option<(Root, OsString)>,
}

impl Made {
    pub(crate) fn unmake(self) {
        // The failure itself is reported. The next round finds whatever is left vacant.
        if let Some(volume) = self.store {
            // Another command may be using it by now.
            let Ok(volume) = volume.lock() else { return };
            let untouched = Journal::load(&volume.store()).is_ok_and(|j| j.is_none());
            if !untouched
                || hooks::is_held(&volume)
                || taking::is_left(&volume)
                || volume.snapshots().is_ok_and(|s| !s.is_empty())
            {
                return;
            }
            let _ = volume.remove_store();
        }
        if let Some((above, name)) = self.directory {
            let _ = remove_made_directory(&above, &name);
        }
    }
}

fn remove_made_directory(above: &Root, name: &OsStr) -> Result<()> {
    let show = above.path().join(name);
    let made = above.step(name).context("open", &show)?;
    let is_subvolume = btrfs::is_subvolume(made.fd()).unwrap_or(false);
    if !snapsync_sys::read_dir(made.fd()).context("list", &show)?.is_empty() {
        return Ok(());
    }
    if is_subvolume {
        return btrfs::delete_subvolume(above.fd(), name).context("delete the subvolume", show);
    }
    rustix::fs::unlinkat(above.fd(), name, AtFlags::REMOVEDIR).context("remove", show)
}

/// Makes a subvolume if the file system has them, otherwise a directory. Nobody else may enter it until its
/// first commit sets its mode.
pub(crate) fn make_target(above: &Root, name: &OsStr) -> Result<Root> {
    let show = above.path().join(name);
    let filesystem = snapsync_sys::filesystem(above.fd()).context("read the file system of", above.path())?;
    if filesystem.name() == "btrfs" {
        btrfs::create_subvolume(above.fd(), name).context("create the subvolume", &show)?;
    } else {
        rustix::fs::mkdirat(above.fd(), name, Mode::RWXU).context("create the directory", &show)?;
    }
    above.step(name).context("open the directory", show)
}
