//! Btrfs subvolumes. Structures and numbers are those of the kernel's `include/uapi/linux/btrfs.h`.
//! It is longer than other files because each call stands beside its structure, whose size is asserted
//! there.

use crate::ioctl;
use rustix::fs::{Mode, OFlags, openat};
use snapsync_model::{Address, Attributes, Kind, Layout, Link, Owners, Placed, Range, Rare, ns_of};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

const SNAP_CREATE_V2: u64 = 0x5000_9417;
const SUBVOL_CREATE_V2: u64 = 0x5000_9418;
const SNAP_DESTROY: u64 = 0x5000_940f;
const SUBVOL_GETFLAGS: u64 = 0x8008_9419;
const SUBVOL_SETFLAGS: u64 = 0x4008_941a;
const GET_SUBVOL_INFO: u64 = 0x81f8_943c;
const SET_RECEIVED_SUBVOL: u64 = 0xc0c8_9425;
const FS_INFO: u64 = 0x8400_941f;
const TREE_SEARCH_V2: u64 = 0xc070_9411;
const LOGICAL_INO_V2: u64 = 0xc038_943b;
const IGNORE_OFFSET: u64 = 1;
const RDONLY: u64 = 2;
/// The inode number of the root directory of every subvolume.
pub const ROOT_INODE: u64 = 256;
/// The file system itself uses the numbers above this.
const LAST_INODE: u64 = u64::MAX - 255;

pub const INODE_ITEM: u32 = 1;
pub const INODE_REF: u32 = 12;
pub const INODE_EXTREF: u32 = 13;
pub const DIR_INDEX: u32 = 96;
const EXTENT_DATA: u32 = 108;

#[repr(C)]
struct VolumeV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

#[repr(C)]
struct Volume {
    fd: i64,
    name: [u8; 4088],
}

/// Whether `fd` is the root of a subvolume.
pub fn is_subvolume(fd: impl AsFd) -> io::Result<bool> {
    if crate::fs::filesystem(&fd)?.magic != crate::fs::FileSystem::BTRFS {
        return Ok(false);
    }
    let stat = rustix::fs::fstat(fd)?;
    Ok(stat.st_ino == ROOT_INODE)
}

/// Creates a subvolume that only this user can enter.
pub fn create_subvolume(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let (mut request, dir) = (volume_v2(0, 0, name)?, dir.as_fd());
    crate::private::with_no_rights_for_others(|| {
        // SAFETY: SUBVOL_CREATE_V2 reads a struct btrfs_ioctl_vol_args_v2 of 4,096 bytes.
        unsafe { ioctl::call(dir, SUBVOL_CREATE_V2, &mut request) }?;
        Ok(())
    })
}

/// Makes the read-only snapshot `dir/name` of the subvolume `of`. It is on the disk when this returns.
pub fn create_snapshot(of: impl AsFd, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    snapshot_with(RDONLY, of, dir, name)
}

/// The same, but makes a writable snapshot.
pub fn create_writable_snapshot(of: impl AsFd, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    snapshot_with(0, of, dir, name)
}

fn snapshot_with(flags: u64, of: impl AsFd, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut request = volume_v2(i64::from(of.as_fd().as_raw_fd()), flags, name)?;
    // SAFETY: SNAP_CREATE_V2 reads a struct btrfs_ioctl_vol_args_v2 of 4,096 bytes.
    unsafe { ioctl::call(dir, SNAP_CREATE_V2, &mut request) }?;
    Ok(())
}

/// Deletes the subvolume `dir/name`. Without the privilege for that, it empties the subvolume and removes it
/// as a directory.
pub fn delete_subvolume(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut request = Volume { fd: 0, name: [0; 4088] };
    put_name(&mut request.name, name)?;
    // SAFETY: SNAP_DESTROY reads a struct btrfs_ioctl_vol_args of 4,096 bytes.
    match unsafe { ioctl::call(&dir, SNAP_DESTROY, &mut request) } {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let subvolume = openat(&dir, name, flags, Mode::empty())?;
            set_read_only(&subvolume, false)?;
            drop(subvolume);
            crate::files::remove_tree(dir, name)
        }
        other => other.map(|_| ()),
    }
}

