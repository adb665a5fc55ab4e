//! The file system that a path is on, and its properties.

use crate::ioctl;
use rustix::fs::{StatVfsMountFlags, fstatfs, fstatvfs};
use snapsync_model::LARGEST_BLOCK;
use std::io;
use std::os::fd::AsFd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its number in `statfs`.
    pub magic: u64,
    /// The bytes that this user may still write.
    pub available: u64,
    pub inodes_available: Option<u64>,
    pub read_only: bool,
    /// The size of the blocks that hold the data of files.
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

    /// Whether files can share blocks and the file system reports exact addresses, so that files can be
    /// compared by them.
    pub fn shares_blocks(self) -> bool {
        matches!(self.magic, FileSystem::BTRFS | FileSystem::XFS)
    }
}

pub fn filesystem(fd: impl AsFd) -> io::Result<FileSystem> {
    let stat = fstatfs(&fd)?;
    let flags = fstatvfs(&fd)?.f_flag;
    Ok(FileSystem {
        // The kernel's numbers have 32 bits, whatever the type of the field.
        magic: u64::from(stat.f_type as u32),
        available: stat.f_bavail.saturating_mul(stat.f_bsize as u64),
        // Btrfs creates inodes as needed and reports no count.
        inodes_available: (stat.f_files > 0).then_some(stat.f_ffree),
        read_only: flags.contains(StatVfsMountFlags::RDONLY),
        // The other block size that it reports is a hint for the size of reads and writes.
        block_size: (stat.f_frsize as u64).clamp(512, LARGEST_BLOCK).next_power_of_two(),
    })
}

#[repr(C)]
#[derive(Default)]
struct Uuid {
    length: u8,
    bytes: [u8; 16],
}

/// FS_IOC_GETFSUUID, since Linux 6.9.
const GET_UUID: u64 = 0x8011_1500;

/// Identifies a file system wherever it is mounted; None if nothing reliable is reported.
pub fn identity(fd: impl AsFd) -> Option<String> {
    if let Some(uuid) = filesystem_uuid(&fd) {
        return Some(uuid);
    }
    // On older kernels these two derive the number in statfs(2) from their UUID, others from the device
    // number.
    let is_own = filesystem(&fd).is_ok_and(|fs| matches!(fs.magic, FileSystem::BTRFS | FileSystem::EXT4));
    fstatvfs(&fd).ok().filter(|_| is_own).map(|stat| hex(&stat.f_fsid.to_be_bytes()))
}

/// The UUID of a file system; None if the file system or the kernel does not report it.
pub fn filesystem_uuid(fd: impl AsFd) -> Option<String> {
    let mut uuid = Uuid::default();
    // SAFETY: the kernel writes one struct fsuuid2, which this is.
    let is_told = unsafe { ioctl::call(&fd, GET_UUID, &mut uuid) }.is_ok() && uuid.length == 16;
    is_told.then(|| hex(&uuid.bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
