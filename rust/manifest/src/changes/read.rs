//! Reads a manifest.

use crate::changes::schema::{MOST_EXTENTS, MOST_LINKS, MOST_XATTRS, ManifestHeader, NEWER, schema};
use crate::column::{self, At, Columns, bytes_at, items_at, kind_at, links_at, optional, xattrs_at};
use crate::file::BatchReader;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array, BinaryArray, BooleanArray, RecordBatch, StringArray, StructArray, TimestampNanosecondArray,
    UInt32Array, UInt64Array,
};
use rayon::prelude::*;
use snapsync_model::{
    Attributes, Change, ChangeFlags, Counts, End, Error, Extent, Kind, Op, RelPath, Result, Source,
};
use snapsync_sys::Named;

/// The least number of rows that one thread decodes.
const SIDE_BY_SIDE: usize = 256;

/// The changes of a manifest, in order.
pub struct ManifestReader {
    file: BatchReader,
    /// The remaining rows of the current batch, each with its position among all rows.
    rows: std::vec::IntoIter<(u64, Change)>,
    /// The number of rows of the batches that were read.
    read: u64,
}

impl ManifestReader {
    pub fn open(file: &(impl Named + ?Sized)) -> Result<ManifestReader> {
        let file = BatchReader::open(file, &schema(&ManifestHeader::default()), NEWER)?;
        Ok(ManifestReader { file, rows: Vec::new().into_iter(), read: 0 })
    }

    /// Only the numbers of the inodes.
    pub(crate) fn numbers(file: &(impl Named + ?Sized)) -> Result<BatchReader> {
        BatchReader::open_some(file, &schema(&ManifestHeader::default()), NEWER, Some(&[0]))
    }

    pub fn header(&self) -> Result<ManifestHeader> {
        let schema = self.file.schema();
        let text = |key: &str| schema.metadata().get(&format!("snapsync.{key}")).cloned().unwrap_or_default();
        Ok(ManifestHeader {
            name: text("name"),
            sequence: text("sequence").parse().ok(),
            base: text("base"),
            target: text("target"),
            volume: text("volume"),
            provider: text("provider"),
            filesystem: text("filesystem"),
            created: text("created"),
        })
    }

    pub fn counts(&self) -> Result<Counts> {
        let number = |name: &str| self.file.number(&format!("snapsync.{name}"));
        Ok(Counts {
            rows: number("rows")?,
            created: number("created_count")?,
            changed: number("changed_count")?,
            renamed: number("renamed_count")?,
            deleted: number("deleted_count")?,
            data_bytes: number("data_bytes")?,
            ..Counts::default()
        })
    }

    /// Only the changes that are wanted; other rows are skipped without decoding them fully.
    pub fn only<F: Fn(&Brief<'_>) -> bool + Sync>(self, wanted: F) -> Only<F> {
        Only { reader: self, wanted, is_over: false }
    }

    /// The same among inodes that the base has, of a manifest that was vetted: where all rows are new, none
    /// is read.
    pub fn only_of_base(
        self,
        wanted: impl Fn(&Brief<'_>) -> bool + Sync,
    ) -> Result<Only<impl Fn(&Brief<'_>) -> bool + Sync>> {
        let is_over = self.creates_all()?;
        let wanted = move |row: &Brief<'_>| !row.flags.created && wanted(row);
        Ok(Only { reader: self, wanted, is_over })
    }

    /// Whether all inodes are new.
    pub fn creates_all(&self) -> Result<bool> {
        self.counts().map(|counts| counts.created == counts.rows)
    }

    fn next_numbered(
        &mut self,
        wanted: impl Fn(&Brief<'_>) -> bool + Sync,
    ) -> Option<Result<Vec<(u64, Change)>>> {
        let batch = match self.file.next_batch()? {
            Ok(batch) => batch,
            Err(e) => return Some(Err(e)),
        };
        let first = self.read;
        self.read += batch.num_rows() as u64;
        Some(changes_of(&batch, first, wanted).map_err(|why| self.damaged(why)))
    }

    /// The rows of batch number `at`.
    pub(crate) fn rows_at(&mut self, at: usize) -> Result<Vec<Change>> {
        let batch = self.file.batch_at(at)?;
        let rows = changes_of(&batch, 0, |_| true).map_err(|why| self.damaged(why))?;
        Ok(rows.into_iter().map(|(_, change)| change).collect())
    }

    fn next_wanted(&mut self, wanted: impl Fn(&Brief<'_>) -> bool + Sync) -> Option<Result<(u64, Change)>> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(Ok(row));
            }
            match self.next_numbered(&wanted)? {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(e) => return Some(Err(e)),
            }
        }
    }

    pub(crate) fn format(&self) -> Result<String> {
        self.file.metadata("snapsync.format")
    }

    fn damaged(&self, why: &str) -> Error {
        self.file.damaged(why)
    }
}

impl Iterator for ManifestReader {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        self.next_wanted(|_| true).map(without_number)
    }
}