pub fn set_read_only(subvolume: impl AsFd, read_only: bool) -> io::Result<()> {
    let mut flags: u64 = 0;
    // SAFETY: SUBVOL_GETFLAGS writes a u64.
    unsafe { ioctl::call(&subvolume, SUBVOL_GETFLAGS, &mut flags) }?;
    flags = if read_only { flags | RDONLY } else { flags & !RDONLY };
    // SAFETY: SUBVOL_SETFLAGS reads a u64.
    unsafe { ioctl::call(&subvolume, SUBVOL_SETFLAGS, &mut flags) }?;
    Ok(())
}

/// The identity of a subvolume and the time of its last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subvolume {
    /// The tree that holds it.
    pub tree: u64,
    pub uuid: [u8; 16],
    /// The subvolume it was made from; zeros for none.
    pub parent_uuid: [u8; 16],
    pub read_only: bool,
    /// The transaction of the last change.
    pub changed: u64,
    pub created: u64,
    /// When it was created, in ns since 1970.
    pub created_at: i64,
    /// The mark of a subvolume that was received.
    pub received: Option<ReceivedIdentity>,
}

/// The mark of a subvolume that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedIdentity {
    /// The subvolume that was sent, and the transaction of its last change on the sender.
    pub uuid: [u8; 16],
    pub sent: u64,
    /// The transaction in which it was marked, and the time of that in ns since 1970.
    pub transid: u64,
    pub at: i64,
}

#[repr(C)]
struct SubvolumeInfo {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    ctransid: u64,
    otransid: u64,
    stransid: u64,
    rtransid: u64,
    times: [u64; 8],
    reserved: [u64; 8],
}

pub fn subvolume(fd: impl AsFd) -> io::Result<Subvolume> {
    // SAFETY: the structure is plain integers, for which zeros are a value.
    let mut info: SubvolumeInfo = unsafe { std::mem::zeroed() };
    // SAFETY: GET_SUBVOL_INFO writes a struct btrfs_ioctl_get_subvol_info_args of 504 bytes.
    unsafe { ioctl::call(fd, GET_SUBVOL_INFO, &mut info) }?;
    // struct btrfs_ioctl_timespec is a u64 and a padded u32. There are four: of the change, creation, sending
    // and receiving.
    let time = |at: usize| {
        let seconds = (info.times[2 * at] as i64).saturating_mul(1_000_000_000);
        seconds.saturating_add((info.times[2 * at + 1] & 0xffff_ffff) as i64)
    };
    let received = ReceivedIdentity {
        uuid: info.received_uuid,
        sent: info.stransid,
        transid: info.rtransid,
        at: time(3),
    };
    Ok(Subvolume {
        tree: info.treeid,
        uuid: info.uuid,
        parent_uuid: info.parent_uuid,
        read_only: info.flags & 1 != 0,
        changed: info.ctransid,
        created: info.otransid,
        created_at: time(1),
        received: (info.received_uuid != [0; 16]).then_some(received),
    })
}

/// `struct btrfs_ioctl_received_subvol_args`.
#[repr(C)]
struct ReceivedRequest {
    uuid: [u8; 16],
    stransid: u64,
    rtransid: u64,
    stime: [u64; 2],
    rtime: [u64; 2],
    flags: u64,
    reserved: [u64; 16],
}

/// Marks the writable subvolume whose root is `fd` as received, so that `btrfs send` and `btrfs receive` know
/// it by `uuid`. Any later change counts as made after that, even the writing of data from memory, so sync
/// first.
pub fn set_received(fd: impl AsFd, uuid: [u8; 16], stransid: u64) -> io::Result<()> {
    let mut request = ReceivedRequest {
        uuid,
        stransid,
        rtransid: 0,
        stime: [0; 2],
        rtime: [0; 2],
        flags: 0,
        reserved: [0; 16],
    };
    // SAFETY: SET_RECEIVED_SUBVOL reads and writes a struct btrfs_ioctl_received_subvol_args of 200 bytes.
    unsafe { ioctl::call(fd, SET_RECEIVED_SUBVOL, &mut request) }?;
    Ok(())
}

