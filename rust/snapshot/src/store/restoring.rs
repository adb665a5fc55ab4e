//! A directory into which a snapshot is restored. Until that is finished, `.snapsync/restore-ID` in it marks
//! it.

use crate::store::bound::{ASIDE, hold_or_make, if_in_use};
use rustix::fs::{AtFlags, Mode, OFlags};
use snapsync_model::{Attributes, Context, Error, RelPath, Result};
use snapsync_sys::{Access, Entry, Lock, Root, Spot, fault, read_dir, remove_tree};
use snapsync_walk::STORE;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use uuid::Uuid;

const MARK: &str = "restore-";
/// The place where paths of a volume are made before they are put into it.
pub const REPLACEMENT: &str = ".snapsync/incoming/restore";

/// The id of the unfinished restore into a directory whose `.snapsync` is held; None if there is none.
pub fn restoring(root: &Root) -> Result<Option<Uuid>> {
    let own = RelPath::new(STORE.as_bytes())?;
    if !root.holds() {
        return Ok(None);
    }
    let dir = root.open_at(&own, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    for entry in dir.and_then(read_dir).context("list", root.show(&own))? {
        let name = std::str::from_utf8(&entry.name).ok();
        let id = name.and_then(|name| name.strip_prefix(MARK)).and_then(|id| id.parse().ok());
        if id.is_some() {
            return Ok(id);
        }
    }
    Ok(None)
}

/// Refuses a half-restored directory, which is not a complete tree.
pub(crate) fn none_in(root: &Root) -> Result<()> {
    match restoring(root)? {
        None => Ok(()),
        Some(_) => Err(Error::refused(
            format!("{} holds a restore that was not finished", root.path().display()),
            "run that `snapsync restore` again, or empty the directory with its .snapsync",
        )),
    }
}

/// The restore into a directory.
pub struct Restoring {
    /// The root of its `.snapsync`.
    root: Arc<Root>,
    id: Uuid,
    lock: Lock,
}

impl Restoring {
    /// Marks the directory. The mark of any other restore must be gone before.
    pub fn begin(root: Root, id: Uuid) -> Result<Restoring> {
        let root = Arc::new(hold_or_make(root)?);
        let file = Spot::top(root.clone()).join(STORE).join("lock");
        let lock = file.try_lock().context("lock", file.show())?.filter(|lock| lock.is_of(&file));
        let lock = lock.ok_or_else(|| {
            Error::refused(
                format!("another command restores to {}", root.path().display()),
                "wait until it has ended, then run this again",
            )
        })?;
        Ok(Restoring { root, id, lock })
    }

    /// Marks the directory as unfinished from now on.
    pub fn mark(&self) -> Result<()> {
        let (own, store) = (self.own(), self.store());
        store.ensure_dir().context("create the directory", store.show())?;
        own.sync().context("sync", own.show())
    }

    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    fn own(&self) -> Spot {
        Spot::top(self.root.clone()).join(STORE)
    }

    pub fn store(&self) -> Spot {
        self.own().join(format!("{MARK}{}", self.id))
    }

    /// Removes the stage of another restore, which has not touched the tree.
    pub fn clear(&self) -> Result<()> {
        self.remove_all_but(b"lock")
    }

    fn remove_all_but(&self, kept: &[u8]) -> Result<()> {
        let own = self.own();
        for entry in
            own.list().context("list", own.show())?.iter().filter(|e| *e.name != *kept && *e.name != *ASIDE)
        {
            own.join(&entry.name).remove_tree().context("remove", own.show())?;
        }
        Ok(())
    }

    /// Removes every trace of the restore from the directory; the mark last.
    pub fn finish(self) -> Result<()> {
        self.remove_all_but(format!("{MARK}{}", self.id).as_bytes())?;
        drop(self.lock);
        fault::point("restore.done");
        strip(&self.root)
    }
}

/// Removes `.snapsync` from a directory and keeps the attributes of the directory.
pub(crate) fn strip(root: &Root) -> Result<()> {
    let path = root.path();
    let protected = Protected::take_off(root).context("unprotect", path)?;
    remove_own(root).context("remove", path.join(STORE))?;
    protected.put_back().context("set the attributes of", path)
}

/// Removes the content of the held directory. Another one that took its name since stays, unless it is empty.
fn remove_own(root: &Root) -> io::Result<()> {
    if !root.holds() {
        return remove_tree(root.fd(), OsStr::new(STORE));
    }
    let own = RelPath::new(STORE.as_bytes()).map_err(io::Error::other)?;
    let dir = root.open_at(&own, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    for entry in read_dir(&dir)?.iter().filter(|entry| *entry.name != *ASIDE) {
        remove_tree(&dir, OsStr::from_bytes(&entry.name))?;
    }
    rustix::fs::unlinkat(root.fd(), STORE, AtFlags::REMOVEDIR).map_err(io::Error::from).or_else(if_in_use)
}

/// Attributes of a directory that prevent removing entries from it, or change with that.
struct Protected {
    top: Entry,
    file: std::fs::File,
    attributes: Attributes,
    flags: u32,
}

impl Protected {
    fn take_off(root: &Root) -> io::Result<Protected> {
        let file = std::fs::File::from(root.fd().try_clone_to_owned()?);
        let top = Entry::from_open(file.try_clone()?);
        let stat = top.stat()?.attributes;
        let flags = snapsync_sys::flags_of(&file)?;
        if flags & snapsync_sys::PROTECTIVE != 0 {
            snapsync_sys::set_flags_of(&file, flags & !snapsync_sys::PROTECTIVE)?;
        }
        if !top.allows(Access::WRITE_OK | Access::EXEC_OK) {
            top.set_mode(stat.mode | 0o700)?;
        }
        Ok(Protected { top, file, attributes: stat, flags })
    }

    fn put_back(self) -> io::Result<()> {
        if self.top.stat()?.attributes.mode != self.attributes.mode {
            self.top.set_mode(self.attributes.mode)?;
        }
        self.top.set_time(&self.attributes)?;
        if self.flags & snapsync_sys::PROTECTIVE != 0 {
            snapsync_sys::set_flags_of(&self.file, self.flags)?;
        }
        Ok(())
    }
}

/// Removes what a restore of paths has left; returns whether there was anything. Replaced entries are in a
/// snapshot.
pub fn clear_replacement(root: &Arc<Root>) -> Result<bool> {
    let spot = Spot::top(root.clone()).join(REPLACEMENT);
    if !spot.is_there() {
        return Ok(false);
    }
    spot.remove_tree().context("remove", spot.show())?;
    // The directory goes with the last stage, so that snapshots do not hold it.
    let _ = spot.above().map(|above| above.remove_dir());
    Ok(true)
}
