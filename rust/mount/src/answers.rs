//! What there is to answer: the attributes, names and bytes of what is mounted.

use crate::slots::{Loaded, Slot, Slots};
use fuser::{Errno, FileAttr, FileType, INodeNo};
use rustix::fs::{SeekFrom, seek};
use snapsync_model::{Content, Details, Error, Inode, Kind, Monitor, Result as Outcome, Xattr, read_still};
use snapsync_sys::{acl, next_data_in};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// The kernel may cache an answer for as long as the file system is mounted.
pub(crate) const FOREVER: Duration = Duration::from_secs(1 << 30);
pub(crate) const BLOCK: u32 = 4096;
/// The bits of an inode number that tell an inode of a snapshot, below those that tell the snapshot.
const RANK: u32 = 40;
/// The place of the link to the newest snapshot in the directory of all, after the directory and its parent.
pub(crate) const LATEST: u64 = 3;
/// After so long a snapshot that cannot be read is opened again: its volume may have another role by now.
const OLD: Duration = Duration::from_secs(60);

pub(crate) struct Answers {
    pub(crate) slots: Arc<Slots>,
    /// Whether the root has all snapshots in it, or is that of the only one.
    pub(crate) is_all: bool,
    /// Whether the kernel checks access lists too.
    pub(crate) has_lists: AtomicBool,
    /// Who has mounted it.
    owner: (u32, u32),
    began: SystemTime,
}

/// What a number of the kernel means.
pub(crate) enum Node {
    /// The directory of all snapshots.
    Top,
    /// The link to the newest one, which has the slot with this number.
    Latest(u64),
    Inode(At),
}

/// An inode of a snapshot.
pub(crate) struct At {
    pub(crate) slot: Arc<Slot>,
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) rank: usize,
}

impl At {
    pub(crate) fn inode(&self) -> Result<&Inode, Errno> {
        self.loaded.index.get(self.rank).ok_or(Errno::ESTALE)
    }

    pub(crate) fn number(&self, rank: usize) -> INodeNo {
        number_of(self.slot.number, rank)
    }
}

impl Answers {
    pub(crate) fn new(slots: Arc<Slots>, is_all: bool) -> Answers {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Answers { slots, is_all, has_lists: AtomicBool::new(false), owner, began: SystemTime::now() }
    }

    pub(crate) fn node(&self, ino: INodeNo) -> Result<Node, Errno> {
        match parts(ino) {
            (0, 0) if self.is_all => Ok(Node::Top),
            (0, number) if self.is_all => Ok(Node::Latest(number as u64)),
            (number, rank) => {
                let slot = self.slots.get(number).ok_or(Errno::ESTALE)?;
                self.at(slot, rank).map(Node::Inode)
            }
        }
    }

    /// The snapshot among others whose root this is: it need not be read.
    pub(crate) fn root_slot(&self, ino: INodeNo) -> Result<Option<Arc<Slot>>, Errno> {
        match parts(ino) {
            (number @ 1.., 0) if self.is_all => self.slots.get(number).ok_or(Errno::ESTALE).map(Some),
            _ => Ok(None),
        }
    }

    pub(crate) fn at(&self, slot: Arc<Slot>, rank: usize) -> Result<At, Errno> {
        let loaded = self.slots.loaded(&slot, &Monitor::default());
        let loaded = loaded.map_err(|_| self.failure(&slot))?;
        Ok(At { slot, loaded, rank })
    }

    /// An inode of a snapshot, not what is above them.
    pub(crate) fn inside(&self, ino: INodeNo) -> Result<At, Errno> {
        match self.node(ino)? {
            Node::Inode(at) => Ok(at),
            Node::Top => Err(Errno::EISDIR),
            Node::Latest(_) => Err(Errno::EINVAL),
        }
    }

    /// The error for what cannot be read, which is no mistake of the reader: the snapshot is gone, or its
    /// data.
    fn failure(&self, slot: &Slot) -> Errno {
        if self.slots.has(slot) { Errno::EIO } else { Errno::ESTALE }
    }

    pub(crate) fn details(&self, at: &At) -> Result<Details, Errno> {
        at.loaded.side.details(at.inode()?).map_err(|_| self.failure(&at.slot))
    }

    pub(crate) fn attributes(&self, at: &At, rank: usize) -> Result<FileAttr, Errno> {
        let inode = at.loaded.index.get(rank).ok_or(Errno::ESTALE)?;
        let is_root_of_many = self.is_all && rank == 0;
        let nlink = if is_root_of_many { 1 } else { at.loaded.index.nlink(rank) };
        let told = told(inode, at.number(rank), self.mode(at, inode), nlink);
        Ok(FileAttr { size: size_of(at, inode), ..told })
    }

