//! Answers the kernel's requests for a file system in which nothing changes but which snapshots there are.

use crate::ahead::{self, Ahead, Errands};
use crate::answers::{Answers, At, BLOCK, FOREVER, LATEST, Node, kind, number_of};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

pub(crate) struct Served {
    answers: Arc<Answers>,
    ahead: Ahead,
}

/// An entry of a directory, and what follows it.
struct Listed<'a> {
    ino: INodeNo,
    next: u64,
    kind: FileType,
    name: &'a OsStr,
    attributes: &'a dyn Fn() -> Result<(FileAttr, Duration), Errno>,
}

/// Takes an entry; false if there is no room for it.
type Add<'a> = dyn FnMut(Listed<'_>) -> bool + 'a;

impl Served {
    /// And what reads ahead of those who ask.
    pub(crate) fn new(answers: Answers) -> (Served, Errands) {
        let answers = Arc::new(answers);
        let (ahead, errands) = ahead::new(answers.clone());
        (Served { answers, ahead }, errands)
    }

    fn found(&self, parent: INodeNo, name: &OsStr) -> Result<(FileAttr, Duration), Errno> {
        let Answers { slots, .. } = &*self.answers;
        match self.answers.node(parent)? {
            Node::Inode(at) => {
                let rank = at.loaded.index.child(at.rank, name.as_bytes()).ok_or(Errno::ENOENT)?;
                Ok((self.answers.attributes(&at, rank)?, FOREVER))
            }
            Node::Latest(_) => Err(Errno::ENOTDIR),
            Node::Top => {
                slots.refresh();
                let name = name.to_str().ok_or(Errno::ENOENT)?;
                if name == "latest" {
                    let (slot, _) = slots.latest().ok_or(Errno::ENOENT)?;
                    return Ok((self.answers.link(slot.number)?.0, slots.lasts()));
                }
                let slot = slots.named(name).ok_or(Errno::ENOENT)?;
                let told = self.answers.root(&slot);
                // It may have gone since it was listed.
                Ok((told.map_err(|e| if slots.has(&slot) { e } else { Errno::ENOENT })?, slots.lasts()))
            }
        }
    }

    fn told(&self, ino: INodeNo) -> Result<(FileAttr, Duration), Errno> {
        let Answers { slots, .. } = &*self.answers;
        if let Some(slot) = self.answers.root_slot(ino)? {
            return Ok((self.answers.root(&slot)?, slots.lasts()));
        }
        match self.answers.node(ino)? {
            Node::Inode(at) => Ok((self.answers.attributes(&at, at.rank)?, FOREVER)),
            Node::Latest(number) => Ok((self.answers.link(number)?.0, slots.lasts())),
            Node::Top => {
                slots.refresh();
                Ok((self.answers.top(), slots.lasts()))
            }
        }
    }

    fn target(&self, ino: INodeNo) -> Result<Vec<u8>, Errno> {
        match self.answers.node(ino)? {
            Node::Inode(at) => Ok(self.answers.details(&at)?.symlink_target.ok_or(Errno::EINVAL)?.into_vec()),
            Node::Latest(number) => Ok(self.answers.link(number)?.1.into_bytes()),
            Node::Top => Err(Errno::EINVAL),
        }
    }

    /// Lists what follows the entry that said `offset` of what is next.
    fn list(&self, ino: INodeNo, offset: u64, add: &mut Add<'_>) -> Result<(), Errno> {
        match self.answers.node(ino)? {
            Node::Inode(at) => self.list_directory(&at, offset, add),
            Node::Latest(_) => Err(Errno::ENOTDIR),
            Node::Top => self.list_snapshots(offset, add),
        }
    }

    /// First itself and its parent.
    fn list_directory(&self, at: &At, offset: u64, add: &mut Add<'_>) -> Result<(), Errno> {
        let index = &at.loaded.index;
        let above = match index.parent(at.rank) {
            Some(rank) => at.number(rank),
            None => INodeNo::ROOT,
        };
        let own = || Ok((self.answers.attributes(at, at.rank)?, Duration::ZERO));
        if !add_dots(at.number(at.rank), above, offset, &own, add) {
            return Ok(());
        }
        let from = offset.saturating_sub(2) as usize;
        for (place, (rank, name)) in (from..).zip(index.entries(at.rank, from)) {
            let inode = index.get(rank).ok_or(Errno::ESTALE)?;
            let attributes = || Ok((self.answers.attributes(at, rank)?, FOREVER));
            let entry = Listed {
                ino: at.number(rank),
                next: place as u64 + 3,
                kind: kind(inode.kind),
                name: OsStr::from_bytes(name),
                attributes: &attributes,
            };
            if !add(entry) {
                break;
            }
        }
        Ok(())
    }

