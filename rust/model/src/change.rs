//! A row of the manifest: one inode that differs between two snapshots.

use crate::extent::{BLOCK, Range, hole_at_end};
use crate::inode::{Attributes, Kind, Link, Xattr};
use crate::path::RelPath;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeFlags {
    pub created: bool,
    pub deleted: bool,
    /// The inode has another name or lies in another directory.
    pub renamed: bool,
    pub data: bool,
    pub attributes: bool,
    pub xattrs: bool,
    /// A surviving inode has more or fewer names than it had.
    pub links: bool,
}

impl ChangeFlags {
    /// False for a directory that only anchors the names of other rows.
    pub fn any(self) -> bool {
        self != ChangeFlags::default()
    }

    /// The names of those that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("created", self.created),
            ("deleted", self.deleted),
            ("renamed", self.renamed),
            ("data", self.data),
            ("attributes", self.attributes),
            ("xattrs", self.xattrs),
            ("links", self.links),
        ];
        all.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Bytes to be written.
    Data,
    /// Nothing is allocated; reads as zeros.
    Hole,
    /// Allocated, not written; reads as zeros. May lie beyond the size.
    Unwritten,
    /// The bytes are those of another range that the receiver already has.
    Clone,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::Data => "data",
            Op::Hole => "hole",
            Op::Unwritten => "unwritten",
            Op::Clone => "clone",
        }
    }

    pub fn from_name(name: &str) -> Option<Op> {
        [Op::Data, Op::Hole, Op::Unwritten, Op::Clone].into_iter().find(|op| op.name() == name)
    }
}

/// A snapshot of a delta: the base or the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    Base,
    Target,
}

impl End {
    pub fn name(self) -> &'static str {
        match self {
            End::Base => "base",
            End::Target => "target",
        }
    }

    pub fn from_name(name: &str) -> Option<End> {
        [End::Base, End::Target].into_iter().find(|end| end.name() == name)
    }
}

/// Where the bytes of a clone come from. In the target it is always data that travels with the same delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub end: End,
    pub ino: u64,
    pub offset: u64,
}

/// How a run of bytes of the target file comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
    pub op: Op,
    /// Set for a clone only.
    pub source: Option<Source>,
    /// BLAKE3 of the bytes where they were read when the manifest was made.
    pub checksum: Option<[u8; 32]>,
}

impl Extent {
    pub fn range(&self) -> Range {
        Range { offset: self.offset, length: self.length }
    }

    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub ino: u64,
    pub generation: u64,
    pub kind: Kind,
    pub flags: ChangeFlags,
    /// The path in the target; None when the inode was deleted.
    pub path: Option<RelPath>,
    /// The path in the base; None when the inode was created.
    pub old_path: Option<RelPath>,
    pub links_added: Vec<Link>,
    pub links_removed: Vec<Link>,
    /// The number of names in the target and in the base.
    pub nlink: u32,
    pub nlink_old: u32,
    pub new: Option<Attributes>,
    pub old: Option<Attributes>,
    pub symlink_target: Option<Box<[u8]>>,
    /// All xattrs of the target; None when they did not change.
    pub xattrs: Option<Vec<Xattr>>,
    /// Sorted and without overlap. For a created file they cover everything but holes.
    pub extents: Vec<Extent>,
}

impl Change {
    /// Bytes that travel for this row.
    pub fn data_bytes(&self) -> u64 {
        self.extents.iter().filter(|e| e.op == Op::Data).map(|e| e.length).sum()
    }

    /// Whether the row names `range` as one run of data.
    pub fn names_data(&self, range: Range) -> bool {
        let at = self.extents.partition_point(|e| e.offset <= range.offset);
        let extent = at.checked_sub(1).and_then(|at| self.extents.get(at)).filter(|e| e.op == Op::Data);
        extent.is_some_and(|e| {
            range.offset - e.offset < e.length && e.length - (range.offset - e.offset) >= range.length
        })
    }

    /// The preallocated extents that lie wholly beyond the end of the file.
    pub fn beyond_end(&self) -> impl Iterator<Item = &Extent> {
        let size = self.new.map_or(0, |a| a.size);
        self.extents.iter().filter(move |e| e.op == Op::Unwritten && e.offset > size)
    }