/// Whether anything in the read-only subvolume whose root is `fd` changed after a transaction at a given
/// time. A later last transaction alone does not prove it: writing out data from memory and deduplication
/// also change the tree. Needs CAP_SYS_ADMIN if the last transaction is later.
pub fn is_changed_since(fd: impl AsFd, subvolume: &Subvolume, transid: u64, at: i64) -> io::Result<bool> {
    if subvolume.changed <= transid {
        return Ok(false);
    }
    let mut is_changed = false;
    let mut visit = |key: Key, item: &[u8]| {
        if key.kind == INODE_ITEM {
            let inode = inode_item(item).ok_or(io::ErrorKind::InvalidData)?;
            is_changed |= inode.ctime > at;
        }
        Ok(())
    };
    SEARCH.with_borrow_mut(|search| search.each(fd, Key::all(), transid, &mut visit))?;
    Ok(is_changed)
}

#[repr(C)]
struct FsInfo {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    rest: [u64; 124],
}

/// The id of the file system that `fd` is on; all its subvolumes have the same.
pub fn filesystem_id(fd: impl AsFd) -> io::Result<u128> {
    let mut info = FsInfo { max_id: 0, num_devices: 0, fsid: [0; 16], rest: [0; 124] };
    // SAFETY: FS_INFO writes a struct btrfs_ioctl_fs_info_args of 1,024 bytes.
    unsafe { ioctl::call(fd, FS_INFO, &mut info) }?;
    Ok(u128::from_ne_bytes(info.fsid))
}

/// Whether the subvolume whose root is `fd` is read-only.
pub fn is_read_only(fd: impl AsFd) -> io::Result<bool> {
    let mut flags: u64 = 0;
    // SAFETY: SUBVOL_GETFLAGS writes a u64.
    unsafe { ioctl::call(&fd, SUBVOL_GETFLAGS, &mut flags) }?;
    Ok(flags & RDONLY != 0)
}

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

    /// The bounds of all items of every inode.
    pub fn all() -> (Key, Key) {
        let first = Key { objectid: ROOT_INODE, kind: 0, offset: 0 };
        (first, Key { objectid: LAST_INODE, kind: 255, offset: u64::MAX })
    }

    fn next(self) -> Option<Key> {
        if let Some(offset) = self.offset.checked_add(1) {
            return Some(Key { offset, ..self });
        }
        if self.kind < 255 {
            return Some(Key { kind: self.kind + 1, offset: 0, ..self });
        }
        Some(Key { objectid: self.objectid.checked_add(1)?, kind: 0, offset: 0 })
    }
}

/// `struct btrfs_ioctl_search_args_v2` and the buffer for its results.
#[repr(C)]
struct SearchRequest {
    tree: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    nr_items: u32,
    unused: u32,
    unused_more: [u64; 4],
    buf_size: u64,
    buf: [u8; SEARCH_ROOM],
}

/// Larger than the largest node.
const SEARCH_ROOM: usize = 80 << 10;
const ITEM_HEADER: usize = 32;

/// Searches in the tree of the subvolume that a file is in. Needs CAP_SYS_ADMIN.
pub struct Search(Box<SearchRequest>);

/// The trees that list all trees and all UUIDs.
pub(crate) const ROOT_TREE: u64 = 1;
pub(crate) const UUID_TREE: u64 = 9;

impl Default for Search {
    fn default() -> Self {
        Search(Box::new(SearchRequest {
            tree: 0,
            min_objectid: 0,
            max_objectid: 0,
            min_offset: 0,
            max_offset: 0,
            min_transid: 0,
            max_transid: u64::MAX,
            min_type: 0,
            max_type: 0,
            nr_items: 0,
            unused: 0,
            unused_more: [0; 4],
            buf_size: SEARCH_ROOM as u64,
            buf: [0; SEARCH_ROOM],
        }))
    }
}

/// Whether this process may search trees; found out by trying.
pub fn may_search(fd: impl AsFd) -> bool {
    Search::default().each(fd, Key::of(ROOT_INODE, 0..=0), 0, &mut |_, _| Ok(())).is_ok()
}

impl Search {
    /// Searches another tree of the file system.
    pub(crate) fn of_tree(tree: u64) -> Search {
        let mut search = Search::default();
        search.0.tree = tree;
        search
    }