    /// A snapshot keeps its place however many come and go.
    fn list_snapshots(&self, offset: u64, add: &mut Add<'_>) -> Result<(), Errno> {
        let Answers { slots, .. } = &*self.answers;
        if offset == 0 {
            slots.refresh();
        }
        let own = || Ok((self.answers.top(), Duration::ZERO));
        if !add_dots(INodeNo::ROOT, INodeNo::ROOT, offset, &own, add) {
            return Ok(());
        }
        if let Some((slot, _)) = slots.latest().filter(|_| offset < LATEST) {
            let attributes = || Ok((self.answers.link(slot.number)?.0, slots.lasts()));
            let (ino, name) = (number_of(0, slot.number as usize), OsStr::new("latest"));
            let kind = FileType::Symlink;
            if !add(Listed { ino, next: LATEST, kind, name, attributes: &attributes }) {
                return Ok(());
            }
        }
        for (slot, name) in slots.names(offset.saturating_sub(LATEST)) {
            let attributes = || Ok(self.answers.root_as_known(&slot));
            let entry = Listed {
                ino: number_of(slot.number, 0),
                next: LATEST + slot.number,
                kind: FileType::Directory,
                name: OsStr::new(&name),
                attributes: &attributes,
            };
            if !add(entry) {
                break;
            }
        }
        Ok(())
    }
}

/// Whether there is room for more.
fn add_dots(
    own: INodeNo,
    above: INodeNo,
    offset: u64,
    attributes: &dyn Fn() -> Result<(FileAttr, Duration), Errno>,
    add: &mut Add<'_>,
) -> bool {
    let dots = [(1, own, "."), (2, above, "..")];
    dots.into_iter().filter(|(next, ..)| *next > offset).all(|(next, ino, name)| {
        add(Listed { ino, next, kind: FileType::Directory, name: OsStr::new(name), attributes })
    })
}

impl Filesystem for Served {
    fn init(&mut self, _asks: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let has_lists = config.add_capabilities(InitFlags::FUSE_POSIX_ACL).is_ok();
        self.answers.has_lists.store(has_lists, Relaxed);
        // Attributes come with the names of a directory. The kernel could guess whether a reader wants them,
        // and would guess wrong where names are read first, as `find` and `ls` do: that is a request a file.
        for wanted in
            [InitFlags::FUSE_CACHE_SYMLINKS, InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_PARALLEL_DIROPS]
        {
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, _asks: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.found(parent, name) {
            Ok((told, lasts)) => reply.entry(&lasts, &told, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn getattr(&self, _asks: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.told(ino) {
            Ok((told, lasts)) => reply.attr(&lasts, &told),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _asks: &Request, ino: INodeNo, reply: ReplyData) {
        match self.target(ino) {
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
        let at = match self.answers.inside(ino) {
            Ok(at) => at,
            Err(e) => return reply.error(e),
        };
        match self.answers.read(&at, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => return reply.error(e),
        }
        if offset == 0 {
            self.ahead.asked(&at);
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
        match self.answers.seek(ino, offset, whence) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(e),
        }
    }

    /// The kernel keeps the names in a directory, but not which snapshots there are. One snapshot has only
    /// names that it keeps: no request is needed.
    fn opendir(&self, _asks: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if !self.answers.is_all {
            return reply.error(Errno::ENOSYS);
        }
        let kept = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        reply.opened(FileHandle(0), if ino == INodeNo::ROOT { FopenFlags::empty() } else { kept });
    }

    fn readdir(
        &self,
        _asks: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.list(ino, offset, &mut |entry| !reply.add(entry.ino, entry.next, entry.kind, entry.name)) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdirplus(
        &self,
        _asks: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut add = |entry: Listed<'_>| {
            let Ok((told, lasts)) = (entry.attributes)() else { return false };
            !reply.add(entry.ino, entry.next, entry.name, &lasts, &told, Generation(0))
        };
        match self.list(ino, offset, &mut add) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn statfs(&self, _asks: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let (blocks, inodes) = match self.answers.node(ino) {
            Ok(Node::Inode(at)) => (at.loaded.index.blocks, at.loaded.index.len() as u64),
            _ => (0, 0),
        };
        reply.statfs(blocks / u64::from(BLOCK / 512), 0, 0, inodes, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _asks: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        sized(self.answers.xattr(ino, name), size, reply);
    }

    fn listxattr(&self, asks: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        sized(self.answers.xattr_names(ino, asks.uid() == 0), size, reply);
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
