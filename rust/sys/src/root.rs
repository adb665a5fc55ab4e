//! Paths beneath a directory. Nothing here can leave it, whatever symlinks or mounts lie on the way.

use crate::entry::{Entry, stat_of};
use crate::mounts::{Underneath, mounts_beneath};
use crate::place::Place;
use crate::ways::{Way, Ways};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use snapsync_model::{Context, RelPath, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The kernel accepts paths of at most 4,096 bytes. Longer ones are resolved in pieces, whose directories may
/// be kept open.
const PIECE: usize = 1024;

/// How often the kernel may return EAGAIN for a path.
const UNSURE: u32 = 20;

/// A directory that paths are resolved beneath.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    underneath: Option<Underneath>,
    /// The mount points inside it, if they were asked for.
    mounts: Vec<RelPath>,
    /// A directory inside that stays open, so that nothing can take its place under its name.
    held: Option<Arc<Held>>,
    /// Open directories that lead to deep paths.
    ways: Option<Ways>,
    /// The part of the tree that it stands for; None for the whole.
    part: Option<Arc<Part>>,
}

#[derive(Debug)]
struct Held {
    name: Box<[u8]>,
    fd: OwnedFd,
    /// The directory that really has the name, and where the held one lies in it.
    around: Option<(OwnedFd, RelPath)>,
}

/// A part of a tree, and how it is written.
#[derive(Debug)]
struct Part {
    name: Box<str>,
    title: PathBuf,
}

impl Held {
    /// The part of `path` below the held directory.
    fn rest<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        match path.strip_prefix(&*self.name)? {
            [] => Some(&[]),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }
}

