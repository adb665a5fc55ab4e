//! Which file system a path is on, and what it can do.

use crate::ioctl;
use rustix::fs::{StatVfsMountFlags, fstatfs, fstatvfs};
use snapsync_model::LARGEST_BLOCK;
use std::io;
use std::os::fd::AsFd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// The number `statfs` gives it.
    pub magic: u64,
    /// Bytes that this user may still write.
    pub available: u64,
    pub inodes_available: Option<u64>,
    pub read_only: bool,
    /// Files have their bytes in blocks of this size.
    pub block_size: u64,
}

const NAMES: &[(u64, &str)] = &[
    (FileSystem::BTRFS, "btrfs"),
    (FileSystem::XFS, "xfs"),
    (FileSystem::EXT4, "ext4"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x6573_5546, "fuse"),
    (0x6969, "nfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xf2f5_2010, "f2fs"),
    (0x4d44, "vfat"),
];

impl FileSystem {
    pub const BTRFS: u64 = 0x9123_683e;
    pub const XFS: u64 = 0x5846_5342;
    pub const EXT4: u64 = 0xef53;

    pub fn name(self) -> String {
        let known = NAMES.iter().find(|(magic, _)| *magic == self.magic);
        known.map_or_else(|| format!("{:#x}", self.magic), |(_, name)| (*name).to_owned())
    }

    /// Files can share blocks, and it tells which: by its addresses two files can be compared.
    pub fn shares_blocks(self) -> bool {
        matches!(self.magic, FileSystem::BTRFS | FileSystem::XFS)
    }
}

pub fn filesystem(fd: impl AsFd) -> io::Result<FileSystem> {
    let stat = fstatfs(&fd)?;
    let flags = fstatvfs(&fd)?.f_flag;
    Ok(FileSystem {
        // The kernel's numbers are 32 bits wide, whatever the type of the field.
        magic: u64::from(stat.f_type as u32),
        available: stat.f_bavail.saturating_mul(stat.f_bsize as u64),
        // Btrfs makes inodes as it goes and counts none.
        inodes_available: (stat.f_files > 0).then_some(stat.f_ffree),
        read_only: flags.contains(StatVfsMountFlags::RDONLY),
        // What else it tells as a block is what it likes to be asked for.
        block_size: (stat.f_frsize as u64).clamp(512, LARGEST_BLOCK).next_power_of_two(),
    })
}

#[repr(C)]
#[derive(Default)]
struct Uuid {
    length: u8,
    bytes: [u8; 16],
}

/// FS_IOC_GETFSUUID, of Linux 6.9.
const GET_UUID: u64 = 0x8011_1500;

/// What tells a file system from every other, wherever it is mounted; None where it does not say.
pub fn identity(fd: impl AsFd) -> Option<String> {
    if let Some(uuid) = filesystem_uuid(&fd) {
        return Some(uuid);
    }
    // Older kernels: these two make the number that statfs(2) tells from their own, others from that of the
    // device.
    let is_own = filesystem(&fd).is_ok_and(|fs| matches!(fs.magic, FileSystem::BTRFS | FileSystem::EXT4));
    fstatvfs(&fd).ok().filter(|_| is_own).map(|stat| hex(&stat.f_fsid.to_be_bytes()))
}

/// What a file system was given when it was made; None where it, or the kernel, does not say.
pub fn filesystem_uuid(fd: impl AsFd) -> Option<String> {
    let mut uuid = Uuid::default();
    // SAFETY: the kernel writes one struct fsuuid2, which this is.
    let is_told = unsafe { ioctl::call(&fd, GET_UUID, &mut uuid) }.is_ok() && uuid.length == 16;
    is_told.then(|| hex(&uuid.bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