    /// Whether the file loses preallocation beyond its end. The extents then list all that remains.
    pub fn loses_tail(&self) -> bool {
        let size = self.new.map_or(0, |a| a.size);
        // Older versions extended a hole that the end of the file cuts to the end of its block.
        let tail = size.next_multiple_of(BLOCK);
        self.extents.iter().any(|e| e.op == Op::Hole && (e.offset >= size || e.end() > tail))
    }

    /// The hole in the block that the end of a new file cuts, if preallocation beyond the end may have
    /// written to it: some file systems with blocks of `block` bytes do that.
    pub fn cut_hole(&self, block: u64) -> Option<Range> {
        self.beyond_end().next()?;
        hole_at_end(self.new.map_or(0, |a| a.size), block, self.extents.iter().map(Extent::range))
    }

    /// The range of extent number `at`. If the file ends there within a block, the rest of that block belongs
    /// to it as far as the row names nothing else in it: only whole blocks are preallocated or punched.
    pub fn to_end_of_block(&self, at: usize, block: u64) -> Range {
        let (size, range) = (self.new.map_or(0, |a| a.size), self.extents[at].range());
        if range.end() != size {
            return range;
        }
        let end = size.next_multiple_of(block);
        let next = self.extents[at + 1..].iter().find(|e| e.op != Op::Hole);
        let end = next.map_or(end, |next| next.offset.min(end));
        Range { offset: range.offset, length: end - range.offset }
    }

    /// Whether the receiver already has some of the bytes elsewhere.
    pub fn has_clones(&self) -> bool {
        self.extents.iter().any(|e| e.op == Op::Clone)
    }

    /// Whether this file did not change and has a row only because other files take data from it.
    pub fn only_lends(&self) -> bool {
        self.kind != Kind::Directory && !self.flags.any()
    }

    /// Whether the inode exists on both sides.
    pub fn survives(&self) -> bool {
        !self.flags.created && !self.flags.deleted
    }

    /// The path to show to people.
    pub fn display_path(&self) -> String {
        let path = self.path.as_ref().or(self.old_path.as_ref());
        path.map_or_else(|| ".".to_owned(), |p| p.display().into_owned())
    }
}

/// Totals of a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    pub rows: u64,
    pub created: u64,
    pub changed: u64,
    pub renamed: u64,
    pub deleted: u64,
    #[serde(skip)]
    pub data_bytes: u64,
    /// Sizes (not allocated bytes) of the files that only the target has, and of those that only the base
    /// has.
    #[serde(skip)]
    pub bytes_added: u64,
    #[serde(skip)]
    pub bytes_removed: u64,
}

impl Counts {
    pub fn add(&mut self, change: &Change) {
        let flags = change.flags;
        self.rows += 1;
        self.created += u64::from(flags.created);
        self.deleted += u64::from(flags.deleted);
        self.renamed += u64::from(flags.renamed);
        let content = flags.data || flags.attributes || flags.xattrs || flags.links;
        self.changed += u64::from(change.survives() && content);
        // Sparse files together can claim more than 64 bits.
        self.data_bytes = self.data_bytes.saturating_add(change.data_bytes());
        if change.kind == Kind::File {
            self.bytes_added = self.bytes_added.saturating_add(change.new.map_or(0, |a| a.size));
            self.bytes_removed = self.bytes_removed.saturating_add(change.old.map_or(0, |a| a.size));
        }
    }

    /// Those of two deltas, one after the other.
    pub fn and(self, next: Counts) -> Counts {
        Counts {
            rows: self.rows.saturating_add(next.rows),
            created: self.created.saturating_add(next.created),
            changed: self.changed.saturating_add(next.changed),
            renamed: self.renamed.saturating_add(next.renamed),
            deleted: self.deleted.saturating_add(next.deleted),
            data_bytes: self.data_bytes.saturating_add(next.data_bytes),
            bytes_added: self.bytes_added.saturating_add(next.bytes_added),
            bytes_removed: self.bytes_removed.saturating_add(next.bytes_removed),
        }
    }
}