    /// The mode to report. If the kernel does not check access lists, the mode gives nobody more rights than
    /// the list does.
    fn mode(&self, at: &At, inode: &Inode) -> u32 {
        let mode = inode.attributes.mode;
        if self.has_lists.load(Relaxed) || inode.kind == Kind::Symlink {
            return mode;
        }
        match at.loaded.side.details(inode) {
            Ok(details) => acl::access_list(&details.xattrs).map_or(mode, |list| acl::without(list, mode)),
            Err(_) => mode & 0o700,
        }
    }

    /// Of the root of a snapshot among others. To look at all of them takes no reading of what is in them,
    /// and so none is asked how many directories it has.
    pub(crate) fn root(&self, slot: &Arc<Slot>) -> Result<FileAttr, Errno> {
        if !self.has_lists.load(Relaxed) {
            let at = self.at(slot.clone(), 0)?;
            return self.attributes(&at, 0);
        }
        let root = self.slots.root(slot).map_err(|_| self.failure(slot))?;
        Ok(told(&root, number_of(slot.number, 0), root.attributes.mode, 1))
    }

    /// The same without a look: what is not known yet is asked for before it counts.
    pub(crate) fn root_as_known(&self, slot: &Arc<Slot>) -> (FileAttr, Duration) {
        match slot.known_root().filter(|_| self.has_lists.load(Relaxed)) {
            Some(root) => {
                let told = told(root, number_of(slot.number, 0), root.attributes.mode, 1);
                (told, self.slots.lasts())
            }
            None => {
                let own = self.own(number_of(slot.number, 0), FileType::Directory, 0o500);
                (own, Duration::ZERO)
            }
        }
    }

    pub(crate) fn top(&self) -> FileAttr {
        let nlink = 2 + self.slots.len() as u32;
        let told = FileAttr { nlink, ..self.own(INodeNo::ROOT, FileType::Directory, 0o555) };
        let newest = self.slots.latest().map(|(slot, _)| taken(&slot));
        FileAttr { mtime: newest.unwrap_or(self.began), ..told }
    }

    /// The link to a snapshot that is or was the newest, and its target. Another newest one makes it another
    /// link, which nobody has cached.
    pub(crate) fn link(&self, number: u64) -> Result<(FileAttr, String), Errno> {
        let (slot, name) =
            self.slots.latest().filter(|(slot, _)| slot.number == number).ok_or(Errno::ESTALE)?;
        let told = self.own(number_of(0, number as usize), FileType::Symlink, 0o777);
        Ok((FileAttr { size: name.len() as u64, mtime: taken(&slot), ..told }, name))
    }

