//! Answers the kernel's requests for a file system that never changes.

use crate::index::Index;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use rustix::fs::{SeekFrom, seek};
use snapsync_model::{Content, Details, Error, Inode, Kind, Side, locked, read_still};
use snapsync_sys::{acl, next_data_in};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// The kernel may cache answers for as long as the file system is mounted.
const FOREVER: Duration = Duration::from_secs(1 << 30);
const BLOCK: u32 = 4096;
/// How many files stay open that are read in pieces.
const OPEN: usize = 64;

pub(crate) struct Served {
    side: Box<dyn Side>,
    index: Index,
    /// The files that were read last and not to their end, by number; the latest is first.
    open: Mutex<VecDeque<(u64, Arc<Content>)>>,
    /// Whether the kernel checks access lists too.
    has_lists: bool,
}

impl Served {
    pub(crate) fn new(side: Box<dyn Side>, index: Index) -> Served {
        Served { side, index, open: Mutex::default(), has_lists: false }
    }

    fn inode(&self, ino: INodeNo) -> Result<&Inode, Errno> {
        self.index.get(ours(ino)).ok_or(Errno::ESTALE)
    }

    fn details(&self, ino: INodeNo) -> Result<Details, Errno> {
        self.side.details(self.inode(ino)?).map_err(unreadable)
    }

    /// What `read` makes of a file, wherever its bytes are by now. It stays open unless this is the last
    /// piece of it.
    fn look<T>(
        &self,
        inode: &Inode,
        is_last: bool,
        read: impl Fn(&Content) -> io::Result<T>,
    ) -> Result<T, Errno> {
        let mut file = match self.opened(inode.ino) {
            Some(file) => file,
            None => Arc::new(self.side.open(inode).map_err(unreadable)?),
        };
        let found = read_still(&*self.side, inode, &mut file, |file| Ok(read(file)));
        if !is_last {
            let mut open = locked(&self.open);
            open.push_front((inode.ino, file));
            open.truncate(OPEN);
        }
        Ok(found.map_err(unreadable)??)
    }

    fn opened(&self, ino: u64) -> Option<Arc<Content>> {
        let mut open = locked(&self.open);
        let at = open.iter().position(|(held, _)| *held == ino)?;
        open.remove(at).map(|(_, file)| file)
    }

    fn attributes(&self, inode: &Inode) -> FileAttr {
        let told = inode.attributes;
        FileAttr {
            ino: theirs(inode.ino),
            size: told.size,
            blocks: inode.blocks,
            atime: time(told.time()),
            mtime: time(told.time()),
            ctime: time(inode.ctime.into()),
            crtime: SystemTime::UNIX_EPOCH,
            kind: kind(inode.kind),
            perm: self.mode(inode) as u16,
            nlink: self.index.nlink(inode),
            uid: told.uid,
            gid: told.gid,
            rdev: told.rdev as u32,
            blksize: BLOCK,
            flags: 0,
        }
    }

    /// The mode to report. If the kernel does not check access lists, the mode gives nobody more rights than
    /// the list does.
    fn mode(&self, inode: &Inode) -> u32 {
        let mode = inode.attributes.mode;
        if self.has_lists || inode.kind == Kind::Symlink {
            return mode;
        }
        match self.side.details(inode) {
            Ok(details) => acl::access_list(&details.xattrs).map_or(mode, |list| acl::without(list, mode)),
            Err(_) => mode & 0o700,
        }
    }

    /// The entries of a directory, first itself and its parent, each with the place of the next one.
    fn entries_from(&self, dir: u64, offset: u64) -> impl Iterator<Item = (u64, &Inode, &OsStr)> {
        let dots = [(dir, &b"."[..]), (self.index.parent(dir), &b".."[..])];
        let held = self.index.entries(dir).iter().map(|entry| (entry.ino, &*entry.name));
        let entries = (1..).zip(dots.into_iter().chain(held)).skip(offset as usize);
        entries.filter_map(|(next, (ino, name))| Some((next, self.index.get(ino)?, OsStr::from_bytes(name))))
    }