    /// Calls `visit` with the key and content of each item between two keys, both included, that lies in a
    /// node written in transaction `since` or later. Returns their number.
    pub fn each(
        &mut self,
        fd: impl AsFd,
        (first, last): (Key, Key),
        since: u64,
        visit: &mut dyn FnMut(Key, &[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let (mut from, mut count) = (first, 0);
        loop {
            let request = &mut *self.0;
            (request.min_objectid, request.min_type, request.min_offset) =
                (from.objectid, from.kind, from.offset);
            (request.max_objectid, request.max_type, request.max_offset) =
                (last.objectid, last.kind, last.offset);
            (request.min_transid, request.nr_items) = (since, u32::MAX);
            request.buf_size = SEARCH_ROOM as u64;
            // SAFETY: TREE_SEARCH_V2 reads the key, and writes it back and at most `buf_size` bytes behind
            // it, which is the size of `buf`. All of them are plain bytes.
            unsafe { ioctl::call(&fd, TREE_SEARCH_V2, request) }?;
            if request.nr_items == 0 {
                return Ok(count);
            }
            count += u64::from(request.nr_items);
            let mut at = 0;
            for _ in 0..request.nr_items {
                let (key, content) = item_at(&request.buf, &mut at).ok_or(io::ErrorKind::InvalidData)?;
                visit(key, content)?;
                from = key;
            }
            match from.next() {
                Some(next) if next <= last => from = next,
                _ => return Ok(count),
            }
        }
    }
}

/// `struct btrfs_ioctl_search_header`, then the item.
fn item_at<'a>(buffer: &'a [u8], at: &mut usize) -> Option<(Key, &'a [u8])> {
    let header = buffer.get(*at..*at + ITEM_HEADER)?;
    let key = Key { objectid: u64_at(header, 8)?, kind: u32_at(header, 24)?, offset: u64_at(header, 16)? };
    let length = u32_at(header, 28)? as usize;
    let content = buffer.get(*at + ITEM_HEADER..*at + ITEM_HEADER + length)?;
    *at += ITEM_HEADER + length;
    Some((key, content))
}

/// A little-endian number in an item; None beyond the end of the item.
pub fn u64_at(item: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(item.get(at..at + 8)?.try_into().ok()?))
}

pub fn u32_at(item: &[u8], at: usize) -> Option<u32> {
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
}

/// None if the item is too short.
pub fn inode_item(item: &[u8]) -> Option<InodeItem> {
    const IMMUTABLE: u64 = 1 << 6;
    const APPEND: u64 = 1 << 7;
    const NODUMP: u64 = 1 << 8;
    let time = |at| Some(ns_of(u64_at(item, at)? as i64, u32_at(item, at + 8)?));
    let (mode, rdev, flags) = (u32_at(item, 52)?, u64_at(item, 56)?, u64_at(item, 64)?);
    let kind = Kind::from_mode(mode);
    let is_device = matches!(kind, Some(Kind::CharDevice | Kind::BlockDevice));
    let flag = |bit: u64, name: u32| if flags & bit != 0 { name } else { 0 };
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
            flags: flag(IMMUTABLE, crate::flags::IMMUTABLE)
                | flag(APPEND, crate::flags::APPEND)
                | flag(NODUMP, crate::flags::NODUMP),
            rare: Rare::default(),
        },
        ctime: time(124)?.0,
        blocks: u64_at(item, 24)?.div_ceil(4096) * 8,
    })
}

