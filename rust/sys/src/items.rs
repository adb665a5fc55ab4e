//! The items of Btrfs trees: `struct btrfs_*_item` of the kernel's `include/uapi/linux/btrfs_tree.h`.

use crate::flags::{APPEND, COMPRESS, IMMUTABLE, NOCOW, NODUMP, REPLICATED_FLAGS, VERITY};
use snapsync_model::{Address, Attributes, Details, Kind, Layout, Link, Placed, Range, Rare, Xattr, ns_of};
use std::io;

/// The inode number of the root directory of every subvolume.
pub const ROOT_INODE: u64 = 256;
/// The file system itself uses the numbers above this.
pub(crate) const LAST_INODE: u64 = u64::MAX - 255;

pub const INODE_ITEM: u32 = 1;
const INODE_REF: u32 = 12;
const INODE_EXTREF: u32 = 13;
const XATTR: u32 = 24;
pub(crate) const DIR_ITEM: u32 = 84;
pub const DIR_INDEX: u32 = 96;
pub(crate) const EXTENT_DATA: u32 = 108;

/// The position of an item in a tree. Items are ordered by these fields in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub objectid: u64,
    pub kind: u32,
    pub offset: u64,
}

impl Key {
    /// The bounds of all items of one inode between two types, both included.
    pub fn of(ino: u64, kinds: std::ops::RangeInclusive<u32>) -> (Key, Key) {
        let first = Key { objectid: ino, kind: *kinds.start(), offset: 0 };
        (first, Key { objectid: ino, kind: *kinds.end(), offset: u64::MAX })
    }

    /// The bounds of all items of the inodes between two numbers, both included.
    pub fn between(first: u64, last: u64) -> (Key, Key) {
        let first = Key { objectid: first, kind: 0, offset: 0 };
        (first, Key { objectid: last, kind: 255, offset: u64::MAX })
    }

    /// The bounds of all items of every inode.
    pub fn all() -> (Key, Key) {
        Key::between(ROOT_INODE, LAST_INODE)
    }

    pub(crate) fn next(self) -> Option<Key> {
        if let Some(offset) = self.offset.checked_add(1) {
            return Some(Key { offset, ..self });
        }
        if self.kind < 255 {
            return Some(Key { kind: self.kind + 1, offset: 0, ..self });
        }
        Some(Key { objectid: self.objectid.checked_add(1)?, kind: 0, offset: 0 })
    }
}

/// A little-endian number in an item; None beyond the end of the item.
pub fn u64_at(item: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(item.get(at..at + 8)?.try_into().ok()?))
}

pub(crate) fn u32_at(item: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(item.get(at..at + 4)?.try_into().ok()?))
}

pub fn u16_at(item: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(item.get(at..at + 2)?.try_into().ok()?))
}

/// `struct btrfs_inode_item`.
#[derive(Clone, Copy, Debug)]
pub struct InodeItem {
    /// The transaction that changed it last.
    pub changed: u64,
    /// None if it is no kind of file.
    pub kind: Option<Kind>,
    /// Birth time in ns since 1970.
    pub generation: u64,
    pub attributes: Attributes,
    pub ctime: i64,
    pub blocks: u64,
    /// Its flags as `FS_IOC_GETFLAGS` tells them.
    pub flags: u32,
}

/// None if the item is too short.
pub fn inode_item(item: &[u8]) -> Option<InodeItem> {
    let time = |at| Some(ns_of(u64_at(item, at)? as i64, u32_at(item, at + 8)?));
    let (mode, rdev, flags) = (u32_at(item, 52)?, u64_at(item, 56)?, flags_in(u64_at(item, 64)?));
    let kind = Kind::from_mode(mode);
    let is_device = matches!(kind, Some(Kind::CharDevice | Kind::BlockDevice));
    Some(InodeItem {
        changed: u64_at(item, 8)?,
        kind,
        generation: time(148)?.0 as u64,
        attributes: Attributes {
            size: if matches!(kind, Some(Kind::File | Kind::Symlink)) { u64_at(item, 16)? } else { 0 },
            mode: mode & 0o7777,
            uid: u32_at(item, 44)?,
            gid: u32_at(item, 48)?,
            // The kernel's own encoding: 20 bits for the minor number, the major number above them.
            rdev: if is_device {
                rustix::fs::makedev((rdev >> 20) as u32, (rdev & 0xf_ffff) as u32)
            } else {
                0
            },
            mtime: time(136)?.0,
            far_second: time(136)?.1,
            flags: flags & TOLD_BY_STATX,
            rare: Rare::default(),
        },
        ctime: time(124)?.0,
        blocks: u64_at(item, 24)?.div_ceil(4096) * 8,
        flags: flags & REPLICATED_FLAGS,
    })
}

const TOLD_BY_STATX: u32 = IMMUTABLE | APPEND | NODUMP;