impl Root {
    /// Opens a trusted directory: symlinks in `path` itself are followed.
    pub fn open(path: &Path) -> Result<Root> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).context("open the directory", path)?;
        Ok(Root::of(fd, path.to_path_buf()))
    }

    /// Opens a directory by a path without symlinks. Fails if one appeared after the path was checked.
    pub fn open_straight(path: &Path) -> Result<Root> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd =
            openat2(rustix::fs::CWD, path, flags, Mode::empty(), how).context("open the directory", path)?;
        Ok(Root::of(fd, path.to_path_buf()))
    }

    /// Makes the directory `name` inside, private to this user, and opens exactly that one, not one that took
    /// its name.
    pub fn make_directory(&self, name: &OsStr) -> Result<Root> {
        let path = self.path.join(name);
        rustix::fs::mkdirat(self.fd(), name, Mode::RWXU).context("create the directory", &path)?;
        let made = self.directory_in(name)?;
        let stat = crate::entry::stat_of(made.fd()).context("read the attributes of", &path)?;
        if crate::entry::is_own(&stat) && stat.attributes.mode & 0o7077 == 0 {
            return Ok(made);
        }
        Err(snapsync_model::Error::refused(
            format!("{} is not the directory that was just made", path.display()),
            "somebody exchanged it: check who may write there, then run this again",
        ))
    }

    /// The directory `name` inside. Fails for a link.
    pub fn directory_in(&self, name: &OsStr) -> Result<Root> {
        let path = self.path.join(name);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(self.fd(), name, flags, Mode::empty()).context("open the directory", &path)?;
        Ok(Root::of(fd, path))
    }

    /// Uses a directory that is open already.
    pub fn of(fd: OwnedFd, path: PathBuf) -> Root {
        Root { fd, path, underneath: None, mounts: Vec::new(), held: None, ways: None, part: None }
    }

    /// Opens the same directory again.
    pub fn again(&self) -> Result<Root> {
        let fd = self.fd.try_clone().context("open the directory", &self.path)?;
        let (held, part) = (self.held.clone(), self.part.clone());
        Ok(Root { held, part, ..Root::of(fd, self.path.clone()) })
    }

    /// The same directory, for its whole tree, with nothing held.
    pub fn whole(&self) -> Result<Root> {
        Ok(Root { held: None, part: None, ..self.again()? })
    }

    /// From now on it stands for a part of its tree, which messages call `title`.
    pub fn of_part(self, name: &str, title: PathBuf) -> Root {
        Root { part: Some(Arc::new(Part { name: name.into(), title })), ..self }
    }

    /// The name of the part that it stands for.
    pub fn part(&self) -> Option<&str> {
        self.part.as_ref().map(|part| &*part.name)
    }

    /// How people write it: its path, unless it stands for a part.
    pub fn title(&self) -> &Path {
        self.part.as_ref().map_or(&self.path, |part| &part.title)
    }

    /// From now on the name `name` inside means this directory.
    pub fn holding(self, name: &[u8], directory: OwnedFd) -> Root {
        Root { held: Some(Arc::new(Held { name: name.into(), fd: directory, around: None })), ..self }
    }

    /// The same for a directory at `below` in the one that has the name.
    pub fn holding_within(self, name: &[u8], around: OwnedFd, below: RelPath, directory: OwnedFd) -> Root {
        let around = Some((around, below));
        Root { held: Some(Arc::new(Held { name: name.into(), fd: directory, around })), ..self }
    }

    /// Keeps directories open for a moment to resolve deep paths faster. A caller who renames directories
    /// except by `rename_to_new` must call `forget_ways`.
    pub fn knowing_ways(self) -> Root {
        Root { ways: Some(Ways::default()), ..self }
    }

    pub fn forget_ways(&self) {
        self.ways.iter().for_each(Ways::forget);
    }

    /// Call this after `path` was renamed or created.
    pub fn forget_ways_through(&self, path: &RelPath) {
        self.ways.iter().for_each(|ways| ways.forget_below(path.as_bytes()));
    }

    /// Whether it holds a directory open inside.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Device and inode number of the directory in its tree that is held, or has the held one in it. They
    /// identify it under every name.
    pub fn held(&self) -> Option<((u32, u32), u64)> {
        let held = self.held.as_ref()?;
        let stat = stat_of(held.around.as_ref().map_or(&held.fd, |(around, _)| around)).ok()?;
        Some((stat.dev, stat.ino))
    }

    /// Opens a directory without the mounts inside it, present or future: a file system of an ordinary user
    /// may never answer. Without the necessary privilege the mounts stay.
    pub fn open_underneath(path: &Path) -> Result<Root> {
        Root::open(path)?.underneath()
    }

    /// The same for a directory that is open already.
    pub fn underneath(&self) -> Result<Root> {
        let mut root = self.again()?;
        root.mounts = mounts_beneath(&self.own_path()).context("read what is mounted in", &self.path)?;
        root.underneath = Underneath::of(&root.fd).ok();
        Ok(root)
    }

    /// The directory as seen in the file system's own mount.
    pub fn in_own_mount(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A path under /proc to exactly this directory, for calls that accept only paths.
    pub fn own_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// The mount points inside it, if it was opened underneath.
    pub fn mounts(&self) -> &[RelPath] {
        &self.mounts
    }

    /// Whether no mount inside can be seen.
    pub fn is_bare(&self) -> bool {
        self.mounts.is_empty() || self.underneath.is_some()
    }

    /// The path that it was opened with, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `rel`, for messages.
    pub fn show(&self, rel: &RelPath) -> PathBuf {
        let within = self.held.as_ref().and_then(|held| {
            let ((_, below), rest) = (held.around.as_ref()?, held.rest(rel.as_bytes())?);
            let name = OsStr::from_bytes(&held.name);
            let own = self.path.join(name).join(below.as_path());
            Some(if rest.is_empty() { own } else { own.join(OsStr::from_bytes(rest)) })
        });
        within.unwrap_or_else(|| self.path.join(rel.as_path()))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.underneath.as_ref().map_or(&self.fd, |underneath| &underneath.directory).as_fd()
    }

    /// Opens `rel` with any flags. A symlink at its end needs `PATH | NOFOLLOW`.
    pub fn open_at(&self, rel: &RelPath, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let held = self.held.as_ref().and_then(|held| Some((held.fd.as_fd(), held.rest(rel.as_bytes())?)));
        let (top, rest) = held.unwrap_or_else(|| (self.fd(), rel.as_bytes()));
        if rest.is_empty() {
            return Ok(rustix::fs::openat(top, ".", flags | OFlags::CLOEXEC, mode)?);
        }
        let started = Instant::now();
        let (whole, before) = (rest, rel.as_bytes().len() - rest.len());
        let path_to = |end: usize| &rel.as_bytes()[..before + end];
        let mut way: Option<Way> = None;
        let ends = ends(whole)?;
        let known = ends.iter().rposition(|end| {
            way = self.ways.as_ref().and_then(|ways| ways.get(path_to(*end)));
            way.is_some()
        });
        let mut at = known.map_or(0, |known| ends[known] + 1);
        for end in &ends[known.map_or(0, |known| known + 1)..] {
            let above = way.as_ref().map_or(top, |way| way.fd.as_fd());
            let fd = resolve(above, &whole[at..*end], OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
            let next = match &way {
                Some(way) => way.further(fd),
                None => Way::new(fd, started),
            };
            self.ways.iter().for_each(|ways| ways.keep(path_to(*end), &next));
            (way, at) = (Some(next), end + 1);
        }
        resolve(way.as_ref().map_or(top, |way| way.fd.as_fd()), &whole[at..], flags, mode)
    }

    pub fn directory(&self, rel: &RelPath) -> io::Result<OwnedFd> {
        self.open_at(rel, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// The directory that holds `rel`, and its name there.
    pub fn parent<'a>(&self, rel: &'a RelPath) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (dir, name) = split(rel)?;
        Ok((self.directory(&dir)?, name))
    }

    /// The entry at `rel`, without following a link.
    pub fn entry(&self, rel: &RelPath) -> io::Result<Entry> {
        Ok(Entry::from_path_fd(self.open_at(rel, OFlags::PATH, Mode::empty())?))
    }

    /// Opens a file for reading, without changing its access time if that is allowed. Waits for the holder of
    /// a lease.
    pub fn read(&self, rel: &RelPath) -> io::Result<File> {
        match self.read_now(rel) {
            Err(e) if is_leased(&e) => self.entry(rel)?.open(OFlags::RDONLY),
            other => other,
        }
    }

    /// The same without waiting: asks for the lease, and fails while its holder keeps it (`is_leased`).
    pub fn read_now(&self, rel: &RelPath) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        match self.open_at(rel, flags | OFlags::NOATIME, Mode::empty()) {
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => self.open_at(rel, flags, Mode::empty()),
            other => other,
        }
        .map(File::from)
    }

    pub fn write(&self, rel: &RelPath) -> io::Result<File> {
        match self.open_at(rel, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) {
            Err(e) if is_leased(&e) => self.entry(rel)?.open(OFlags::RDWR),
            other => other.map(File::from),
        }
    }

    pub fn create_dir(&self, rel: &RelPath, mode: u32) -> io::Result<()> {
        let (dir, name) = self.parent(rel)?;
        Ok(rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode))?)
    }

    /// The name at `rel` in the directory that holds it now.
    pub fn place<'a>(&self, rel: &'a RelPath) -> io::Result<Place<'a>> {
        let (dir, name) = self.parent(rel)?;
        Ok(Place::new(dir, name))
    }

    pub fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.place(from)?.rename(&self.place(to)?)
    }

    /// Renames, but never over something that exists.
    pub fn rename_to_new(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let renamed = self.place(from)?.rename_to_new(&self.place(to)?);
        self.forget_ways_through(from);
        renamed
    }

    /// Exchanges two entries in one step.
    pub fn exchange(&self, one: &RelPath, other: &RelPath) -> io::Result<()> {
        self.place(one)?.exchange(&self.place(other)?)
    }

    pub fn link(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.place(from)?.link(&self.place(to)?)
    }

    /// Removes a name that is not a directory.
    pub fn unlink(&self, rel: &RelPath) -> io::Result<()> {
        self.place(rel)?.unlink()
    }
}

