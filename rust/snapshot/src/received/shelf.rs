//! Snapshots that were received as plain directories side by side in one directory, called a shelf. Their
//! records are kept beside them, never in them.
//!
//! ```text
//! DIR/NAME                           a snapshot: a read-only subvolume on Btrfs, elsewhere a directory
//! DIR/.snapsync/received/ID.json     which snapshot that is, and which directory holds it
//! DIR/.snapsync/limits.json          what the file system could not hold of them
//! DIR/.snapsync/receiving/lock       flock(2): for a moment, by who looks for what is unfinished, or begins
//! DIR/.snapsync/receiving/ID/        one that is on its way
//!     lock                           flock(2)
//!     tree                           the base, or nothing yet; then the snapshot
//!     made                           the tree was made wholly, and from which base; written last
//!     root.json                      what the tree's root is to be given back when it is published
//! ```
//!
//! A snapshot is published by renaming its tree once. A subvolume cannot be moved once it is read-only, so it
//! is made read-only after the rename; after a crash between the two the next command does it.

use crate::received::area::{LOCK, MADE, RootState, lock_area, make_private, remove_area};
use crate::received::identity::{Place, Record, TREE, held_if_own, receiving, record_of};
use crate::store::bound::{hold, hold_or_make};
use rustix::fs::{Mode, OFlags};
use snapsync_model::{Context, Error, RelPath, Result};
use snapsync_sys::{
    FileSystem, PROTECTIVE, Root, Spot, btrfs, read_dir, set_flags_of, stat_at, sync_filesystem,
};
use snapsync_walk::STORE;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// A directory that snapshots are received in, each a directory in it.
#[derive(Debug)]
pub struct ReceivedDirectory {
    /// The root of its `.snapsync`, if it has one.
    pub(crate) root: Arc<Root>,
    pub(crate) is_btrfs: bool,
}

impl ReceivedDirectory {
    /// Opens a directory, and finishes what a crash has interrupted in it.
    pub fn open(dir: &Path) -> Result<ReceivedDirectory> {
        let dir = dir.canonicalize().context("find", dir)?;
        let root = hold(Root::open_straight(&dir)?)?;
        let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", &dir)?;
        let shelf =
            ReceivedDirectory { root: Arc::new(root), is_btrfs: filesystem.magic == FileSystem::BTRFS };
        shelf.heal()?;
        Ok(shelf)
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Opens another shelf for reading. None if it is not a shelf, or belongs to another user.
    pub(crate) fn beside(&self, above: &Root, name: &[u8]) -> Result<Option<ReceivedDirectory>> {
        let (name, flags) = (RelPath::new(name)?, OFlags::RDONLY | OFlags::DIRECTORY);
        let Ok(fd) = above.open_at(&name, flags, Mode::empty()) else { return Ok(None) };
        let root = held_if_own(Root::of(fd, above.show(&name)))?;
        Ok(root.holds().then(|| ReceivedDirectory { root: Arc::new(root), is_btrfs: self.is_btrfs }))
    }

    /// Whether both are on one file system.
    pub(crate) fn is_on(&self, other: &ReceivedDirectory) -> Result<bool> {
        let id = |shelf: &ReceivedDirectory| -> io::Result<u128> {
            if snapsync_sys::filesystem(shelf.root.fd())?.magic == FileSystem::BTRFS {
                return btrfs::filesystem_id(shelf.root.fd());
            }
            let (major, minor) = stat_at(shelf.root.fd(), OsStr::new("."))?.dev;
            Ok(u128::from(major) << 32 | u128::from(minor))
        };
        let ids = id(self).and_then(|one| Ok((one, id(other)?)));
        ids.map(|(one, other)| one == other).context("read the file system of", self.path())
    }

    /// The directories that may be snapshots, by name.
    pub(crate) fn places(&self) -> Result<Vec<Place>> {
        let mut found = Vec::new();
        // A new descriptor: reading continues where the last read of a descriptor ended.
        let dir = self.root.open_at(&RelPath::root(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        for entry in dir.and_then(read_dir).context("read the directory", self.path())? {
            if *entry.name != *STORE.as_bytes() && entry.is_dir != Some(false) {
                found.extend(Place::at(&self.root, OsStr::from_bytes(&entry.name))?);
            }
        }
        found.retain(|place| place.subvolume.is_some() == self.is_btrfs);
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// The directory that a record describes, whatever its present name.
    pub(super) fn place_of(&self, record: &Record) -> Result<Option<Place>> {
        Ok(self.places()?.into_iter().find(|place| place.is_of(record)))
    }

    /// Whether a snapshot can be published under a name.
    pub fn name_is_free(&self, name: &str) -> Result<()> {
        can_be_a_name(name)?;
        match stat_at(self.root.fd(), OsStr::new(name)) {
            Ok(_) => Err(self.is_taken(name)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).context("look for", self.path().join(name)),
        }
    }

    pub(super) fn is_taken(&self, name: &str) -> Error {
        Error::refused(
            format!("{} is there already", self.path().join(name).display()),
            "choose another name, or move that away first",
        )
    }

    /// Finishes snapshots that were only renamed to their places, and removes incomplete trees. A receive
    /// that was interrupted later is left for the next one to resume. What this user cannot write is left
    /// alone.
    fn heal(&self) -> Result<()> {
        let dir = receiving(&self.root);
        if !self.root.holds() || !dir.is_there() {
            return Ok(());
        }
        let Ok(all) = dir.join(LOCK).lock() else { return Ok(()) };
        for entry in dir.list().context("list", dir.show())? {
            let id = std::str::from_utf8(&entry.name).ok().and_then(|name| name.parse().ok());
            let Some(id) = id else { continue };
            let area = dir.join(&entry.name);
            let Ok(Some(_lock)) = lock_area(&area) else { continue };
            if area.join(TREE).is_there() {
                if !area.join(MADE).is_there() {
                    remove_area(&area, &all)?;
                }
                continue;
            }
            if let Some(record) = record_of(&self.root, id)?
                && let Some(place) = self.place_of(&record)?
            {
                self.settle(&place.open()?, &area)?;
            }
            remove_area(&area, &all)?;
        }
        Ok(())
    }

    /// The last step of publishing; nothing in the snapshot changes afterwards.
    pub(super) fn settle(&self, root: &Root, area: &Spot) -> Result<()> {
        let snapshot = root.path();
        if let Some(state) = RootState::load(area)?
            && state.flags & PROTECTIVE != 0
            && !(self.is_btrfs && btrfs::is_read_only(root.fd()).context("read the flags of", snapshot)?)
        {
            set_flags_of(root.fd(), state.flags).context("set the flags of", snapshot)?;
        }
        if self.is_btrfs {
            btrfs::set_read_only(root.fd(), true).context("make read-only", snapshot)?;
        }
        sync_filesystem(root.fd()).context("sync the file system of", snapshot)
    }

    /// The shelf with a `.snapsync` of this user.
    pub(super) fn held(&self) -> Result<Arc<Root>> {
        if self.root.holds() {
            return Ok(self.root.clone());
        }
        let root = Arc::new(hold_or_make(self.root.again()?)?);
        make_private(&Spot::top(root.clone()).join(STORE))?;
        Ok(root)
    }
}

/// Whether a snapshot can be a directory with this name.
pub fn can_be_a_name(name: &str) -> Result<()> {
    if !snapsync_model::can_name_directory(name) {
        return Err(Error::usage(
            format!("{name:?} cannot be the name of a directory for a snapshot"),
            "use at most 255 bytes of visible characters, without `/`, and no `-` or `.` in front",
        ));
    }
    Ok(())
}