/// Some of the changes of a manifest, in order.
pub struct Only<F> {
    reader: ManifestReader,
    wanted: F,
    is_over: bool,
}

impl<F: Fn(&Brief<'_>) -> bool + Sync> Iterator for Only<F> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        self.next_numbered().map(without_number)
    }
}

impl<F: Fn(&Brief<'_>) -> bool + Sync> Only<F> {
    /// Each row with its position among all rows of the manifest.
    pub fn numbered(mut self) -> impl Iterator<Item = Result<(u64, Change)>> {
        std::iter::from_fn(move || self.next_numbered())
    }

    fn next_numbered(&mut self) -> Option<Result<(u64, Change)>> {
        if self.is_over { None } else { self.reader.next_wanted(&self.wanted) }
    }
}

fn without_number(row: Result<(u64, Change)>) -> Result<Change> {
    row.map(|(_, change)| change)
}

/// What can be decoded cheaply to decide whether a row is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Brief<'a> {
    pub kind: Kind,
    /// The paths in the target and in the base, as the row has them: nobody has checked them yet.
    pub path: Option<&'a [u8]>,
    pub old_path: Option<&'a [u8]>,
    /// Whether the inode has several names in the target, or had in the base.
    pub has_links: bool,
    pub flags: ChangeFlags,
    pub data_bytes: u64,
    pub has_clones: bool,
    /// The number of names that are added, and of those that are removed.
    pub added: usize,
    pub removed: usize,
    /// The directory of the first added name.
    pub parent: Option<u64>,
    /// The inode flags (`FS_*_FL`) in the target.
    pub inode_flags: u32,
}

/// The columns of one batch, looked up once for all rows.
struct View<'a> {
    ino: &'a UInt64Array,
    generation: &'a UInt64Array,
    kind: &'a StringArray,
    flags: [&'a BooleanArray; 7],
    path: PathView<'a>,
    old_path: PathView<'a>,
    links_added: &'a column::List,
    links_removed: &'a column::List,
    nlink: &'a UInt32Array,
    nlink_old: &'a UInt32Array,
    new: AttributesView<'a>,
    old: AttributesView<'a>,
    symlink_target: &'a BinaryArray,
    xattr: &'a column::List,
    extents: &'a column::List,
    data_bytes: &'a UInt64Array,
}

/// A path as text, and its bytes if the text does not tell them.
struct PathView<'a> {
    text: &'a StringArray,
    raw: &'a BinaryArray,
}

struct AttributesView<'a> {
    size: &'a UInt64Array,
    mode: &'a UInt32Array,
    uid: &'a UInt32Array,
    gid: &'a UInt32Array,
    rdev: &'a UInt64Array,
    mtime: &'a TimestampNanosecondArray,
    flags: &'a UInt32Array,
    rare: Option<&'a StructArray>,
}

