//! Existing directories: whether they can be moved, and whether they accept new entries.

use crate::check::rehearsal::trial::Rehearsal;
use rustix::fs::{Mode, OFlags, mkdirat, openat, renameat, symlinkat};
use rustix::io::Errno;
use snapsync_model::{Change, Context, Error, Kind, Link, RelPath, Result};
use snapsync_sys::{Entry, Traits, inherit_from, make_node, remove_tree, traits_of};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A directory that no other can replace, because it is not empty.
const FULL: &str = "full";

impl Rehearsal<'_> {
    /// Refuses a directory that cannot be moved, because it is a mount point or lies in a lower layer. The
    /// trial moves it onto a full directory, which always fails, but with another error.
    pub(crate) fn moves(&mut self, change: &Change, path: &RelPath) -> Result<()> {
        if self.unseen.is_some() {
            return Ok(());
        }
        self.make_full().context("try out what can be held by", self.root.path())?;
        let (dir, name) = self.root.parent(path).context("open", self.root.show(path))?;
        let why = match renameat(&dir, name, &self.dir, FULL) {
            Err(Errno::XDEV) => "it is of a lower layer of its file system, or of another subvolume",
            Err(Errno::BUSY) => "something is mounted on it",
            Ok(()) => return renameat(&self.dir, FULL, dir, name).context("move back", self.root.show(path)),
            Err(_) => return Ok(()),
        };
        Err(self.refuse(change, &format!("it cannot be moved: {why}")))
    }

    fn make_full(&self) -> io::Result<()> {
        for name in [FULL.to_owned(), format!("{FULL}/x")] {
            match mkdirat(&self.dir, &name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Refuses an entry that a directory with such traits does not accept.
    pub(crate) fn comes_to(&mut self, change: &Change, link: &Link, to: &(RelPath, Traits)) -> Result<()> {
        let (path, traits) = to;
        if traits.encrypts && !traits_of(&self.dir).encrypts {
            return Err(self.unwelcome(change, path, "it is encrypted by a key of its own"));
        }
        if traits.folds {
            self.beside_others(change, link, true)?;
        }
        if !traits.inherits {
            return Ok(());
        }
        if self.unseen.is_some() {
            return Ok(());
        }
        let key = (link.parent, change.kind);
        let may_come = match self.projects.get(&key) {
            Some(known) => *known,
            None => {
                let found = self.joins_project(change.kind, path)?;
                self.projects.insert(key, found);
                found
            }
        };
        if may_come { Ok(()) } else { Err(self.unwelcome(change, path, "it has a project of its own")) }
    }

    /// Tries it with a directory of the same project.
    fn joins_project(&self, kind: Kind, path: &RelPath) -> Result<bool> {
        let target = self.root.entry(path).context("open", self.root.show(path))?;
        let (from, to) = (self.at.join(b"joins")?, self.at.join(b"probe")?.join(b"joins")?);
        self.with_dir(|like| {
            inherit_from(&Entry::from_open(like.try_clone()?), &target)?;
            make(self.dir.as_fd(), OsStr::new("joins"), kind)?;
            let moved = self.root.rename_to_new(&from, &to);
            remove_tree(&self.dir, OsStr::new("joins"))?;
            moved
        })
        .map_or_else(|_| Ok(false), |()| Ok(true))
    }

    fn unwelcome(&self, change: &Change, to: &RelPath, why: &str) -> Error {
        Error::refused(
            format!("{} cannot be put into {}: {why}", change.display_path(), self.root.show(to).display()),
            "give that directory the properties of its volume; nothing was changed",
        )
    }
}

/// Makes something of this kind.
fn make(dir: BorrowedFd<'_>, name: &OsStr, kind: Kind) -> io::Result<()> {
    match kind {
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
        }
        Kind::Directory => mkdirat(dir, name, Mode::from_raw_mode(0o700))?,
        Kind::Symlink => symlinkat("x", dir, name)?,
        other => make_node(dir, name, other, 0)?,
    }
    Ok(())
}
