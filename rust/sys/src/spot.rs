//! A path beneath an open directory. Stores are read and written only through this type.

use crate::entry::{Stat, is_own, stat_of};
use crate::files::{DirEntry, Lock, read_dir, remove_tree};
use crate::holder;
use crate::root::Root;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use snapsync_model::{Error, Kind, RelPath};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that is named by a path or a `Spot`.
pub trait Named {
    fn open(&self) -> io::Result<File>;
    /// Creates a file for reading and writing, and replaces any old one.
    fn create(&self) -> io::Result<File>;
    /// The path for messages.
    fn show(&self) -> Cow<'_, Path>;
}

impl Named for Path {
    fn open(&self) -> io::Result<File> {
        File::open(self)
    }

    fn create(&self) -> io::Result<File> {
        match std::fs::remove_file(self) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => crate::private::create_private_file(self),
        }
    }

    fn show(&self) -> Cow<'_, Path> {
        Cow::Borrowed(self)
    }
}

impl Named for PathBuf {
    fn open(&self) -> io::Result<File> {
        Named::open(self.as_path())
    }

    fn create(&self) -> io::Result<File> {
        Named::create(self.as_path())
    }

    fn show(&self) -> Cow<'_, Path> {
        Cow::Borrowed(self)
    }
}

impl Named for Spot {
    fn open(&self) -> io::Result<File> {
        Spot::open(self)
    }

    fn create(&self) -> io::Result<File> {
        Spot::create(self)
    }

    fn show(&self) -> Cow<'_, Path> {
        Cow::Owned(Spot::show(self))
    }
}

/// A path beneath a root. Nothing on the way may be a link or a mount, and only files and directories of this
/// user or of root are opened.
#[derive(Clone, Debug)]
pub struct Spot {
    root: Arc<Root>,
    rel: RelPath,
}

impl Spot {
    pub fn new(root: Arc<Root>, rel: RelPath) -> Spot {
        Spot { root, rel }
    }

    /// The root directory itself.
    pub fn top(root: Arc<Root>) -> Spot {
        Spot { root, rel: RelPath::root() }
    }

    /// The spot with this name or path below. The path must be valid; callers pass only such.
    pub fn join(&self, below: impl AsRef<[u8]>) -> Spot {
        let slash: &[u8] = if self.rel.is_root() { b"" } else { b"/" };
        let bytes = [self.rel.as_bytes(), slash, below.as_ref()].concat();
        Spot {
            root: self.root.clone(),
            rel: RelPath::new(&bytes).expect("names that are given here are sound"),
        }
    }

    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    pub fn rel(&self) -> &RelPath {
        &self.rel
    }

    /// The path, only for messages.
    pub fn show(&self) -> PathBuf {
        self.root.show(&self.rel)
    }

    /// The directory that contains it; None for the root.
    pub fn above(&self) -> Option<Spot> {
        let (above, _) = self.rel.split()?;
        Some(Spot { root: self.root.clone(), rel: above })
    }

    pub fn parent(&self) -> io::Result<(OwnedFd, &OsStr)> {
        let above = self.above();
        self.root.parent(&self.rel).map_err(|error| above.as_ref().unwrap_or(self).told(error))
    }

    /// Opens a file for reading.
    pub fn open(&self) -> io::Result<File> {
        self.file(OFlags::RDONLY)
    }

    /// Opens a file for reading and writing.
    pub fn open_to_write(&self) -> io::Result<File> {
        self.file(OFlags::RDWR)
    }

    fn file(&self, flags: OFlags) -> io::Result<File> {
        let file = File::from(self.opened(flags | OFlags::NONBLOCK)?);
        self.expect(&stat_of(&file)?, Kind::File)?;
        Ok(file)
    }

