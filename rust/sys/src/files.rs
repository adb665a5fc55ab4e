//! Directories, locks, and what makes a write last.

use crate::{APPEND, IMMUTABLE, entry};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RawDir, openat, unlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: Box<[u8]>,
    pub ino: u64,
    /// None where the file system does not say.
    pub is_dir: Option<bool>,
}

/// The entries of an open directory but `.` and `..`, in its own order.
pub fn read_dir(dir: impl AsFd) -> io::Result<Vec<DirEntry>> {
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    let mut iterator = RawDir::new(dir, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = iterator.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let is_dir = match entry.file_type() {
            rustix::fs::FileType::Unknown => None,
            other => Some(other == rustix::fs::FileType::Directory),
        };
        entries.push(DirEntry { name: name.into(), ino: entry.ino(), is_dir });
    }
    Ok(entries)
}

/// Removes the entry `name` of `dir` with all below it; nothing there is no error. Immutable and append-only
/// entries give way. Nested subvolumes are left to the caller: they fail the removal.
pub fn remove_tree(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let dir = dir.as_fd();
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR) => {}
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {
            // It may be a directory, or something protected by its flags.
            loosen(dir, name);
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let child: OwnedFd = openat(dir, name, flags, Mode::empty())?;
    unprotect(&child);
    for entry in read_dir(&child)? {
        remove_tree(&child, OsStr::from_bytes(&entry.name))?;
    }
    drop(child);
    Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

fn loosen(dir: impl AsFd, name: &OsStr) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = openat(dir, name, flags, Mode::empty()) {
        unprotect(file);
    }
}

fn unprotect(file: impl AsFd) {
    if let Ok(flags) = entry::flags_of(&file)
        && flags & (IMMUTABLE | APPEND) != 0
    {
        // The removal that follows reports what could not be loosened.
        let _ = entry::set_flags_of(&file, flags & !(IMMUTABLE | APPEND));
    }
}

/// Writes a whole file so that a crash leaves the old one or the new one.
pub fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    make_dir_durable(dir)
}

pub fn make_dir_durable(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Everything written to the file system of `fd` so far is on its disk when this returns.
pub fn sync_filesystem(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}

/// Held until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Waits for as long as another holds it: only for what is never held for long.
    pub fn exclusive(path: &Path) -> io::Result<Lock> {
        let file = Lock::file(path)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
        Ok(Lock(file))
    }

    fn file(path: &Path) -> io::Result<File> {
        File::options().read(true).write(true).create(true).truncate(false).open(path)
    }

    /// None when another holds it.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Lock>> {
        let file = Lock::file(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the file at `path` is the one that is locked: it may have been removed in between, and made again.
    pub fn is_at(&self, path: &Path) -> bool {
        let identity = |found: io::Result<std::fs::Metadata>| found.map(|m| (m.dev(), m.ino())).ok();
        let own = identity(self.0.metadata());
        own.is_some() && own == identity(std::fs::symlink_metadata(path))
    }
}
