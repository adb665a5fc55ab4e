//! Inode flags, projects and allocation hints, as `chattr` and `xfs_io` set them.

use crate::attributes::{FsXattr, all_flags, set_all_flags};
use crate::fs::FileSystem;
use snapsync_model::Rare;
use std::io;
use std::os::fd::AsFd;

pub const IMMUTABLE: u32 = 0x10;
pub const APPEND: u32 = 0x20;
/// Flags that prevent other changes to an inode. They are cleared first and set last.
pub const PROTECTIVE: u32 = IMMUTABLE | APPEND;
pub(crate) const NODUMP: u32 = 0x40;
pub(crate) const COMPRESS: u32 = 0x04;
const NOCOMPRESS: u32 = 0x400;
pub const NOCOW: u32 = 0x0080_0000;
/// Set on a directory: new entries get its project, and entries of other projects are refused.
pub const PROJECT_INHERIT: u32 = 0x2000_0000;
pub(crate) const VERITY: u32 = 0x0010_0000;
pub(crate) const CASEFOLD: u32 = 0x4000_0000;

/// The inode flags that users set, with the letters of `chattr` and `lsattr`. Flags that say how the file
/// system stores a file are left out: encrypted, by extents, in the inode; so is "do not compress", which
/// Btrfs sets by itself on files that do not shrink.
const NAMES: &[(u32, char)] = &[
    (0x01, 's'),
    (0x02, 'u'),
    (COMPRESS, 'c'),
    (0x08, 'S'),
    (IMMUTABLE, 'i'),
    (APPEND, 'a'),
    (NODUMP, 'd'),
    (0x80, 'A'),
    (0x4000, 'j'),
    (0x8000, 't'),
    (0x0001_0000, 'D'),
    (0x0002_0000, 'T'),
    (VERITY, 'V'),
    (NOCOW, 'C'),
    (0x0200_0000, 'x'),
    (PROJECT_INHERIT, 'P'),
    (CASEFOLD, 'F'),
];

pub const REPLICATED_FLAGS: u32 = {
    let (mut all, mut at) = (0, 0);
    while at < NAMES.len() {
        all |= NAMES[at].0;
        at += 1;
    }
    all
};

/// Flags that are reported but cannot be set as flags: fs-verity, and case folding.
const TOLD_ONLY: u32 = VERITY | CASEFOLD;
/// The flags that can be set.
pub const SET_FLAGS: u32 = REPLICATED_FLAGS & !TOLD_ONLY;

/// The letters of the flags.
pub fn flag_names(flags: u32) -> String {
    NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| *letter).collect()
}

/// The inode flags; 0 if the file system has none.
pub fn flags_of(file: impl AsFd) -> io::Result<u32> {
    match all_flags(file) {
        Ok(flags) => Ok(flags & REPLICATED_FLAGS),
        Err(e) if unsupported(&e) => Ok(0),
        Err(e) => Err(e),
    }
}

/// Sets the replicated flags to `flags` and leaves those of the file system as they are.
pub fn set_flags_of(file: impl AsFd, flags: u32) -> io::Result<()> {
    let now = all_flags(&file)?;
    let mut wanted = (now & !SET_FLAGS) | (flags & SET_FLAGS);
    if flags & COMPRESS != 0 {
        // Btrfs refuses the two together.
        wanted &= !NOCOMPRESS;
    }
    if wanted != now {
        set_all_flags(&file, wanted)?;
    }
    // Some file systems accept a flag that they do not keep, so check what is there afterwards.
    let now = flags_of(&file)?;
    let is_held = now & SET_FLAGS == flags & SET_FLAGS && flags & TOLD_ONLY & !now == 0;
    if is_held { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// `extent_size` applies to a file, or to the new entries of a directory.
pub const EXTENT_SIZE: u32 = 0x0800 | 0x1000;
pub const COW_EXTENT_SIZE: u32 = 0x0001_0000;
/// Besides these: no symbolic links, no defragmentation, stream allocation. The device that a file lies on is
/// the file system's own business.
pub const XFLAGS: u32 = EXTENT_SIZE | COW_EXTENT_SIZE | 0x0400 | 0x2000 | 0x4000;

/// On a realtime device, preallocated, with room for extended attributes: what XFS says of an inode without
/// flags.
const XFS_STATE: u32 = 0x1 | 0x2 | 0x8000_0000;

impl From<FsXattr> for Rare {
    fn from(found: FsXattr) -> Rare {
        let size = |flags: u32, size| if found.xflags & flags != 0 { size } else { 0 };
        Rare {
            project: found.project,
            xflags: found.xflags & XFLAGS,
            extent_size: size(EXTENT_SIZE, found.extent_size),
            cow_extent_size: size(COW_EXTENT_SIZE, found.cow_extent_size),
        }
    }
}

/// The project and hints; nothing if the file system has none.
pub fn rare_of(file: impl AsFd) -> io::Result<Rare> {
    match FsXattr::of(file) {
        Ok(found) => Ok(found.into()),
        Err(e) if unsupported(&e) => Ok(Rare::default()),
        Err(e) => Err(e),
    }
}

/// `flags_of` and `rare_of` of a file on `filesystem`, by one call where that tells both.
pub fn flags_and_rare_of(file: impl AsFd, filesystem: FileSystem) -> io::Result<(u32, Rare)> {
    match filesystem.magic {
        // It makes its answer about flags from this one, which also tells of preallocation and its devices.
        FileSystem::XFS => {
            let found = FsXattr::of(&file)?;
            let flags = if found.xflags & !XFS_STATE == 0 { 0 } else { flags_of(file)? };
            Ok((flags, found.into()))
        }
        // It has neither projects nor hints.
        FileSystem::BTRFS => Ok((flags_of(file)?, Rare::default())),
        _ => Ok((flags_of(&file)?, rare_of(file)?)),
    }
}

/// The extent size of a file can only be set while the file has no extents.
pub fn set_rare_of(file: impl AsFd, rare: Rare) -> io::Result<()> {
    let now = FsXattr::of(&file)?;
    if Rare::from(now) == rare {
        return Ok(());
    }
    let wanted = FsXattr {
        xflags: (now.xflags & !XFLAGS) | rare.xflags,
        extent_size: rare.extent_size,
        project: rare.project,
        cow_extent_size: rare.cow_extent_size,
        ..now
    };
    wanted.set(&file)?;
    if rare_of(&file)? == rare { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Clears the flags of a directory that new entries would inherit, or that would keep entries out.
pub fn clear_flags_of(directory: impl AsFd) -> io::Result<()> {
    if flags_of(&directory)? & SET_FLAGS != 0 {
        set_flags_of(&directory, flags_of(&directory)? & TOLD_ONLY)?;
    }
    if rare_of(&directory)? == Rare::default() { Ok(()) } else { set_rare_of(&directory, Rare::default()) }
}

fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS))
}