/// Whether the error means that somebody holds a lease on the file and was asked to give it back.
pub fn is_leased(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EWOULDBLOCK)
}

/// The offsets where the pieces of a path end, except the last.
fn ends(path: &[u8]) -> io::Result<Vec<usize>> {
    let (mut ends, mut from) = (Vec::new(), 0);
    while path.len() - from > PIECE {
        let cut = path[from..from + PIECE].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
        ends.push(from + cut);
        from += cut + 1;
    }
    Ok(ends)
}

fn resolve(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let how = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    // The symlink itself is wanted, and NO_SYMLINKS lets it through with PATH | NOFOLLOW.
    let mut unsure = 0;
    loop {
        match openat2(dir, OsStr::from_bytes(path), flags, mode, how) {
            Err(Errno::INTR) => {}
            // A concurrent rename made the kernel unsure, so it wants to be asked again. Or somebody holds a
            // lease.
            Err(Errno::AGAIN) if unsure < UNSURE => unsure += 1,
            other => return Ok(other?),
        }
    }
}

fn split(rel: &RelPath) -> io::Result<(RelPath, &OsStr)> {
    let (dir, name) = rel.split().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((dir, OsStr::from_bytes(name)))
}

/// Remembers the last directory it resolved, for a thread that makes many entries side by side, and what that
/// thread wants to keep of it. Nobody may rename directories meanwhile.
pub struct Parents<'a, Kept = ()> {
    root: &'a Root,
    last: Option<(RelPath, OwnedFd)>,
    kept: Option<Kept>,
}

impl<'a, Kept> Parents<'a, Kept> {
    pub fn new(root: &'a Root) -> Self {
        Parents { root, last: None, kept: None }
    }

    pub fn of<'n>(&mut self, rel: &'n RelPath) -> io::Result<(BorrowedFd<'_>, &'n OsStr)> {
        let (dir, name) = split(rel)?;
        if self.last.as_ref().is_none_or(|(known, _)| *known != dir) {
            let fd = self.root.directory(&dir)?;
            (self.last, self.kept) = (Some((dir, fd)), None);
        }
        match &self.last {
            Some((_, fd)) => Ok((fd.as_fd(), name)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// What was kept of the last directory.
    pub fn kept(&mut self) -> &mut Option<Kept> {
        &mut self.kept
    }
}
