//! The mount point: the directory is opened once, so that nothing is mounted on another one that takes its
//! name.

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use snapsync_model::{Context, Result};
use snapsync_sys::Root;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

pub struct Point {
    above: OwnedFd,
    name: OsString,
    directory: Root,
}

impl Point {
    /// The mount point `name` in `above`, which is `directory`.
    pub fn new(above: &Root, name: &OsStr, directory: Root) -> Result<Point> {
        let fd = above.fd().try_clone_to_owned().context("open the directory", above.path())?;
        Ok(Point { above: fd, name: name.to_owned(), directory })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn attach(&self, mount: impl AsFd) -> io::Result<Attached> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount, "", self.directory.fd(), "", flags)?;
        let top = fstat(&mount)?;
        Ok(Attached {
            above: self.above.try_clone()?,
            name: self.name.clone(),
            identity: (top.st_dev, top.st_ino),
        })
    }
}

/// An attached mount. It is not held open, because it would then be busy for whoever unmounts it.
pub(crate) struct Attached {
    above: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

impl Attached {
    /// Unmounts it if it is still the top mount at its place.
    pub(crate) fn detach(&self) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = openat(&self.above, &self.name, flags, Mode::empty())?;
        let stat = fstat(&top)?;
        if (stat.st_dev, stat.st_ino) == self.identity {
            unmount(format!("/proc/self/fd/{}", top.as_raw_fd()), UnmountFlags::DETACH)?;
        }
        Ok(())
    }
}
