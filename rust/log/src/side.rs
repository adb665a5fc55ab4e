//! A snapshot of a log as a side: what can be listed, read and compared. Equal places in equal packs are
//! equal bytes, so two snapshots of one log are compared without reading any.

use crate::commit::StoredObject;
use crate::fold::Whole;
use crate::log::Log;
use snapsync_manifest::{ChangeRows, FrameRow, ManifestReader};
use snapsync_model::{
    Address, Attributes, ByDigests, Change, Content, Context, Details, Directories, Error, Extent, Inode,
    Inodes, Kind, Layout, Link, Op, Placed, Range, ReadAt, RelPath, Result, Side, locked,
};
use snapsync_stream::unpacked;
use snapsync_stream::wire::{FrameHead, LARGEST_FRAME};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// How much of a pack is read at once, at least, and how many such blocks are kept.
const BLOCK: u64 = 1 << 20;
const BLOCKS: usize = 32;
/// The bits of an address that say where in a frame it is.
const IN_FRAME: u32 = 24;

/// A snapshot of a log.
pub struct LogSnapshot {
    whole: Whole,
    directories: Directories,
    rows: ChangeRows,
    data: Arc<LogFrames>,
}

/// The frames of a snapshot, and the blocks of packs that were read last.
pub struct LogFrames {
    log: Arc<Log>,
    /// Sorted by inode and offset.
    rows: Vec<FrameRow>,
    packs: Vec<StoredObject>,
    /// The numbers of the packs in addresses: the same in all snapshots of this log.
    numbers: Vec<u64>,
    blocks: Mutex<VecDeque<Block>>,
}

#[derive(Clone)]
struct Block {
    pack: u32,
    start: u64,
    bytes: Arc<Vec<u8>>,
}

impl LogSnapshot {
    pub fn new(log: &Arc<Log>, mut whole: Whole) -> Result<LogSnapshot> {
        let manifest = whole.manifest();
        let mut directories = Directories::default();
        for row in ManifestReader::open(&manifest)?.only(|row| row.kind == Kind::Directory) {
            let row = row?;
            row.links_added.first().into_iter().for_each(|link| directories.insert(row.ino, link.clone()));
        }
        let (rows, packs) = (std::mem::take(&mut whole.frames), whole.packs.clone());
        if rows.iter().any(|row| row.raw > LARGEST_FRAME) {
            return Err(Error::integrity("an index of the log names a frame that is too large", ""));
        }
        let numbers = packs.iter().map(|pack| log.numbers().of(pack)).collect();
        let data = LogFrames { log: log.clone(), rows, packs, numbers, blocks: Mutex::default() };
        Ok(LogSnapshot { directories, rows: ChangeRows::open(&manifest)?, whole, data: Arc::new(data) })
    }

    pub fn frames(&self) -> Arc<LogFrames> {
        self.data.clone()
    }

    /// What it was made of.
    pub fn into_whole(self) -> Whole {
        let LogSnapshot { whole, data, .. } = self;
        let frames = Arc::try_unwrap(data).map_or_else(|data| data.rows.clone(), |data| data.rows);
        Whole { frames, ..whole }
    }

    fn row(&self, inode: &Inode) -> Result<Arc<Change>> {
        self.rows.find(inode.ino)?.ok_or_else(|| {
            Error::failed(format!("inode {} is not in the snapshot of the log", inode.ino), "report this")
        })
    }
}

/// The inode of a row in which everything is new.
fn inode_of(row: Change) -> Inode {
    let attributes = row.new.unwrap_or_default();
    let unwritten = ranges(&row.extents, Op::Unwritten);
    let blocks = row.data_bytes().div_ceil(512);
    let details = Details {
        flags: attributes.flags,
        rare: attributes.rare,
        xattrs: row.xattrs.unwrap_or_default(),
        symlink_target: row.symlink_target,
        unwritten,
    };
    Inode {
        ino: row.ino,
        generation: row.generation,
        kind: row.kind,
        attributes: Attributes::bare(attributes),
        ctime: 0,
        blocks,
        links: row.links_added,
        details: Some(Box::new(details)),
        object: 0,
        shared: false,
    }
}

fn ranges(extents: &[Extent], op: Op) -> Vec<Range> {
    extents.iter().filter(|extent| extent.op == op).map(Extent::range).collect()
}

impl Side for LogSnapshot {
    fn inodes(&self) -> Result<Inodes<'_>> {
        Ok(Box::new(ManifestReader::open(&self.whole.manifest())?.map(|row| row.map(inode_of))))
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        self.directories.path(link)
    }

    fn details(&self, inode: &Inode) -> Result<Details> {
        match &inode.details {
            Some(details) => Ok((**details).clone()),
            None => Ok(inode_of((*self.row(inode)?).clone()).details.map(|it| *it).unwrap_or_default()),
        }
    }

    fn open(&self, inode: &Inode) -> Result<Content> {
        let rows = self.data.of(inode.ino).to_vec();
        let size = inode.attributes.size;
        let file: Box<dyn ReadAt> =
            Box::new(LogFile { data: self.data.clone(), rows, size, last: Mutex::default() });
        Ok(file.into())
    }

    fn holds_still(&self, _: &Inode, _: &Content) -> Result<()> {
        Ok(())
    }

    fn layout(&self, inode: &Inode, _: &Content) -> Result<Layout> {
        let unwritten = self.details(inode)?.unwritten;
        let placed: Vec<Placed> = self.data.of(inode.ino).iter().map(|row| self.data.placed(row)).collect();
        Ok(Layout::new(inode.attributes.size, &placed, &unwritten))
    }

    fn by_digests<'a>(&'a self, inode: &'a Inode) -> Option<ByDigests<'a>> {
        Some(Box::new(|file, path| self.data.are_those_of(inode, file, path)))
    }

    fn space(&self) -> Option<u128> {
        Some(Arc::as_ptr(&self.data.log) as usize as u128)
    }
}

