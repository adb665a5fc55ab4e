//! A name in an open directory. Every action happens in that directory, even if somebody exchanges
//! directories meanwhile.

use crate::directory::across_projects;
use crate::entry::Entry;
use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[derive(Debug)]
pub struct Place<'a> {
    dir: OwnedFd,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    /// `name` must be a single name.
    pub fn new(dir: OwnedFd, name: &'a OsStr) -> Place<'a> {
        Place { dir, name }
    }

    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The entry that has the name now, without following a link.
    pub fn entry(&self) -> io::Result<Entry> {
        Entry::at(&self.dir, self.name)
    }

    pub fn rename(&self, to: &Place<'_>) -> io::Result<()> {
        let rename = || renameat(&self.dir, self.name, &to.dir, to.name);
        Ok(across_projects(&self.dir, self.name, &to.dir, &rename)?)
    }

    /// Renames, but never over something that exists.
    pub fn rename_to_new(&self, to: &Place<'_>) -> io::Result<()> {
        let flags = RenameFlags::NOREPLACE;
        let rename = || renameat_with(&self.dir, self.name, &to.dir, to.name, flags);
        match across_projects(&self.dir, self.name, &to.dir, &rename) {
            // The file system cannot guarantee it, so look first.
            Err(Errno::INVAL | Errno::NOSYS) => match to.entry() {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => Ok(renameat(&self.dir, self.name, &to.dir, to.name)?),
            },
            other => Ok(other?),
        }
    }

    /// Exchanges two entries in one step.
    pub fn exchange(&self, other: &Place<'_>) -> io::Result<()> {
        let flags = RenameFlags::EXCHANGE;
        let exchange = || renameat_with(&self.dir, self.name, &other.dir, other.name, flags);
        // A project may keep out either of them.
        Ok(across_projects(&self.dir, self.name, &other.dir, &|| {
            across_projects(&other.dir, other.name, &self.dir, &exchange)
        })?)
    }

    pub fn link(&self, to: &Place<'_>) -> io::Result<()> {
        let link = || linkat(&self.dir, self.name, &to.dir, to.name, AtFlags::empty());
        Ok(across_projects(&self.dir, self.name, &to.dir, &link)?)
    }

    /// Links the inode that an entry holds to this name, and never replaces anything.
    pub fn link_entry(&self, entry: &Entry) -> io::Result<()> {
        Ok(linkat(CWD, entry.proc_path(), &self.dir, self.name, AtFlags::SYMLINK_FOLLOW)?)
    }

    /// Removes a name that is not a directory.
    pub fn unlink(&self) -> io::Result<()> {
        Ok(unlinkat(&self.dir, self.name, AtFlags::empty())?)
    }
}