/// The flags of an inode item by their other names.
fn flags_in(item: u64) -> u32 {
    const NOT_COMPRESSED: u64 = 1 << 3;
    const COMPRESSED: u64 = 1 << 11;
    const NAMES: [(u64, u32); 8] = [
        (1 << 1, NOCOW),
        (1 << 5, 0x08),
        (1 << 6, IMMUTABLE),
        (1 << 7, APPEND),
        (1 << 8, NODUMP),
        (1 << 9, 0x80),
        (1 << 10, 0x0001_0000),
        (1 << 32, VERITY),
    ];
    let compressed = if item & (COMPRESSED | NOT_COMPRESSED) == COMPRESSED { COMPRESS } else { 0 };
    let found = NAMES.iter().filter(|(bit, _)| item & bit != 0).map(|(_, name)| name);
    found.fold(compressed, |all, name| all | name)
}

/// The names in an `INODE_REF` or `INODE_EXTREF` item.
fn names(key: Key, item: &[u8]) -> Option<Vec<Link>> {
    let is_ref = key.kind == INODE_REF;
    let (mut at, mut found) = (0, Vec::new());
    while at < item.len() {
        // struct btrfs_inode_ref, or struct btrfs_inode_extref, which contains the parent.
        let parent = if is_ref { key.offset } else { u64_at(item, at)? };
        let header = if is_ref { 10 } else { 18 };
        let length = usize::from(u16_at(item, at + header - 2)?);
        let name = item.get(at + header..at + header + length)?;
        found.push(Link { parent, name: name.into() });
        at += header + length;
    }
    Some(found)
}

/// An entry of a directory: a `DIR_INDEX` item.
#[derive(Clone, Debug)]
pub struct DirectoryItem {
    pub name: Box<[u8]>,
    /// None for a subvolume.
    pub inode: Option<u64>,
}

fn directory_item(item: &[u8]) -> Option<DirectoryItem> {
    let length = usize::from(u16_at(item, 27)?);
    let is_inode = u32::from(*item.get(8)?) == INODE_ITEM;
    let inode = if is_inode { Some(u64_at(item, 0)?) } else { None };
    Some(DirectoryItem { name: item.get(30..30 + length)?.into(), inode })
}

enum FileExtent {
    Data(Placed),
    Unwritten(Range),
    Hole,
}

fn file_extent(at: u64, item: &[u8], since: u64) -> Option<FileExtent> {
    const INLINE: u8 = 0;
    const REGULAR: u8 = 1;
    const PREALLOCATED: u8 = 2;
    let (compression, other) = (*item.get(16)?, u32_at(item, 16)? >> 8 & 0xff_ffff);
    let kind = *item.get(20)?;
    if kind == INLINE {
        let range = Range { offset: at, length: u64_at(item, 8)? };
        return Some(FileExtent::Data(range.into()));
    }
    let (start, offset) = (u64_at(item, 21)?, u64_at(item, 37)?);
    let range = Range { offset: at, length: u64_at(item, 45)? };
    let address = match (compression, other) {
        (0, 0) => Some(Address { extent: 0, offset: start + offset }),
        // The address also includes the compression type, in bits that are always 0 in a start.
        (_, 0) => Some(Address { extent: start | u64::from(compression), offset }),
        _ => None,
    };
    Some(match kind {
        _ if start == 0 => FileExtent::Hole,
        REGULAR => FileExtent::Data(Placed { range, address, shared: u64_at(item, 0)? <= since }),
        PREALLOCATED => FileExtent::Unwritten(range),
        _ => return None,
    })
}

/// The extents of a file.
#[derive(Default)]
pub(crate) struct Extents {
    data: Vec<Placed>,
    unwritten: Vec<Range>,
}

impl Extents {
    pub(crate) fn add(&mut self, at: u64, item: &[u8], since: u64) -> io::Result<()> {
        match file_extent(at, item, since).ok_or(io::ErrorKind::InvalidData)? {
            FileExtent::Data(placed) => self.data.push(placed),
            FileExtent::Unwritten(range) => self.unwritten.push(range),
            FileExtent::Hole => {}
        }
        Ok(())
    }

    pub(crate) fn layout(&self, size: u64) -> Layout {
        Layout::new(size, &self.data, &self.unwritten)
    }
}

/// All items of one inode.
#[derive(Clone, Debug, Default)]
pub struct InodeItems {
    pub number: u64,
    /// The inode item; empty where there is none.
    inode: Vec<u8>,
    /// The others, each behind its type, offset and length. Entries of directories are there once, by index.
    rest: Vec<u8>,
}

impl InodeItems {
    pub(crate) fn of(number: u64) -> InodeItems {
        InodeItems { number, ..InodeItems::default() }
    }

    pub(crate) fn add(&mut self, key: Key, item: &[u8]) {
        match key.kind {
            INODE_ITEM => self.inode = item.to_vec(),
            DIR_ITEM => {}
            _ => {
                self.rest.extend(key.kind.to_le_bytes());
                self.rest.extend(key.offset.to_le_bytes());
                self.rest.extend((item.len() as u32).to_le_bytes());
                self.rest.extend(item);
            }
        }
    }

