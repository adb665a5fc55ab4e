//! Opens directories on the way down, one name at a time.

use crate::mounts::owner_of_mount;
use crate::root::Root;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

impl Root {
    /// Opens a directory in this one. It may be a mount, but only of root or of this user: the owner of such
    /// a file system decides what it shows, and may change it at any moment.
    pub fn step(&self, name: &OsStr) -> io::Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = loop {
            match openat2(self.fd(), name, flags, Mode::empty(), how) {
                // A concurrent rename made the kernel unsure, so it wants to be asked again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => break other?,
            }
        };
        let (here, there) = (mount_of(self.fd())?, mount_of(&fd)?);
        let user = rustix::process::geteuid().as_raw();
        if here != there && owner_of_mount(there)?.is_some_and(|owner| owner != 0 && owner != user) {
            return Err(Errno::XDEV.into());
        }
        Ok(Root::of(fd, self.path().join(name)))
    }

    /// Whether it contains an entry with this name, links included.
    pub fn has(&self, name: &OsStr) -> io::Result<bool> {
        match statat(self.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// The number of the mount that a descriptor was opened through.
fn mount_of(fd: impl AsFd) -> io::Result<u64> {
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    let number = told.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other("the kernel does not tell which mount it is in"))
}
