//! The area of a shelf in which snapshots are received.

use crate::received::identity::{receiving, subvolume_at, unreadable};
use serde::{Deserialize, Serialize};
use snapsync_model::{Attributes, Context, Error, Identity, Result};
use snapsync_sys::{
    Entry, Lock, PROTECTIVE, Root, Spot, btrfs, clear_flags_of, flags_of, remove_tree, set_flags_of, stat_at,
};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const LOCK: &str = "lock";
pub(super) const MADE: &str = "made";
pub(super) const ROOT: &str = "root.json";

/// The content of `made`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) base: Option<Identity>,
}

/// `root.json`: the attributes of a tree's root, which it loses until it is published.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct RootState {
    pub(super) flags: u32,
    mtime: i64,
    /// As in `Attributes`.
    #[serde(default)]
    far_second: i64,
}

/// Makes the working area of a snapshot unless it exists, and locks it.
pub(super) fn claim_area(shelf: &Arc<Root>, id: Uuid) -> Result<(Spot, Lock)> {
    let all = receiving(shelf);
    let area = all.join(id.to_string());
    ensure_private(&all)?;
    // A command that heals the shelf holds this lock while it takes the locks of all areas, one after the
    // other.
    let _lock = all.join(LOCK).lock().context("lock", all.show())?;
    loop {
        ensure_private(&area)?;
        match lock_area(&area) {
            Ok(Some(lock)) => return Ok((area, lock)),
            Ok(None) => {
                return Err(Error::refused(
                    format!("another command is receiving this snapshot in {}", shelf.path().display()),
                    "wait until it has ended, then run this again",
                ));
            }
            // A command that has just ended removed it, so it is made again.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context("lock", area.show()),
        }
    }
}

/// Nobody may make or clear the area between its removal and that of its lock.
pub(super) fn remove_own_area(area: &Spot) -> Result<()> {
    let all = area.above().unwrap_or_else(|| area.clone());
    let lock = all.join(LOCK).lock().context("lock", area.show())?;
    remove_area(area, &lock)
}

/// `_all` is the lock of all areas.
pub(super) fn remove_area(area: &Spot, _all: &Lock) -> Result<()> {
    clear(area)?;
    area.remove_tree().context("remove", area.show())
}

/// None if another process holds it; an error of kind not found if it is gone, or disappeared while it was
/// locked.
pub(super) fn lock_area(area: &Spot) -> io::Result<Option<Lock>> {
    let file = area.join(LOCK);
    let Some(lock) = file.try_lock()? else { return Ok(None) };
    if lock.is_of(&file) { Ok(Some(lock)) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Makes a directory that only this user can enter, unless it exists.
pub(super) fn ensure_private(dir: &Spot) -> Result<()> {
    match dir.create_dir() {
        Ok(()) => make_private(dir),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e).context("create the directory", dir.show()),
    }
}

/// New entries must not inherit default ACLs, the group, or flags.
pub(super) fn make_private(dir: &Spot) -> Result<()> {
    dir.directory().and_then(make_own).context("set the attributes of", dir.show())
}

pub(super) fn make_own(dir: OwnedFd) -> io::Result<()> {
    clear_flags_of(&dir)?;
    let entry = Entry::from_open(dir);
    for xattr in entry.xattrs()?.iter().filter(|x| x.name.starts_with(b"system.posix_acl")) {
        entry.remove_xattr(&xattr.name)?;
    }
    entry.set_mode(0o700)
}

/// Empties the working area. The marker is removed first: without it nothing that is left counts as a
/// complete tree.
pub(super) fn clear(area: &Spot) -> Result<()> {
    let show = area.show();
    area.join(MADE).remove_file().context("remove", &show)?;
    area.sync().context("sync", &show)?;
    let root = area.tree()?;
    for entry in area.list().context("read the directory", &show)? {
        let name = OsStr::from_bytes(&entry.name);
        if name == LOCK {
            continue;
        }
        if subvolume_at(&root, name)?.is_some() {
            btrfs::delete_subvolume(root.fd(), name).context("delete the subvolume", show.join(name))?;
        } else {
            remove_tree(root.fd(), name).context("remove", show.join(name))?;
        }
    }
    Ok(())
}

impl RootState {
    pub(super) fn of(root: impl AsFd) -> io::Result<RootState> {
        let flags = flags_of(&root)?;
        let Attributes { mtime, far_second, .. } = stat_at(&root, OsStr::new("."))?.attributes;
        Ok(RootState { flags, mtime, far_second })
    }

    pub(super) fn load(area: &Spot) -> Result<Option<RootState>> {
        let file = area.join(ROOT);
        let text = file.read_if_there().context("read", file.show())?;
        text.map(|text| serde_json::from_slice(&text).map_err(|e| unreadable(&file.show(), &e))).transpose()
    }

    /// Makes the content of the root changeable.
    pub(super) fn loosen(self, root: impl AsFd) -> io::Result<()> {
        if self.flags & PROTECTIVE == 0 {
            return Ok(());
        }
        set_flags_of(root, self.flags & !PROTECTIVE)
    }

    pub(super) fn restore_time(self, root: impl AsFd) -> io::Result<()> {
        let root = root.as_fd().try_clone_to_owned()?;
        let RootState { mtime, far_second, .. } = self;
        Entry::from_open(root).set_time(&Attributes { mtime, far_second, ..Attributes::default() }).map(drop)
    }
}

pub(super) fn write_json(dir: &Spot, name: &str, value: &impl Serialize) -> Result<()> {
    let show = dir.show().join(name);
    let text = serde_json::to_vec_pretty(value).map_err(|e| unreadable(&show, &e))?;
    dir.write_file(name, &text).context("write", show)
}
