//! The way down from a directory, one name at a time.

use crate::mounts::owner_of_mount;
use crate::root::Root;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

impl Root {
    /// Opens a directory in this one. It may be what is mounted there, but by nobody else than root or who
    /// runs this: what such a file system shows is its owner's to say, and may change at any moment.
    pub fn step(&self, name: &OsStr) -> io::Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = loop {
            match openat2(self.fd(), name, flags, Mode::empty(), how) {
                // A rename somewhere made the kernel unsure: it asks to be asked again.
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

    /// Whether anything in it has this name, be it a link.
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
