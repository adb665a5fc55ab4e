//! Reading and removing directories, locks, and durable writes.

use crate::flags::{self, APPEND, IMMUTABLE};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RawDir, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: Box<[u8]>,
    pub ino: u64,
    /// None if the file system does not say.
    pub is_dir: Option<bool>,
}

/// The entries of an open directory except `.` and `..`, in the file system's order.
pub fn read_dir(dir: impl AsFd) -> io::Result<Vec<DirEntry>> {
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    let mut iterator = RawDir::new(dir, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = iterator.next() {
        let entry = match entry {
            // The directory was removed after it was opened.
            Err(rustix::io::Errno::NOENT) => break,
            other => other?,
        };
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

/// The number of directories that are open at once while a tree is removed.
const OPEN: usize = 64;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How often entries that come back are removed again, and how long to wait in between. File systems in user
/// space rename a removed file while somebody has it open, and until they hear that it was closed.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Removes the entry `name` of `dir` and everything below it; succeeds if there is nothing. Clears immutable
/// and append-only flags. Fails for nested subvolumes, which the caller removes, and for entries that keep
/// coming back.
pub fn remove_tree(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let dir = dir.as_fd();
    let Some(top) = remove_or_open(dir, name)? else { return Ok(()) };
    // Directories that lie too deep to be open at once are moved up and removed later.
    let mut stalled = 0;
    loop {
        // A new descriptor, because one that was read to its end lists nothing.
        let entries = read_dir(openat(&top, ".", DIRECTORY, Mode::empty())?)?;
        if entries.is_empty() {
            match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) if stalled < TRIES => {}
                other => return Ok(other?),
            }
        }
        let mut removed = 0;
        for entry in &entries {
            removed += remove_below(top.as_fd(), top.as_fd(), entry, 1)?;
        }
        if removed == 0 {
            stalled += 1;
            if stalled > TRIES {
                return Err(Errno::BUSY.into());
            }
            if stalled > 1 {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Removes everything in an open directory, even if the directory has another name by now.
pub fn remove_all_in(dir: impl AsFd) -> io::Result<()> {
    let entries = read_dir(openat(&dir, ".", DIRECTORY, Mode::empty())?)?;
    entries.iter().try_for_each(|entry| remove_tree(&dir, OsStr::from_bytes(&entry.name)))
}

/// Returns how many directories were removed or moved up.
fn remove_below(
    top: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    entry: &DirEntry,
    depth: usize,
) -> io::Result<usize> {
    let name = OsStr::from_bytes(&entry.name);
    let Some(child) = remove_or_open(dir, name)? else { return Ok(0) };
    let entries = read_dir(&child)?;
    if depth == OPEN && !entries.is_empty() {
        return move_up(dir, entry, top).map(|()| 1);
    }
    let mut removed = 0;
    for entry in entries {
        removed += remove_below(top, child.as_fd(), &entry, depth + 1)?;
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        // Something came back, so the loop tries again.
        Err(Errno::NOTEMPTY) => Ok(removed),
        other => other.map(|()| removed + 1).map_err(io::Error::from),
    }
}

/// Moves a directory to `top` under a free name: most likely its number is one.
fn move_up(dir: BorrowedFd<'_>, entry: &DirEntry, top: BorrowedFd<'_>) -> io::Result<()> {
    let mut number = entry.ino;
    loop {
        match renameat(dir, OsStr::from_bytes(&entry.name), top, number.to_string()) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => number = number.wrapping_add(1),
            other => return Ok(other?),
        }
    }
}

/// Removes anything but a directory, which it opens; None if nothing is left.
fn remove_or_open(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        Err(Errno::ISDIR) => {}
        Err(Errno::PERM | Errno::ACCESS) => {
            // It may be a directory, or protected by its flags.
            loosen(dir, name);
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) => return Ok(None),
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(e) => return Err(e.into()),
    }
    let child = openat(dir, name, DIRECTORY, Mode::empty())?;
    unprotect(&child);
    Ok(Some(child))
}

fn loosen(dir: impl AsFd, name: &OsStr) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = openat(dir, name, flags, Mode::empty()) {
        unprotect(file);
    }
}

fn unprotect(file: impl AsFd) {
    if let Ok(flags) = flags::flags_of(&file)
        && flags & (IMMUTABLE | APPEND) != 0
    {
        // If this fails, the following removal reports it.
        let _ = flags::set_flags_of(&file, flags & !(IMMUTABLE | APPEND));
    }
}

/// Writes a whole file so that a crash leaves the old one or the new one.
pub fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut how = File::options();
    let mut file = how.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    make_dir_durable(dir)
}

pub fn make_dir_durable(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes everything in memory of the file system of `fd` to its disk.
pub fn sync_filesystem(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}

/// Makes the file system free deleted space now, which some do only later.
pub fn reclaim(fd: impl AsFd) -> io::Result<()> {
    const BTRFS_IOC_SYNC: u64 = 0x9408;
    // SAFETY: BTRFS_IOC_SYNC takes no argument.
    let woken = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), BTRFS_IOC_SYNC as _, 0) };
    if woken == 0 { Ok(()) } else { sync_filesystem(fd) }
}

/// A lock that is held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(pub(crate) File);

impl Lock {
    /// Waits while another process holds the lock. Only for locks that nobody holds for long.
    pub fn exclusive(path: &Path) -> io::Result<Lock> {
        Lock::wait(Lock::file(path)?)
    }

    pub(crate) fn wait(file: File) -> io::Result<Lock> {
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
        Ok(Lock(file))
    }

    fn file(path: &Path) -> io::Result<File> {
        File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    }

    /// Returns None if another process holds the lock.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Lock>> {
        Lock::attempt(Lock::file(path)?)
    }

    pub(crate) fn attempt(file: File) -> io::Result<Option<Lock>> {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether another process holds the lock exclusively. Askers do not block each other.
    pub(crate) fn is_held(file: &File) -> io::Result<bool> {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Ok(true),
            other => other.map(|()| false).map_err(io::Error::from),
        }
    }

    /// Whether the file at `path` is the locked one: it may have been removed and created again meanwhile.
    pub fn is_at(&self, path: &Path) -> bool {
        let identity = |found: io::Result<std::fs::Metadata>| found.map(|m| (m.dev(), m.ino())).ok();
        let own = identity(self.0.metadata());
        own.is_some() && own == identity(std::fs::symlink_metadata(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_files_can_be_open_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = OwnedFd::from(root.try_clone().unwrap());
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            drop(openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600)).unwrap());
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove_tree(&root, OsStr::new("d")).unwrap();
        assert_eq!(read_dir(&root).unwrap().len(), 1);
    }
}
