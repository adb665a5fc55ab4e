//! Attributes of an inode besides its mode, in the kernel's form: flags, and `struct fsxattr`.

use crate::ioctl;
use std::io;
use std::os::fd::AsFd;

const FS_IOC_GETFLAGS: u64 = 0x8008_6601;
const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
const FS_IOC_FSGETXATTR: u64 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;

/// All inode flags, including those that the file system sets itself.
pub(crate) fn all_flags(fd: impl AsFd) -> io::Result<u32> {
    let mut flags: libc::c_long = 0;
    // SAFETY: FS_IOC_GETFLAGS writes an int, though its number says long.
    unsafe { ioctl::call(fd, FS_IOC_GETFLAGS, &mut flags) }?;
    Ok(flags as u32)
}

pub(crate) fn set_all_flags(fd: impl AsFd, flags: u32) -> io::Result<()> {
    let mut flags = libc::c_long::from(flags);
    // SAFETY: FS_IOC_SETFLAGS reads an int, though its number says long.
    unsafe { ioctl::call(fd, FS_IOC_SETFLAGS, &mut flags) }?;
    Ok(())
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct FsXattr {
    pub xflags: u32,
    pub extent_size: u32,
    pub extents: u32,
    pub project: u32,
    pub cow_extent_size: u32,
    pub padding: [u8; 8],
}

const _: () = assert!(size_of::<FsXattr>() == 28);

impl FsXattr {
    pub(crate) fn of(fd: impl AsFd) -> io::Result<FsXattr> {
        let mut found = FsXattr::default();
        // SAFETY: FS_IOC_FSGETXATTR writes a struct fsxattr, which is all numbers.
        unsafe { ioctl::call(fd, FS_IOC_FSGETXATTR, &mut found) }?;
        Ok(found)
    }

    pub(crate) fn set(mut self, fd: impl AsFd) -> io::Result<()> {
        // SAFETY: FS_IOC_FSSETXATTR reads a struct fsxattr.
        unsafe { ioctl::call(fd, FS_IOC_FSSETXATTR, &mut self) }?;
        Ok(())
    }
}