    /// What is in no snapshot belongs to whoever has mounted it.
    fn own(&self, ino: INodeNo, kind: FileType, perm: u16) -> FileAttr {
        let (uid, gid) = self.owner;
        let began = self.began;
        FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: began,
            mtime: began,
            ctime: began,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    pub(crate) fn read(&self, at: &At, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let end = at.inode()?.attributes.size;
        let length = end.saturating_sub(offset).min(u64::from(size)) as usize;
        if length == 0 {
            return Ok(Vec::new());
        }
        self.look(at, offset + length as u64 >= end, |file| read_at(file, offset, length))
    }

    pub(crate) fn seek(&self, ino: INodeNo, offset: i64, whence: i32) -> Result<i64, Errno> {
        let at = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        if !matches!(whence, 3 | 4) {
            return Err(Errno::EINVAL);
        }
        let found = self.look(&self.inside(ino)?, false, |content| sought(content, at, whence == 3))?;
        Ok(found as i64)
    }

    /// What `read` makes of a file, wherever its bytes are by now. What is read of a snapshot while it is
    /// deleted does not count.
    fn look<T>(&self, at: &At, is_last: bool, read: impl Fn(&Content) -> io::Result<T>) -> Result<T, Errno> {
        let mut found = self.look_once(at, is_last, &read);
        if !matches!(found, Ok(Ok(_))) && at.loaded.since.elapsed() > OLD && self.slots.has(&at.slot) {
            self.slots.forget(&at.slot);
            found = self.look_once(&self.at(at.slot.clone(), at.rank)?, is_last, &read);
        }
        if !self.slots.has(&at.slot) {
            return Err(Errno::ESTALE);
        }
        Ok(found.map_err(|_| Errno::EIO)??)
    }

    /// The file stays open unless this is the last piece of it.
    fn look_once<T>(
        &self,
        at: &At,
        is_last: bool,
        read: &impl Fn(&Content) -> io::Result<T>,
    ) -> Outcome<io::Result<T>> {
        let inode = at.inode().map_err(|e| Error::failed(format!("no such inode: {e:?}"), ""))?;
        let side = &*at.loaded.side;
        let mut file = match self.slots.opened(&at.slot, at.rank) {
            Some(file) => file,
            None => Arc::new(side.open(inode)?),
        };
        let found = read_still(side, inode, &mut file, |file| Ok(read(file)))?;
        if !is_last {
            self.slots.keep_open(&at.slot, at.rank, file);
        }
        Ok(found)
    }

    /// The attribute names with a zero byte after each. Names that only root may read are shown only to root.
    pub(crate) fn xattr_names(&self, ino: INodeNo, is_root: bool) -> Result<Vec<u8>, Errno> {
        let mut names = Vec::new();
        for xattr in self.xattrs(ino)? {
            if is_root || !xattr.name.starts_with(b"trusted.") {
                names.extend_from_slice(&xattr.name);
                names.push(0);
            }
        }
        Ok(names)
    }

    /// Those of the root of a snapshot, which `ls -l` asks for, are no reason to read it either. Where the
    /// only snapshot has none at all the kernel learns not to ask: `cp -a` would, twice for each file.
    fn xattrs(&self, ino: INodeNo) -> Result<Vec<Xattr>, Errno> {
        if let Some(slot) = self.root_slot(ino)? {
            let root = self.slots.root(&slot).map_err(|_| self.failure(&slot))?;
            return Ok(root.details.map(|details| details.xattrs).unwrap_or_default());
        }
        match self.node(ino)? {
            Node::Inode(at) if !self.is_all && !at.loaded.index.has_xattrs => Err(Errno::ENOSYS),
            Node::Inode(at) => Ok(self.details(&at)?.xattrs),
            Node::Top | Node::Latest(_) => Ok(Vec::new()),
        }
    }

    pub(crate) fn xattr(&self, ino: INodeNo, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let found = self.xattrs(ino)?.into_iter().find(|xattr| *xattr.name == *name.as_bytes());
        Ok(found.ok_or(Errno::ENODATA)?.value.into_vec())
    }
}

/// A log does not say how long the target of a link is.
fn size_of(at: &At, inode: &Inode) -> u64 {
    let size = inode.attributes.size;
    if inode.kind != Kind::Symlink || size > 0 {
        return size;
    }
    let target = at.loaded.side.details(inode).ok().and_then(|details| details.symlink_target);
    target.map_or(0, |target| target.len() as u64)
}

fn told(inode: &Inode, ino: INodeNo, mode: u32, nlink: u32) -> FileAttr {
    let attributes = inode.attributes;
    FileAttr {
        ino,
        size: attributes.size,
        blocks: inode.blocks,
        atime: time(attributes.time()),
        mtime: time(attributes.time()),
        ctime: time(inode.ctime.into()),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(inode.kind),
        perm: mode as u16,
        nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev as u32,
        blksize: BLOCK,
        flags: 0,
    }
}

/// When a snapshot was taken, as far as it says.
fn taken(slot: &Slot) -> SystemTime {
    slot.info.created.parse::<jiff::Timestamp>().map_or(SystemTime::UNIX_EPOCH, SystemTime::from)
}

/// The slot and the rank. The kernel's numbers begin at 1.
fn parts(ino: INodeNo) -> (u64, usize) {
    let number = ino.0.wrapping_sub(1);
    (number >> RANK, (number & ((1 << RANK) - 1)) as usize)
}

pub(crate) fn number_of(slot: u64, rank: usize) -> INodeNo {
    INodeNo((slot << RANK) + rank as u64 + 1)
}

/// Reads all bytes that were asked for, or those before the end.
fn read_at(file: &Content, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// Where the next data or the next hole begins.
fn sought(content: &Content, at: u64, is_data: bool) -> io::Result<u64> {
    if let Some(file) = content.file() {
        return Ok(seek(file, if is_data { SeekFrom::Data(at) } else { SeekFrom::Hole(at) })?);
    }
    let size = content.size()?;
    let nothing = || io::Error::from(rustix::io::Errno::NXIO);
    if at >= size {
        return Err(nothing());
    }
    let (mut end, mut data) = (at, next_data_in(content, at, size)?);
    if is_data {
        return data.map(|data| data.offset).ok_or_else(nothing);
    }
    while let Some(found) = data.filter(|data| data.offset == end) {
        end = found.end();
        data = next_data_in(content, end, size)?;
    }
    Ok(end)
}

fn time(ns: i128) -> SystemTime {
    const SECOND: u128 = 1_000_000_000;
    let ns_apart = ns.unsigned_abs();
    let distance = Duration::new((ns_apart / SECOND) as u64, (ns_apart % SECOND) as u32);
    if ns < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

pub(crate) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}
