//! Opens files that only root or this user could have written or placed.

use rustix::fs::{Mode, OFlags, Stat, fstat, open, openat, readlinkat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// Why a path is not trusted: the part of it, and its owner or who may write there.
#[derive(Debug, PartialEq, Eq)]
pub struct Doubt {
    pub path: PathBuf,
    pub is_link: bool,
    pub cause: Cause,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Cause {
    /// It belongs to this user.
    Owner(u32),
    /// Others may write there; this is its mode.
    Mode(u32),
}

/// The number of links that the kernel follows too.
const MOST_LINKS: usize = 40;

/// Opens what `path` leads to if everything on the way belongs to root or this user, and nobody else may
/// write to it: each directory, each link, and the file itself, which is checked by its descriptor. Others
/// may write in a directory with the sticky bit, such as `/tmp`.
pub fn open_trusted(path: &Path, flags: OFlags) -> io::Result<Result<OwnedFd, Doubt>> {
    let mut way = Way::from_top()?;
    if let Some(doubt) = way.doubt.take() {
        return Ok(Err(doubt));
    }
    let mut ahead: VecDeque<OsString> = components(&std::path::absolute(path)?);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            way.leave();
            continue;
        }
        let shown = way.path().join(&name);
        let fd =
            openat(way.directory(), &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        if let Some(doubt) = doubt_of(&stat, &shown) {
            return Ok(Err(doubt));
        }
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFLNK => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = PathBuf::from(OsString::from_vec(readlinkat(&fd, "", Vec::new())?.into_bytes()));
                if target.is_absolute() {
                    way.leave_all();
                }
                components(&target).into_iter().rev().for_each(|name| ahead.push_front(name));
            }
            libc::S_IFDIR => way.enter(fd, shown),
            _ if ahead.is_empty() => return way.open(&name, &stat, flags).map(Ok),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    Ok(Ok(openat(way.directory(), ".", flags | OFlags::CLOEXEC, Mode::empty())?))
}

fn components(path: &Path) -> VecDeque<OsString> {
    let named = |component: Component<'_>| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        _ => None,
    };
    path.components().filter_map(named).collect()
}

/// The open directories from the top to the current one.
struct Way {
    directories: Vec<(OwnedFd, PathBuf)>,
    doubt: Option<Doubt>,
}

impl Way {
    fn from_top() -> io::Result<Way> {
        let top = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let doubt = doubt_of(&fstat(&top)?, Path::new("/"));
        Ok(Way { directories: vec![(top, PathBuf::from("/"))], doubt })
    }

    fn directory(&self) -> &OwnedFd {
        &self.directories[self.directories.len() - 1].0
    }

    fn path(&self) -> &Path {
        &self.directories[self.directories.len() - 1].1
    }

    fn enter(&mut self, fd: OwnedFd, path: PathBuf) {
        self.directories.push((fd, path));
    }

    /// The directory above the top is the top.
    fn leave(&mut self) {
        self.directories.truncate(self.directories.len().max(2) - 1);
    }

    fn leave_all(&mut self) {
        self.directories.truncate(1);
    }

    /// Opens exactly the inode that was checked.
    fn open(&self, name: &OsStr, seen: &Stat, flags: OFlags) -> io::Result<OwnedFd> {
        // Opening a fifo or a terminal does not block.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat(self.directory(), name, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) == (seen.st_dev, seen.st_ino) {
            Ok(fd)
        } else {
            Err(Errno::STALE.into())
        }
    }
}

fn doubt_of(stat: &Stat, path: &Path) -> Option<Doubt> {
    let kind = stat.st_mode & libc::S_IFMT;
    let others_write = match kind {
        // A link cannot be rewritten, and the mode of a device is not that of its data.
        libc::S_IFREG => stat.st_mode & 0o022 != 0,
        libc::S_IFDIR => stat.st_mode & 0o022 != 0 && stat.st_mode & libc::S_ISVTX == 0,
        _ => false,
    };
    let is_ours = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    let cause = match (is_ours, others_write) {
        (false, _) => Cause::Owner(stat.st_uid),
        (true, true) => Cause::Mode(stat.st_mode & 0o7777),
        (true, false) => return None,
    };
    Some(Doubt { path: path.to_path_buf(), is_link: kind == libc::S_IFLNK, cause })
}