    fn seek(&self, ino: INodeNo, offset: i64, whence: i32) -> Result<i64, Errno> {
        let at = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        if !matches!(whence, 3 | 4) {
            return Err(Errno::EINVAL);
        }
        let found = self.look(self.inode(ino)?, false, |content| sought(content, at, whence == 3))?;
        Ok(found as i64)
    }

    /// The attribute names with a zero byte after each. Names that only root may read are shown only to root.
    fn xattr_names(&self, ino: INodeNo, asks: &Request) -> Result<Vec<u8>, Errno> {
        let mut names = Vec::new();
        for xattr in self.details(ino)?.xattrs {
            if asks.uid() == 0 || !xattr.name.starts_with(b"trusted.") {
                names.extend_from_slice(&xattr.name);
                names.push(0);
            }
        }
        Ok(names)
    }

    fn xattr(&self, ino: INodeNo, name: &OsStr) -> Result<Vec<u8>, Errno> {
        let found = self.details(ino)?.xattrs.into_iter().find(|xattr| *xattr.name == *name.as_bytes());
        Ok(found.ok_or(Errno::ENODATA)?.value.into_vec())
    }
}

impl Filesystem for Served {
    fn init(&mut self, _asks: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.has_lists = config.add_capabilities(InitFlags::FUSE_POSIX_ACL).is_ok();
        // Attributes come with the names of a directory, where the reader asks for them.
        for wanted in [
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, _asks: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.index.child(ours(parent), name.as_bytes()) {
            Some(inode) => reply.entry(&FOREVER, &self.attributes(inode), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _asks: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.inode(ino) {
            Ok(inode) => reply.attr(&FOREVER, &self.attributes(inode)),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _asks: &Request, ino: INodeNo, reply: ReplyData) {
        match self.details(ino).and_then(|details| details.symlink_target.ok_or(Errno::EINVAL)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        }
    }

    /// The kernel learns to open files without a request, and keeps what it has read.
    fn open(&self, _asks: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _asks: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.inode(ino).and_then(|inode| {
            let is_last = offset + u64::from(size) >= inode.attributes.size;
            self.look(inode, is_last, |file| read_at(file, offset, size))
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    fn lseek(
        &self,
        _asks: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.seek(ino, offset, whence) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(e),
        }
    }

    fn opendir(&self, _asks: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _asks: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (at, inode, name) in self.entries_from(ours(ino), offset) {
            if reply.add(theirs(inode.ino), at, kind(inode.kind), name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _asks: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        for (at, inode, name) in self.entries_from(ours(ino), offset) {
            let told = self.attributes(inode);
            if reply.add(theirs(inode.ino), at, name, &FOREVER, &told, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _asks: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let blocks = self.index.blocks / u64::from(BLOCK / 512);
        reply.statfs(blocks, 0, 0, self.index.len() as u64, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _asks: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        sized(self.xattr(ino, name), size, reply);
    }

    fn listxattr(&self, asks: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        sized(self.xattr_names(ino, asks), size, reply);
    }
}

/// Replies with a value, or with its size if `size` is 0.
fn sized(told: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match told {
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(e) => reply.error(e),
    }
}

/// Reads all bytes that were asked for, or those before the end.
fn read_at(file: &Content, offset: u64, size: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size as usize];
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

/// The root has number 1 for the kernel and 0 here.
fn ours(ino: INodeNo) -> u64 {
    ino.0.wrapping_sub(1)
}

fn theirs(ino: u64) -> INodeNo {
    INodeNo(ino.wrapping_add(1))
}

/// The error for data missing from a snapshot, which is not the reader's mistake.
fn unreadable(_: Error) -> Errno {
    Errno::EIO
}

fn time(ns: i128) -> SystemTime {
    const SECOND: u128 = 1_000_000_000;
    let ns_apart = ns.unsigned_abs();
    let distance = Duration::new((ns_apart / SECOND) as u64, (ns_apart % SECOND) as u32);
    if ns < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

fn kind(kind: Kind) -> FileType {
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