impl<'a> View<'a> {
    fn of(batch: &'a RecordBatch) -> View<'a> {
        let columns = Columns(batch);
        let flags = columns.structure("change");
        View {
            ino: columns.u64("inode"),
            generation: columns.u64("generation"),
            kind: columns.text("kind"),
            flags: std::array::from_fn(|at| flags.column(at).as_boolean()),
            path: PathView { text: columns.text("path"), raw: columns.binary("path_raw") },
            old_path: PathView { text: columns.text("old_path"), raw: columns.binary("old_path_raw") },
            links_added: columns.list("links_added"),
            links_removed: columns.list("links_removed"),
            nlink: columns.u32("nlink"),
            nlink_old: columns.u32("nlink_old"),
            new: AttributesView::of(&columns, ""),
            old: AttributesView::of(&columns, "_old"),
            symlink_target: columns.binary("symlink_target"),
            xattr: columns.list("xattr"),
            extents: columns.list("extents"),
            data_bytes: columns.u64("data_bytes"),
        }
    }

    fn brief(&self, row: usize) -> Result<Brief<'a>, &'static str> {
        let (added, links) = items_at(self.links_added, row);
        let parents = links.column(0).as_primitive::<UInt64Type>();
        let (extents, items) = items_at(self.extents, row);
        let sources = items.column(4);
        Ok(Brief {
            kind: kind_at(self.kind, row).ok_or("a kind is unknown")?,
            path: self.path.bytes(row),
            old_path: self.old_path.bytes(row),
            has_links: self.nlink.value(row).max(self.nlink_old.value(row)) > 1,
            flags: self.flags(row),
            data_bytes: self.data_bytes.value(row),
            has_clones: sources.null_count() < sources.len()
                && extents.into_iter().any(|i| sources.is_valid(i)),
            parent: added.clone().next().map(|first| parents.value(first)),
            added: added.len(),
            removed: items_at(self.links_removed, row).0.len(),
            inode_flags: self.new.flags.at(row).unwrap_or(0),
        })
    }

    fn change(&self, row: usize) -> Result<Change, &'static str> {
        let change = Change {
            ino: self.ino.value(row),
            generation: self.generation.value(row),
            kind: kind_at(self.kind, row).ok_or("a kind is unknown")?,
            flags: self.flags(row),
            path: self.path.at(row)?,
            old_path: self.old_path.at(row)?,
            links_added: links_at(self.links_added, row),
            links_removed: links_at(self.links_removed, row),
            nlink: self.nlink.value(row),
            nlink_old: self.nlink_old.value(row),
            new: self.new.at(row)?,
            old: self.old.at(row)?,
            symlink_target: bytes_at(self.symlink_target, row),
            xattrs: xattrs_at(self.xattr, row),
            extents: extents_at(self.extents, row).ok_or("an extent's op or source is unknown")?,
        };
        is_sound(&change)?;
        if self.data_bytes.value(row) != change.data_bytes() {
            return Err("a row's data is not as much as it says");
        }
        Ok(change)
    }

    fn flags(&self, row: usize) -> ChangeFlags {
        let [created, deleted, renamed, data, attributes, xattrs, links] =
            self.flags.map(|flag| flag.value(row));
        ChangeFlags { created, deleted, renamed, data, attributes, xattrs, links }
    }
}

/// `first` is the position of the batch's first row.
fn changes_of(
    batch: &RecordBatch,
    first: u64,
    wanted: impl Fn(&Brief<'_>) -> bool + Sync,
) -> Result<Vec<(u64, Change)>, &'static str> {
    let view = View::of(batch);
    let numbered = |row: usize| view.change(row).map(|change| (first + row as u64, change));
    let change = |row| match view.brief(row) {
        Ok(brief) => wanted(&brief).then(|| numbered(row)),
        Err(why) => Some(Err(why)),
    };
    (0..batch.num_rows()).into_par_iter().with_min_len(SIDE_BY_SIDE).filter_map(change).collect()
}

/// Checks what every later stage relies on, whoever wrote the file.
fn is_sound(change: &Change) -> Result<(), &'static str> {
    let flags = change.flags;
    if flags.created && flags.deleted {
        return Err("a row is both created and deleted");
    }
    if change.path.is_none() != flags.deleted || change.new.is_none() != flags.deleted {
        return Err("a row lacks its place in the target");
    }
    if change.old_path.is_none() != flags.created || change.old.is_none() != flags.created {
        return Err("a row lacks its place in the base");
    }
    if change.kind == Kind::Symlink && change.path.is_some() && change.symlink_target.is_none() {
        return Err("a symbolic link has no target");
    }
    let sizes = change.new.iter().chain(&change.old).map(|attributes| attributes.size);
    if sizes.max().is_some_and(|size| size > i64::MAX as u64) {
        return Err("a file is larger than any can be");
    }
    if change.extents.len() > MOST_EXTENTS
        || change.links_added.len().max(change.links_removed.len()) > MOST_LINKS
        || change.xattrs.as_ref().is_some_and(|xattrs| xattrs.len() > MOST_XATTRS)
    {
        return Err("a row's list is too long");
    }
    let mut at = 0;
    for extent in &change.extents {
        let end = extent.offset.checked_add(extent.length).ok_or("an extent ends beyond any file")?;
        if extent.offset < at || extent.length == 0 || end > i64::MAX as u64 {
            return Err("extents overlap or are empty");
        }
        let size = change.new.map_or(0, |a| a.size);
        if matches!(extent.op, Op::Data | Op::Clone) && end > size {
            return Err("an extent lies beyond the file's size");
        }
        match extent.source.map(|s| s.offset.checked_add(extent.length)) {
            None if extent.op == Op::Clone => return Err("a clone has no source"),
            Some(_) if extent.op != Op::Clone => return Err("what is no clone has a source"),
            Some(end) if end.is_none_or(|end| end > i64::MAX as u64) => {
                return Err("a clone's source ends beyond any file");
            }
            _ => {}
        }
        at = end;
    }
    Ok(())
}