/// The names in an `INODE_REF` or `INODE_EXTREF` item.
pub fn names(key: Key, item: &[u8]) -> Option<Vec<Link>> {
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

pub fn directory_item(item: &[u8]) -> Option<DirectoryItem> {
    let length = usize::from(u16_at(item, 27)?);
    let is_inode = u32::from(*item.get(8)?) == INODE_ITEM;
    let inode = if is_inode { Some(u64_at(item, 0)?) } else { None };
    Some(DirectoryItem { name: item.get(30..30 + length)?.into(), inode })
}

/// The data, holes and preallocation of a file of `size` bytes, from the extent items of its subvolume's tree
/// (`struct btrfs_file_extent_item`), which tell pieces of a compressed extent apart, unlike FIEMAP. Extents
/// written up to transaction `since` count as shared, because an older snapshot may hold them. Only for
/// read-only subvolumes, because the tree lacks data that is still in memory. Needs CAP_SYS_ADMIN.
pub fn layout(fd: impl AsFd, ino: u64, size: u64, since: u64) -> io::Result<Layout> {
    let (mut data, mut unwritten) = (Vec::new(), Vec::new());
    let mut visit = |key: Key, item: &[u8]| {
        match file_extent(key.offset, item, since).ok_or(io::ErrorKind::InvalidData)? {
            FileExtent::Data(placed) => data.push(placed),
            FileExtent::Unwritten(range) => unwritten.push(range),
            FileExtent::Hole => {}
        }
        Ok(())
    };
    let keys = Key::of(ino, EXTENT_DATA..=EXTENT_DATA);
    SEARCH.with_borrow_mut(|search| search.each(fd, keys, 0, &mut visit))?;
    Ok(Layout::new(size, &data, &unwritten))
}

thread_local! {
    /// The buffer is reused, not allocated for each file.
    static SEARCH: std::cell::RefCell<Search> = std::cell::RefCell::default();
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

#[repr(C)]
struct LogicalIno {
    logical: u64,
    size: u64,
    reserved: [u64; 3],
    flags: u64,
    inodes: u64,
}

/// The files whose data is at `address` in the subvolume with the tree `tree`. Needs CAP_SYS_ADMIN.
pub fn owners(fd: impl AsFd, address: Address, tree: u64) -> io::Result<Owners> {
    let logical = if address.extent == 0 { address.offset } else { address.extent & !0xff };
    let pieces = references(&fd, logical, IGNORE_OFFSET, tree)?.len() as u64;
    let mut inos: Vec<u64> = references(&fd, logical, 0, tree)?;
    inos.sort_unstable();
    inos.dedup();
    Ok(Owners { inos, pieces })
}

/// The inode number for each reference to the extent at `logical` from the tree `tree`: for references to
/// this very block, or with `IGNORE_OFFSET` for all.
fn references(fd: impl AsFd, logical: u64, flags: u64, tree: u64) -> io::Result<Vec<u64>> {
    let mut room = 8 << 10;
    loop {
        // struct btrfs_data_container: four u32, then three u64 for each inode.
        let mut found = vec![0_u64; room];
        let mut request = LogicalIno {
            logical,
            size: (room * 8) as u64,
            reserved: [0; 3],
            flags,
            inodes: found.as_mut_ptr() as u64,
        };
        // SAFETY: LOGICAL_INO_V2 reads a struct btrfs_ioctl_logical_ino_args of 56 bytes and writes at most
        // `size` bytes to `inodes`, which has that many.
        match unsafe { ioctl::call(&fd, LOGICAL_INO_V2, &mut request) } {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            other => other?,
        };
        let (values, missed) = (found[1] & 0xffff_ffff, found[1] >> 32);
        if missed > 0 && room < 2 << 20 {
            room *= 16;
            continue;
        }
        let triples = found[2..].chunks_exact(3).take(values as usize / 3);
        return Ok(triples.filter(|t| t[2] == tree).map(|t| t[0]).collect());
    }
}

fn volume_v2(fd: i64, flags: u64, name: &OsStr) -> io::Result<VolumeV2> {
    let mut request = VolumeV2 { fd, transid: 0, flags, unused: [0; 4], name: [0; 4040] };
    put_name(&mut request.name, name)?;
    Ok(request)
}

fn put_name(field: &mut [u8], name: &OsStr) -> io::Result<()> {
    let name = name.as_bytes();
    if name.is_empty() || name.len() > 255 {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    field[..name.len()].copy_from_slice(name);
    Ok(())
}

const _: () = assert!(size_of::<VolumeV2>() == 4096);
const _: () = assert!(size_of::<Volume>() == 4096);
const _: () = assert!(size_of::<SubvolumeInfo>() == 504);
const _: () = assert!(size_of::<ReceivedRequest>() == 200);
const _: () = assert!(size_of::<FsInfo>() == 1024);
const _: () = assert!(size_of::<SearchRequest>() == 112 + SEARCH_ROOM);
const _: () = assert!(size_of::<LogicalIno>() == 56);
