//! Btrfs subvolumes. Structures and numbers are those of the kernel's `include/uapi/linux/btrfs.h`.

use crate::ioctl;
use crate::items::{DIR_ITEM, EXTENT_DATA, Extents, LAST_INODE, u32_at};
use rustix::fs::{Mode, OFlags, openat};
use snapsync_model::{Address, Layout, Owners};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

pub use crate::items::{DIR_INDEX, INODE_ITEM, InodeItems, Key, ROOT_INODE, inode_item, u16_at, u64_at};

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

const LARGEST_NODE: usize = 64 << 10;
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
        let (mut from, mut count) = (Some(first), 0);
        while let Some(first) = from.filter(|first| *first <= last) {
            let found = self.some(&fd, (first, last), since, visit)?;
            count += found.0;
            from = found.1.and_then(Key::next);
        }
        Ok(count)
    }

    /// The items of some types of one inode, and their number.
    pub fn items(
        &mut self,
        fd: impl AsFd,
        number: u64,
        kinds: std::ops::RangeInclusive<u32>,
    ) -> io::Result<(InodeItems, u64)> {
        let mut items = InodeItems::of(number);
        let count = self.each(fd, Key::of(number, kinds), 0, &mut |key, item| {
            items.add(key, item);
            Ok(())
        })?;
        Ok((items, count))
    }

    /// Does what `each` does for as many items as fit into the buffer. Returns their number, and the last key
    /// if there may be more.
    fn some(
        &mut self,
        fd: impl AsFd,
        (first, last): (Key, Key),
        since: u64,
        visit: &mut dyn FnMut(Key, &[u8]) -> io::Result<()>,
    ) -> io::Result<(u64, Option<Key>)> {
        let request = &mut *self.0;
        (request.min_objectid, request.min_type, request.min_offset) =
            (first.objectid, first.kind, first.offset);
        (request.max_objectid, request.max_type, request.max_offset) =
            (last.objectid, last.kind, last.offset);
        (request.min_transid, request.nr_items) = (since, u32::MAX);
        request.buf_size = SEARCH_ROOM as u64;
        // SAFETY: TREE_SEARCH_V2 reads the key, and writes it back and at most `buf_size` bytes behind it,
        // which is the size of `buf`. All of them are plain bytes.
        unsafe { ioctl::call(&fd, TREE_SEARCH_V2, request) }?;
        let (mut at, mut latest) = (0, None);
        for _ in 0..request.nr_items {
            let (key, content) = item_at(&request.buf, &mut at).ok_or(io::ErrorKind::InvalidData)?;
            visit(key, content)?;
            latest = Some(key);
        }
        // The kernel stops where the next item has no room, and none is larger than a node.
        let may_be_more = SEARCH_ROOM - at < LARGEST_NODE + ITEM_HEADER;
        Ok((u64::from(request.nr_items), latest.filter(|_| may_be_more)))
    }
}

/// Reads the items of inodes, one inode after the other. Needs CAP_SYS_ADMIN.
pub struct ItemReader<F> {
    fd: F,
    search: Search,
    /// What is still to be read.
    from: Option<Key>,
    last: Key,
    /// The items of the inode that is being read.
    open: Option<InodeItems>,
    ready: VecDeque<InodeItems>,
    visited: u64,
}

impl<F: AsFd> ItemReader<F> {
    pub fn new(fd: F) -> ItemReader<F> {
        let last = Key { objectid: LAST_INODE, kind: 255, offset: u64::MAX };
        let (search, ready) = (Search::default(), VecDeque::new());
        ItemReader { fd, search, from: None, last, open: None, ready, visited: 0 }
    }

    /// Goes on with the items between two keys.
    pub fn go_to(&mut self, (first, last): (Key, Key)) {
        (self.from, self.last, self.open) = (Some(first), last, None);
        self.ready.clear();
    }

    /// The number of items that were read.
    pub fn visited(&self) -> u64 {
        self.visited
    }

    fn read(&mut self, first: Key) -> io::Result<()> {
        let (open, ready) = (&mut self.open, &mut self.ready);
        let found = self.search.some(&self.fd, (first, self.last), 0, &mut |key, item| {
            if open.as_ref().is_none_or(|open| open.number != key.objectid) {
                ready.extend(open.replace(InodeItems::of(key.objectid)));
            }
            if let Some(open) = open {
                open.add(key, item);
            }
            Ok(())
        })?;
        self.visited += found.0;
        self.from = match found.1 {
            // Every entry of a directory is there twice, and the second time by index.
            Some(key) if key.kind == DIR_ITEM => Some(Key { kind: DIR_INDEX, offset: 0, ..key }),
            key => key.and_then(Key::next).filter(|next| *next <= self.last),
        };
        if self.from.is_none() {
            self.ready.extend(self.open.take());
        }
        Ok(())
    }
}

impl<F: AsFd> Iterator for ItemReader<F> {
    type Item = io::Result<InodeItems>;

    fn next(&mut self) -> Option<io::Result<InodeItems>> {
        while self.ready.is_empty() {
            if let Err(error) = self.read(self.from?) {
                self.from = None;
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
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

/// The data, holes and preallocation of a file of `size` bytes, from the extent items of its subvolume's tree
/// (`struct btrfs_file_extent_item`), which tell pieces of a compressed extent apart, unlike FIEMAP. Extents
/// written up to transaction `since` count as shared, because an older snapshot may hold them. Only for
/// read-only subvolumes, because the tree lacks data that is still in memory. Needs CAP_SYS_ADMIN.
pub fn layout(fd: impl AsFd, ino: u64, size: u64, since: u64) -> io::Result<Layout> {
    let mut extents = Extents::default();
    let mut visit = |key: Key, item: &[u8]| extents.add(key.offset, item, since);
    let keys = Key::of(ino, EXTENT_DATA..=EXTENT_DATA);
    SEARCH.with_borrow_mut(|search| search.each(fd, keys, 0, &mut visit))?;
    Ok(extents.layout(size))
}

thread_local! {
    /// The buffer is reused, not allocated for each file.
    static SEARCH: std::cell::RefCell<Search> = std::cell::RefCell::default();
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