impl<'a> PathView<'a> {
    fn bytes(&self, row: usize) -> Option<&'a [u8]> {
        let (text, raw) = (self.text, self.raw);
        optional(raw, row, || raw.value(row)).or_else(|| optional(text, row, || text.value(row).as_bytes()))
    }

    fn at(&self, row: usize) -> Result<Option<RelPath>, &'static str> {
        let text = optional(self.text, row, || self.text.value(row));
        let raw = optional(self.raw, row, || self.raw.value(row));
        // Otherwise people would see another path than the one that counts.
        if raw.is_some_and(|raw| {
            std::str::from_utf8(raw).is_ok() || text != Some(&*String::from_utf8_lossy(raw))
        }) {
            return Err("a path's bytes are not those of its text");
        }
        let bytes = raw.or(text.map(str::as_bytes));
        bytes.map(RelPath::new).transpose().map_err(|_| "a path is not one below a root")
    }
}

impl<'a> AttributesView<'a> {
    fn of(columns: &Columns<'a>, suffix: &str) -> AttributesView<'a> {
        let name = |name: &str| format!("{name}{suffix}");
        AttributesView {
            size: columns.u64(&name("size")),
            mode: columns.u32(&name("mode")),
            uid: columns.u32(&name("uid")),
            gid: columns.u32(&name("gid")),
            rdev: columns.u64(&name("rdev")),
            mtime: columns.time(&name("mtime")),
            flags: columns.u32(&name("flags")),
            rare: columns.perhaps(&name("rare")),
        }
    }

    /// Either all attributes are present, or none.
    fn at(&self, row: usize) -> Result<Option<Attributes>, &'static str> {
        let numbers = (self.size.at(row), self.rdev.at(row), self.mtime.at(row));
        let words = (self.mode.at(row), self.uid.at(row), self.gid.at(row), self.flags.at(row));
        match (numbers, words) {
            ((Some(size), Some(rdev), Some(mtime)), (Some(mode), Some(uid), Some(gid), Some(flags))) => {
                let bare = Attributes { size, mode, uid, gid, rdev, mtime, flags, ..Attributes::default() };
                Ok(Some(column::with_rare(self.rare, row, bare)))
            }
            ((None, None, None), (None, None, None, None)) => Ok(None),
            _ => Err("a row lacks some of its attributes"),
        }
    }
}

fn extents_at(list: &column::List, row: usize) -> Option<Vec<Extent>> {
    let (range, items) = items_at(list, row);
    let offsets = items.column(0).as_primitive::<UInt64Type>();
    let lengths = items.column(1).as_primitive::<UInt64Type>();
    let ops = items.column(2).as_string::<i32>();
    let ends = items.column(3).as_string::<i32>();
    let inodes = items.column(4).as_primitive::<UInt64Type>();
    let source_offsets = items.column(5).as_primitive::<UInt64Type>();
    let checksums = items.column(6).as_fixed_size_binary();
    // The inner option: no source. The outer one: the kind of source is unknown.
    let source = |i| match (optional(ends, i, || ends.value(i)), inodes.at(i), source_offsets.at(i)) {
        (Some(end), Some(ino), Some(offset)) => Some(Some(Source { end: End::from_name(end)?, ino, offset })),
        (None, None, None) => Some(None),
        _ => None,
    };
    let extent = |i| {
        Some(Extent {
            offset: offsets.value(i),
            length: lengths.value(i),
            op: Op::from_name(ops.value(i))?,
            source: source(i)?,
            checksum: optional(checksums, i, || checksums.value(i).try_into().ok()).flatten(),
        })
    };
    range.map(extent).collect()
}