    /// Opens what is here. If that is allowed, reading it leaves no access time, which would have to be
    /// written by the next sync.
    fn opened(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let open = |flags| self.root.open_at(&self.rel, flags, Mode::empty());
        let opened = match open(flags | OFlags::NOATIME) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(flags),
            other => other,
        };
        opened.map_err(|error| self.told(error))
    }

    /// Opens a file for reading that lies in a tree and may belong to anybody.
    pub fn open_in_tree(&self) -> io::Result<File> {
        self.root.read(&self.rel)
    }

    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The content of the file, or None if it does not exist.
    pub fn read_if_there(&self) -> io::Result<Option<Vec<u8>>> {
        match self.read() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Creates a file that only this process knows. Fails if the name exists.
    pub fn create_new(&self) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let made = self.root.open_at(&self.rel, flags, Mode::RUSR | Mode::WUSR);
        made.map(File::from).map_err(|error| self.told(error))
    }

    /// Creates a file, and replaces any old one.
    pub fn create(&self) -> io::Result<File> {
        self.remove_file()?;
        self.create_new()
    }

    /// Opens a file, or creates it, without changing its content.
    pub fn open_or_create(&self, flags: OFlags) -> io::Result<File> {
        match self.file(flags) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let made =
            self.root.open_at(&self.rel, flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR);
        match made {
            // Another process created it first.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.file(flags),
            other => other.map(File::from),
        }
    }

    /// Writes the whole file `name` in this directory, so that a crash leaves the old one or the new one.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.join(format!("{name}.new"));
        let mut file = temporary.create()?;
        file.write_all(bytes)?;
        file.sync_all()?;
        temporary.rename(&self.join(name))?;
        self.sync()
    }

    /// Opens a directory.
    pub fn directory(&self) -> io::Result<OwnedFd> {
        let directory = self.opened(OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.expect(&stat_of(&directory)?, Kind::Directory)?;
        Ok(directory)
    }

    /// Opens the tree at this spot, whatever its owner.
    pub fn tree(&self) -> snapsync_model::Result<Root> {
        use snapsync_model::Context;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = self.root.open_at(&self.rel, flags, Mode::empty()).map_err(|error| self.told(error));
        Ok(Root::of(opened.context("open the directory", self.show())?, self.show()))
    }

    pub fn list(&self) -> io::Result<Vec<DirEntry>> {
        read_dir(self.directory()?)
    }

    pub fn create_dir(&self) -> io::Result<()> {
        let (dir, name) = self.parent()?;
        Ok(rustix::fs::mkdirat(dir, name, Mode::RWXU)?)
    }

    /// Makes the directory unless it exists.
    pub fn ensure_dir(&self) -> io::Result<()> {
        match self.create_dir() {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.directory().map(drop),
            other => other,
        }
    }

    /// Writes the entries of this directory to the disk.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.directory()?)?)
    }

    /// The attributes of what is here, without following a link.
    pub fn stat(&self) -> io::Result<Stat> {
        self.root.entry(&self.rel)?.stat()
    }

    /// The attributes; None if nothing is here.
    pub fn stat_if_there(&self) -> io::Result<Option<Stat>> {
        match self.stat() {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            other => other.map(Some),
        }
    }

    pub fn is_there(&self) -> bool {
        self.stat().is_ok()
    }

    /// Removes anything but a directory; succeeds if nothing is here.
    pub fn remove_file(&self) -> io::Result<()> {
        match self.root.unlink(&self.rel) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub fn remove_dir(&self) -> io::Result<()> {
        let (dir, name) = self.parent()?;
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
    }

    /// Removes it with everything in it; succeeds if nothing is here.
    pub fn remove_tree(&self) -> io::Result<()> {
        let (dir, name) = self.parent()?;
        remove_tree(dir, name)
    }

    pub fn rename(&self, to: &Spot) -> io::Result<()> {
        let ((from_dir, from), (to_dir, to)) = (self.parent()?, to.parent()?);
        Ok(rustix::fs::renameat(from_dir, from, to_dir, to)?)
    }

    /// Exchanges two entries in one step.
    pub fn exchange(&self, other: &Spot) -> io::Result<()> {
        let ((one_dir, one), (other_dir, other)) = (self.parent()?, other.parent()?);
        Ok(rustix::fs::renameat_with(one_dir, one, other_dir, other, RenameFlags::EXCHANGE)?)
    }

    /// Creates a symbolic link, which nothing here follows.
    pub fn create_link(&self, target: &Path) -> io::Result<()> {
        let (dir, name) = self.parent()?;
        Ok(rustix::fs::symlinkat(target, dir, name)?)
    }

    /// Gives the file another name.
    pub fn link(&self, to: &Spot) -> io::Result<()> {
        let ((from_dir, from), (to_dir, to)) = (self.parent()?, to.parent()?);
        Ok(rustix::fs::linkat(from_dir, from, to_dir, to, AtFlags::empty())?)
    }

    /// Waits while another process holds the lock. Only for locks that nobody holds for long.
    pub fn lock(&self) -> io::Result<Lock> {
        Lock::wait(self.open_or_create(OFlags::RDWR)?)
    }

    /// Returns None if another process holds the lock.
    pub fn try_lock(&self) -> io::Result<Option<Lock>> {
        Lock::attempt(self.open_or_create(OFlags::RDWR)?)
    }

    /// Whether another process holds the lock. Creates and changes nothing.
    pub fn is_locked(&self) -> io::Result<bool> {
        Lock::is_held(&self.open()?)
    }

    /// Describes the holder of the lock.
    pub fn locked_by(&self) -> Option<String> {
        holder::of(&self.open().ok()?)
    }

    fn expect(&self, stat: &Stat, kind: Kind) -> io::Result<()> {
        if stat.kind != kind {
            return Err(self.refused(&format!("is a {}, not a {}", stat.kind.name(), kind.name())));
        }
        match is_own(stat) {
            true => Ok(()),
            false => Err(self.refused(&format!("belongs to user {}", stat.attributes.uid))),
        }
    }

    /// Explains an open that failed because of these rules and not because of the system.
    fn told(&self, error: io::Error) -> io::Error {
        match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => self.refused("is a link, or lies behind one"),
            Some(Errno::XDEV) => self.refused("is a mount, or lies in one"),
            Some(Errno::NXIO) => self.refused("is not a file"),
            Some(Errno::NOTDIR) => match self.stat() {
                Ok(stat) if stat.kind == Kind::Symlink => self.refused("is a link"),
                Ok(_) => self.refused("is not a directory"),
                Err(_) => error,
            },
            _ => error,
        }
    }

    fn refused(&self, why: &str) -> io::Error {
        io::Error::other(Error::refused(
            format!(
                "{} {why}: a store holds only files and directories of root and this user",
                self.show().display()
            ),
            "somebody else has put it there: check what it is and where it leads, and remove it",
        ))
    }
}

impl Lock {
    /// Whether the lock is held on the file at this spot.
    pub fn is_of(&self, spot: &Spot) -> bool {
        let identity = |found: io::Result<crate::entry::Stat>| found.map(|stat| (stat.dev, stat.ino)).ok();
        let own = identity(crate::entry::stat_of(&self.0));
        own.is_some() && own == identity(spot.stat())
    }
}