    fn each(&self, kinds: &[u32]) -> impl Iterator<Item = (Key, &[u8])> {
        let (mut at, number) = (0, self.number);
        let all = std::iter::from_fn(move || {
            let (kind, offset) = (u32_at(&self.rest, at)?, u64_at(&self.rest, at + 4)?);
            let from = at + 16;
            at = from + u32_at(&self.rest, at + 12)? as usize;
            Some((Key { objectid: number, kind, offset }, self.rest.get(from..at)?))
        });
        all.filter(move |(key, _)| kinds.contains(&key.kind))
    }

    /// Whether both are of the same inode in the same state. Only the access time may differ, and the number
    /// of the transaction that has written it.
    pub fn is_same(&self, other: &InodeItems) -> bool {
        let parts = |item: &'_ [u8]| {
            Some((item.get(..8)?.to_vec(), item.get(16..112)?.to_vec(), item.get(124..)?.to_vec()))
        };
        self.number == other.number
            && self.rest == other.rest
            && parts(&self.inode).is_some_and(|own| Some(own) == parts(&other.inode))
    }

    /// None where it is gone.
    pub fn inode(&self) -> io::Result<Option<InodeItem>> {
        if self.inode.is_empty() {
            return Ok(None);
        }
        inode_item(&self.inode).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Its names.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        for (key, item) in self.each(&[INODE_REF, INODE_EXTREF]) {
            links.extend(names(key, item).ok_or(io::ErrorKind::InvalidData)?);
        }
        Ok(links)
    }

    /// What a directory holds.
    pub fn entries(&self) -> io::Result<Vec<DirectoryItem>> {
        let entries = self.each(&[DIR_INDEX]).map(|(_, item)| directory_item(item));
        Ok(entries.collect::<Option<_>>().ok_or(io::ErrorKind::InvalidData)?)
    }

    /// Where a file of `size` bytes has data, as `btrfs::layout` tells it.
    pub fn layout(&self, size: u64, since: u64) -> io::Result<Layout> {
        let mut extents = Extents::default();
        self.each(&[EXTENT_DATA]).try_for_each(|(key, item)| extents.add(key.offset, item, since))?;
        Ok(extents.layout(size))
    }

    /// The names of the subvolumes in a directory.
    pub fn subvolumes(&self) -> io::Result<Vec<Box<[u8]>>> {
        let is_one = |item: &&[u8]| item.get(8).is_none_or(|kind| u32::from(*kind) != INODE_ITEM);
        let found = self.each(&[DIR_INDEX]).map(|(_, item)| item).filter(is_one);
        let names = found.map(|item| directory_item(item).map(|entry| entry.name));
        Ok(names.collect::<Option<_>>().ok_or(io::ErrorKind::InvalidData)?)
    }

    /// What `details_of` tells of the inode; None if that may differ from what the items say. Attributes of
    /// users are told as they are. What others mean hangs on mount options, security modules and namespaces.
    pub fn details(&self) -> Option<Details> {
        let inode = inode_item(&self.inode)?;
        let mut xattrs = Vec::new();
        for (_, item) in self.each(&[XATTR]) {
            xattrs.extend(attributes_in(item)?);
        }
        if xattrs.iter().any(|xattr| !xattr.name.starts_with(b"user.")) {
            return None;
        }
        xattrs.sort();
        let has_flags = matches!(inode.kind, Some(Kind::File | Kind::Directory));
        let target = match inode.kind {
            Some(Kind::Symlink) => {
                let (_, extent) = self.each(&[EXTENT_DATA]).next()?;
                Some(inline_data(extent).filter(|data| data.len() as u64 == inode.attributes.size)?.into())
            }
            _ => None,
        };
        Some(Details {
            flags: if has_flags { inode.flags } else { 0 },
            xattrs,
            symlink_target: target,
            ..Details::default()
        })
    }
}

/// The attributes in an `XATTR` item: several where their names have the same hash.
fn attributes_in(item: &[u8]) -> Option<Vec<Xattr>> {
    let (mut at, mut found) = (0, Vec::new());
    while at < item.len() {
        let (value, name) = (usize::from(u16_at(item, at + 25)?), usize::from(u16_at(item, at + 27)?));
        let from = at + 30;
        at = from + name + value;
        let (name, value) = (item.get(from..from + name)?, item.get(from + name..at)?);
        found.push(Xattr { name: name.into(), value: value.into() });
    }
    Some(found)
}

/// The bytes in an extent item, if they are there as they are: neither compressed nor encoded otherwise.
fn inline_data(item: &[u8]) -> Option<&[u8]> {
    let encodings = item.get(16..20)?;
    (encodings == [0; 4] && *item.get(20)? == 0).then(|| item.get(21..)).flatten()
}
