//! An inode as a snapshot holds it.

use crate::extent::Range;
use serde::{Deserialize, Serialize};

/// No file has this change time, so the next walk reads the file itself.
pub const UNSETTLED: i64 = i64::MIN;

/// The number of a tree's root directory here. No file system uses 0.
pub const ROOT: u64 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Kind {
    /// The kind for the type bits of `st_mode`.
    pub fn from_mode(mode: u32) -> Option<Kind> {
        Some(match mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Symlink,
            0o010_000 => Kind::Fifo,
            0o140_000 => Kind::Socket,
            0o020_000 => Kind::CharDevice,
            0o060_000 => Kind::BlockDevice,
            _ => return None,
        })
    }

    /// The type bits of `st_mode`.
    pub fn mode_bits(self) -> u32 {
        match self {
            Kind::File => 0o100_000,
            Kind::Directory => 0o040_000,
            Kind::Symlink => 0o120_000,
            Kind::Fifo => 0o010_000,
            Kind::Socket => 0o140_000,
            Kind::CharDevice => 0o020_000,
            Kind::BlockDevice => 0o060_000,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::CharDevice => "char_device",
            Kind::BlockDevice => "block_device",
        }
    }

    pub fn from_name(name: &str) -> Option<Kind> {
        use Kind::*;
        [File, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice]
            .into_iter()
            .find(|k| k.name() == name)
    }
}

/// An inode of a standby as seen before a commit: enough to find it in the table of that time, and to tell
/// whether it still matched the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub ino: u64,
    pub ctime: i64,
}

/// One name of an inode: an entry of the directory `parent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    pub parent: u64,
    pub name: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Xattr {
    pub name: Box<[u8]>,
    pub value: Box<[u8]>,
}

/// Attributes that few inodes have; all 0 for most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rare {
    /// The project whose quota the inode counts for.
    pub project: u32,
    /// `FS_XFLAG_*` bits that have no `FS_*_FL` equivalent.
    pub xflags: u32,
    /// The extent size hint, or the copy-on-write extent size hint, in bytes.
    pub extent_size: u32,
    pub cow_extent_size: u32,
}

/// Details that can only be learned by opening the inode. They are read only for inodes that may have
/// changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// The replicated inode flags (`FS_*_FL`); all others are masked out.
    pub flags: u32,
    pub rare: Rare,
    /// Sorted by name.
    pub xattrs: Vec<Xattr>,
    /// The target of a symbolic link.
    pub symlink_target: Option<Box<[u8]>>,
    /// Preallocated ranges, which read as zeros. Sorted and apart from each other.
    pub unwritten: Vec<Range>,
}

/// What one stat of an inode tells, without its names. Two equal looks mean that the inode did not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub ino: u64,
    pub generation: u64,
    pub kind: Kind,
    /// The attributes without flags and without a device number, which never changes.
    pub attributes: Attributes,
    pub ctime: i64,
    /// 0 for anything but a file.
    pub blocks: u64,
}

impl Look {
    pub fn of(
        ino: u64,
        generation: u64,
        kind: Kind,
        attributes: Attributes,
        ctime: i64,
        blocks: u64,
    ) -> Look {
        let attributes = Attributes { rdev: 0, ..attributes.bare() };
        Look { ino, generation, kind, attributes, ctime, blocks: if kind == Kind::File { blocks } else { 0 } }
    }
}

impl From<&Inode> for Look {
    fn from(inode: &Inode) -> Look {
        Look::of(inode.ino, inode.generation, inode.kind, inode.attributes, inode.ctime, inode.blocks)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// `ROOT` for the root, otherwise the file system's number.
    pub ino: u64,
    /// Distinguishes successive files with the same number: the birth time in ns if the file system keeps
    /// one, otherwise 0.
    pub generation: u64,
    pub kind: Kind,
    /// `flags` in here is 0 until `details` are known.
    pub attributes: Attributes,
    /// Change time in ns since 1970; compared for inequality, never for order.
    pub ctime: i64,
    /// The blocks of 512 bytes that the inode occupies.
    pub blocks: u64,
    /// Its names within the tree, sorted; none for the root.
    pub links: Vec<Link>,
    pub details: Option<Box<Details>>,
    /// The pool object that holds the data; 0 for none.
    pub object: u64,
    /// Whether other files shared some of the data when the object was made.
    pub shared: bool,
}

/// Attributes that every inode has. The size of anything but a file is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// In bytes.
    pub size: u64,
    /// Permission bits with set-id and sticky: 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    /// Modification time in ns since 1970.
    pub mtime: i64,
    /// The second of a time that 64 bits of ns cannot express, otherwise 0. `mtime` is then the nearest time
    /// they can express with the ns within that second.
    #[serde(default)]
    pub far_second: i64,
    /// Inode flags (`FS_*_FL`).
    pub flags: u32,
    #[serde(default)]
    pub rare: Rare,
}

impl Attributes {
    /// The attributes as one stat of an inode tells them.
    pub fn bare(self) -> Attributes {
        Attributes { flags: 0, rare: Rare::default(), ..self }
    }

    /// Adds what can only be learned by opening the inode.
    pub fn with(self, details: &Details) -> Attributes {
        Attributes { flags: details.flags, rare: details.rare, ..self }
    }

    /// The modification time in ns since 1970, of any size.
    pub fn time(&self) -> i128 {
        match self.far_second {
            0 => self.mtime.into(),
            far => i128::from(far) * 1_000_000_000 + i128::from(self.mtime.rem_euclid(1_000_000_000)),
        }
    }

    /// The same attributes with another modification time, of at most 64 bits of seconds.
    pub fn at_time(self, time: i128) -> Attributes {
        let (mtime, far_second) =
            ns_of(time.div_euclid(1_000_000_000) as i64, time.rem_euclid(1_000_000_000) as u32);
        Attributes { mtime, far_second, ..self }
    }
}

/// A time as ns since 1970 and, if 64 bits cannot express it, its second.
pub fn ns_of(second: i64, ns: u32) -> (i64, i64) {
    const REACH: i64 = i64::MAX / 1_000_000_000 - 1;
    match second.checked_mul(1_000_000_000).and_then(|sum| sum.checked_add(ns.into())) {
        Some(sum) => (sum, 0),
        None => (second.clamp(-REACH, REACH) * 1_000_000_000 + i64::from(ns), second),
    }
}
