//! A directory that a snapshot is restored to: until it is finished, `.snapsync/restore-ID` in it says so.

use snapsync_model::{Attributes, Context, Error, Result};
use snapsync_sys::{Access, Entry, Lock, Root, fault, make_dir_durable, remove_tree};
use snapsync_walk::STORE;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const MARK: &str = "restore-";
/// Where paths of a volume are made before they take their places in it.
pub const REPLACEMENT: &str = ".snapsync/incoming/restore";

/// What is being restored to a directory; None where nothing is.
pub fn restoring(path: &Path) -> Result<Option<Uuid>> {
    let dir = path.join(STORE);
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        other => other.context("list", &dir)?,
    };
    for entry in entries {
        let name = entry.context("list", &dir)?.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(MARK)).and_then(|id| id.parse().ok());
        if id.is_some() {
            return Ok(id);
        }
    }
    Ok(None)
}

/// What is half restored is not to be taken for a whole tree.
pub(crate) fn none_in(path: &Path) -> Result<()> {
    match restoring(path)? {
        None => Ok(()),
        Some(_) => Err(Error::refused(
            format!("{} holds a restore that was not finished", path.display()),
            "run that `snapsync restore` again, or empty the directory with its .snapsync",
        )),
    }
}

/// The work in a directory that is restored to.
pub struct Restoring {
    path: PathBuf,
    id: Uuid,
    lock: Lock,
}

impl Restoring {
    /// Marks the directory. Whatever else was to be restored there before must be gone.
    pub fn begin(path: &Path, id: Uuid) -> Result<Restoring> {
        let dir = path.join(STORE);
        make(&dir)?;
        rustix::fs::chmod(&dir, rustix::fs::Mode::from_raw_mode(0o700)).context("set the mode of", &dir)?;
        let file = dir.join("lock");
        let lock = Lock::try_exclusive(&file).context("lock", &file)?.filter(|lock| lock.is_at(&file));
        let lock = lock.ok_or_else(|| {
            Error::refused(
                format!("another command restores to {}", path.display()),
                "wait until it has ended, then run this again",
            )
        })?;
        Ok(Restoring { path: path.to_path_buf(), id, lock })
    }

    /// From now on the directory is known to be unfinished.
    pub fn mark(&self) -> Result<()> {
        make(&self.store())?;
        make_dir_durable(&self.path.join(STORE)).context("sync", &self.path)
    }

    pub fn store(&self) -> PathBuf {
        self.path.join(STORE).join(format!("{MARK}{}", self.id))
    }

    /// Throws away what another restore has staged: it has not touched the tree.
    pub fn clear(&self) -> Result<()> {
        let dir = Root::open(&self.path.join(STORE))?;
        for entry in snapsync_sys::read_dir(dir.fd()).context("list", dir.path())? {
            if *entry.name != *b"lock" {
                remove_tree(dir.fd(), OsStr::from_bytes(&entry.name)).context("remove", dir.path())?;
            }
        }
        Ok(())
    }

    /// Leaves a directory that has never had anything to do with this. The mark goes last.
    pub fn finish(self) -> Result<()> {
        let dir = Root::open(&self.path.join(STORE))?;
        let mark = self.store();
        for entry in snapsync_sys::read_dir(dir.fd()).context("list", dir.path())? {
            let name = OsStr::from_bytes(&entry.name);
            if Some(name) != mark.file_name() {
                remove_tree(dir.fd(), name).context("remove", dir.path().join(name))?;
            }
        }
        drop(self.lock);
        fault::point("restore.done");
        strip(&self.path)
    }
}

/// Removes `.snapsync` from a directory, and leaves it the attributes it had.
pub(crate) fn strip(path: &Path) -> Result<()> {
    let root = Root::open(path)?;
    let protected = Protected::take_off(&root).context("unprotect", path)?;
    remove_tree(root.fd(), OsStr::new(STORE)).context("remove", path.join(STORE))?;
    protected.put_back().context("set the attributes of", path)
}

/// What of a directory keeps entries from being removed from it, or changes with them.
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

fn make(dir: &Path) -> Result<()> {
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        other => other.context("create the directory", dir),
    }
}

/// Removes what a restore of paths has left; whether there was something. What was replaced is in a snapshot.
pub fn clear_replacement(volume: &Path) -> Result<bool> {
    let path = volume.join(REPLACEMENT);
    let (Some(above), Some(name)) = (path.parent().filter(|_| path.exists()), path.file_name()) else {
        return Ok(false);
    };
    remove_tree(Root::open(above)?.fd(), name).context("remove", &path)?;
    // Gone with the last stage, so that snapshots do not hold it.
    let _ = std::fs::remove_dir(above);
    Ok(true)
}