impl LogFrames {
    /// Where the bytes of a range of a file are; the packs are those of `packs`.
    pub fn pieces(&self, ino: u64, range: Range) -> impl Iterator<Item = FrameRow> {
        self.of(ino).iter().filter_map(move |row| row.within(range.offset, range.end()))
    }

    pub fn packs(&self) -> &[StoredObject] {
        &self.packs
    }

    fn of(&self, ino: u64) -> &[FrameRow] {
        let from = self.rows.partition_point(|row| row.ino < ino);
        let count = self.rows[from..].partition_point(|row| row.ino == ino);
        &self.rows[from..from + count]
    }

    /// Whether a file, which is as long as an inode here, has its bytes. A frame of which the inode has all
    /// is known by its digest; the others are read.
    fn are_those_of(&self, inode: &Inode, file: &Content, path: &Path) -> Result<bool> {
        let mut bytes = Vec::new();
        let mut at = 0;
        for row in self.of(inode.ino) {
            if !is_hole(file, at..row.offset, path)? {
                return Ok(false);
            }
            bytes.resize(row.length as usize, 0);
            file.read_exact_at(&mut bytes, row.offset).context("read", path)?;
            let skip = row.skip as usize;
            let is_same = if row.is_whole() {
                *blake3::hash(&bytes).as_bytes() == row.digest
            } else {
                self.read(row)?[skip..skip + bytes.len()] == bytes
            };
            if !is_same {
                return Ok(false);
            }
            at = row.end();
        }
        is_hole(file, at..inode.attributes.size, path)
    }

    fn placed(&self, row: &FrameRow) -> Placed {
        let extent = self.numbers.get(row.pack as usize).copied().unwrap_or_default();
        let address = Address { extent, offset: (row.at << IN_FRAME) | u64::from(row.skip) };
        let range = Range { offset: row.offset, length: row.length.into() };
        Placed { range, address: Some(address), shared: false }
    }

    /// All bytes of a frame.
    fn read(&self, row: &FrameRow) -> Result<Vec<u8>> {
        let (start, end) = (row.at, row.at + u64::from(row.stored));
        let head = FrameHead::of(row.raw, row.stored, row.ino, row.offset, row.digest);
        let block = self.block(row.pack, start, end)?;
        let from = (start - block.start) as usize;
        unpacked(&head, block.bytes[from..from + row.stored as usize].to_vec())
    }

    /// A block that has this range.
    fn block(&self, number: u32, start: u64, end: u64) -> Result<Block> {
        let has = |block: &Block| {
            block.pack == number && block.start <= start && end <= block.start + block.bytes.len() as u64
        };
        if let Some(block) = locked(&self.blocks).iter().find(|block| has(block)) {
            return Ok(block.clone());
        }
        let none = || Error::integrity("an index of the log names bytes of no pack", "");
        let pack = self.packs.get(number as usize).ok_or_else(none)?;
        let length = self.log.pack_length(&pack.key, pack.size)?;
        if end > length {
            return Err(none());
        }
        let range = start..end.max((start + BLOCK).min(length));
        let bytes = self.log.pack_range((&pack.key, pack.size), range)?;
        let block = Block { pack: number, start, bytes: Arc::new(bytes) };
        let mut blocks = locked(&self.blocks);
        blocks.truncate(BLOCKS - 1);
        blocks.push_front(block.clone());
        Ok(block)
    }
}

/// Whether a range of a file reads as a hole does.
fn is_hole(file: &Content, range: std::ops::Range<u64>, path: &Path) -> Result<bool> {
    let mut bytes = Vec::new();
    for at in range.clone().step_by(BLOCK as usize) {
        bytes.resize((range.end - at).min(BLOCK) as usize, 0);
        file.read_exact_at(&mut bytes, at).context("read", path)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A file of a snapshot, open for reading.
struct LogFile {
    data: Arc<LogFrames>,
    rows: Vec<FrameRow>,
    size: u64,
    /// The frame that was read last, by its place among the rows, and its bytes.
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a file of {} bytes in {}", self.size, self.data.log.address())
    }
}

impl LogFile {
    fn frame(&self, at: usize) -> Result<Arc<Vec<u8>>> {
        if let Some((_, bytes)) = locked(&self.last).as_ref().filter(|(last, _)| *last == at) {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(self.data.read(&self.rows[at])?);
        *locked(&self.last) = Some((at, bytes.clone()));
        Ok(bytes)
    }
}

impl ReadAt for LogFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let most = self.size.saturating_sub(at).min(bytes.len() as u64) as usize;
        let bytes = &mut bytes[..most];
        let next = self.rows.partition_point(|row| row.end() <= at);
        let Some(row) = self.rows.get(next).filter(|row| row.offset < at + most as u64) else {
            bytes.fill(0);
            return Ok(most);
        };
        if at < row.offset {
            let hole = (row.offset - at) as usize;
            bytes[..hole].fill(0);
            return Ok(hole);
        }
        let frame = self.frame(next).map_err(io::Error::other)?;
        let from = (at - row.offset) as usize + row.skip as usize;
        let length = most.min((row.end() - at) as usize);
        bytes[..length].copy_from_slice(&frame[from..from + length]);
        Ok(length)
    }
}
