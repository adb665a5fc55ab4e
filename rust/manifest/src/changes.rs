//! The change manifest: one row a changed inode, sorted by inode; see docs/format.md for every column.

use crate::column::{
    self, At, Columns, append_links, append_xattrs, bytes_at, field, items_at, kind_at, link_list, links_at,
    list_of, optional, struct_list, timestamp, timestamp_builder, xattr_list, xattrs_at,
};
use crate::file::{BatchReader, BatchWriter};
use crate::vet::{MOST_EXTENTS, MOST_LINKS, MOST_XATTRS};
use crate::{BATCH_BYTES, BATCH_ITEMS, BATCH_ROWS};
use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, StringBuilder, StructBuilder,
    TimestampNanosecondBuilder, UInt32Builder, UInt64Builder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array, BinaryArray, BooleanArray, RecordBatch, StringArray, StructArray, TimestampNanosecondArray,
    UInt32Array, UInt64Array,
};
use arrow_ipc::CompressionType;
use arrow_schema::{DataType, Field, Fields, Schema};
use rayon::prelude::*;
use snapsync_model::{
    Attributes, Change, ChangeFlags, Context, Counts, End, Error, Extent, Kind, Op, RelPath, Result, Source,
};
use snapsync_sys::Named;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

/// What the manifest is about; kept in its schema's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Snapshot ids; empty where a side is a plain directory or there is no base.
    pub base: String,
    pub target: String,
    pub volume: String,
    pub provider: String,
    pub filesystem: String,
    /// RFC 3339.
    pub created: String,
}

pub(crate) const FORMAT: &str = "2";
/// What older builds wrote, which lacks the last columns.
pub(crate) const OLDER: &str = "1";
const NEWER: usize = 2;
const FLAGS: [&str; 7] = ["created", "deleted", "renamed", "data", "attributes", "xattrs", "links"];
const TOTALS: [&str; 6] =
    ["rows", "created_count", "changed_count", "renamed_count", "deleted_count", "data_bytes"];

/// Totals are known only at the end, and the schema stands at the start: room is kept for them as this many
/// digits, recognisable and filled in when they are known.
const DIGITS: usize = 20;

/// Rows that one thread decodes at least.
const SIDE_BY_SIDE: usize = 256;

fn placeholder(at: usize) -> String {
    format!("\u{1}{at}{}", "\u{2}".repeat(DIGITS - 2))
}

fn flag_fields() -> Fields {
    FLAGS.iter().map(|name| Field::new(*name, DataType::Boolean, false)).collect()
}

fn extent_fields() -> Fields {
    vec![
        Field::new("offset", DataType::UInt64, false),
        Field::new("length", DataType::UInt64, false),
        Field::new("op", DataType::Utf8, false),
        Field::new("source", DataType::Utf8, true),
        Field::new("source_inode", DataType::UInt64, true),
        Field::new("source_offset", DataType::UInt64, true),
        Field::new("checksum", DataType::FixedSizeBinary(32), true),
    ]
    .into()
}

fn schema(header: &Header) -> Schema {
    Schema::new(columns_of_changes()).with_metadata(metadata(header))
}

pub(crate) fn columns_of_changes() -> Fields {
    let new = |name, kind| Field::new(name, kind, true);
    let always = |name, kind| Field::new(name, kind, false);
    let mut fields = vec![
        always("inode", DataType::UInt64),
        always("generation", DataType::UInt64),
        always("kind", DataType::Utf8),
        new("path", DataType::Utf8),
        new("old_path", DataType::Utf8),
        new("path_raw", DataType::Binary),
        new("old_path_raw", DataType::Binary),
        always("change", DataType::Struct(flag_fields())),
        always("links_added", list_of(column::link_fields())),
        always("links_removed", list_of(column::link_fields())),
        always("nlink", DataType::UInt32),
        always("nlink_old", DataType::UInt32),
    ];
    for (name, kind) in AttributeBuilders::columns() {
        fields.push(new(name, kind.clone()));
        fields.push(Field::new(format!("{name}_old"), kind, true));
    }
    fields.extend([
        new("symlink_target", DataType::Binary),
        new("xattr", list_of(column::xattr_fields())),
        always("extents", list_of(extent_fields())),
        always("data_bytes", DataType::UInt64),
        new("rare", DataType::Struct(column::rare_fields())),
        new("rare_old", DataType::Struct(column::rare_fields())),
    ]);
    fields.into()
}

pub(crate) fn columns_of_older_changes() -> Fields {
    let fields = columns_of_changes();
    fields[..fields.len() - NEWER].into()
}

fn metadata(header: &Header) -> HashMap<String, String> {
    let mut metadata = HashMap::from([
        ("snapsync.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("snapsync.format".to_owned(), FORMAT.to_owned()),
        ("snapsync.base".to_owned(), header.base.clone()),
        ("snapsync.target".to_owned(), header.target.clone()),
        ("snapsync.volume".to_owned(), header.volume.clone()),
        ("snapsync.provider".to_owned(), header.provider.clone()),
        ("snapsync.filesystem".to_owned(), header.filesystem.clone()),
        ("snapsync.created".to_owned(), header.created.clone()),
    ]);
    metadata
        .extend(TOTALS.iter().enumerate().map(|(at, name)| (format!("snapsync.{name}"), placeholder(at))));
    metadata
}

/// One side's attributes, old or new.
struct AttributeBuilders {
    size: UInt64Builder,
    mode: UInt32Builder,
    uid: UInt32Builder,
    gid: UInt32Builder,
    rdev: UInt64Builder,
    mtime: TimestampNanosecondBuilder,
    flags: UInt32Builder,
}

impl AttributeBuilders {
    fn columns() -> [(&'static str, DataType); 7] {
        use DataType::{UInt32, UInt64};
        [
            ("size", UInt64),
            ("mode", UInt32),
            ("uid", UInt32),
            ("gid", UInt32),
            ("rdev", UInt64),
            ("mtime", timestamp()),
            ("flags", UInt32),
        ]
    }

    fn new() -> Self {
        AttributeBuilders {
            size: UInt64Builder::new(),
            mode: UInt32Builder::new(),
            uid: UInt32Builder::new(),
            gid: UInt32Builder::new(),
            rdev: UInt64Builder::new(),
            mtime: timestamp_builder(),
            flags: UInt32Builder::new(),
        }
    }

    fn append(&mut self, value: Option<Attributes>) {
        self.size.append_option(value.map(|a| a.size));
        self.mode.append_option(value.map(|a| a.mode));
        self.uid.append_option(value.map(|a| a.uid));
        self.gid.append_option(value.map(|a| a.gid));
        self.rdev.append_option(value.map(|a| a.rdev));
        self.mtime.append_option(value.map(|a| a.mtime));
        self.flags.append_option(value.map(|a| a.flags));
    }

    fn finish(&mut self) -> [Arc<dyn Array>; 7] {
        [
            Arc::new(self.size.finish()),
            Arc::new(self.mode.finish()),
            Arc::new(self.uid.finish()),
            Arc::new(self.gid.finish()),
            Arc::new(self.rdev.finish()),
            Arc::new(self.mtime.finish()),
            Arc::new(self.flags.finish()),
        ]
    }
}

/// A path for people, and its bytes where they are not UTF-8.
struct PathBuilders {
    text: StringBuilder,
    raw: BinaryBuilder,
}

impl PathBuilders {
    fn new() -> Self {
        PathBuilders { text: StringBuilder::new(), raw: BinaryBuilder::new() }
    }

    fn append(&mut self, path: Option<&RelPath>) {
        self.text.append_option(path.map(RelPath::display));
        let raw = path.map(RelPath::as_bytes).filter(|bytes| std::str::from_utf8(bytes).is_err());
        self.raw.append_option(raw);
    }
}

struct Builders {
    inode: UInt64Builder,
    generation: UInt64Builder,
    kind: StringBuilder,
    path: PathBuilders,
    old_path: PathBuilders,
    change: [BooleanBuilder; 7],
    links_added: column::StructList,
    links_removed: column::StructList,
    nlink: UInt32Builder,
    nlink_old: UInt32Builder,
    new: AttributeBuilders,
    old: AttributeBuilders,
    symlink_target: BinaryBuilder,
    xattr: column::StructList,
    extents: column::StructList,
    data_bytes: UInt64Builder,
    rare: StructBuilder,
    rare_old: StructBuilder,
    /// Of names, paths and values.
    bytes: usize,
}

impl Builders {
    fn new() -> Self {
        let extent: Vec<Box<dyn ArrayBuilder>> = vec![
            Box::new(UInt64Builder::new()),
            Box::new(UInt64Builder::new()),
            Box::new(StringBuilder::new()),
            Box::new(StringBuilder::new()),
            Box::new(UInt64Builder::new()),
            Box::new(UInt64Builder::new()),
            Box::new(FixedSizeBinaryBuilder::new(32)),
        ];
        Builders {
            inode: UInt64Builder::new(),
            generation: UInt64Builder::new(),
            kind: StringBuilder::new(),
            path: PathBuilders::new(),
            old_path: PathBuilders::new(),
            change: std::array::from_fn(|_| BooleanBuilder::new()),
            links_added: link_list(),
            links_removed: link_list(),
            nlink: UInt32Builder::new(),
            nlink_old: UInt32Builder::new(),
            new: AttributeBuilders::new(),
            old: AttributeBuilders::new(),
            symlink_target: BinaryBuilder::new(),
            xattr: xattr_list(),
            extents: struct_list(extent_fields(), extent),
            data_bytes: UInt64Builder::new(),
            rare: column::rare_builder(),
            rare_old: column::rare_builder(),
            bytes: 0,
        }
    }

    fn append(&mut self, change: &Change) {
        self.inode.append_value(change.ino);
        self.generation.append_value(change.generation);
        self.kind.append_value(change.kind.name());
        self.path.append(change.path.as_ref());
        self.old_path.append(change.old_path.as_ref());
        for (builder, flag) in self.change.iter_mut().zip(flags_to_array(change.flags)) {
            builder.append_value(flag);
        }
        append_links(&mut self.links_added, &change.links_added);
        append_links(&mut self.links_removed, &change.links_removed);
        self.nlink.append_value(change.nlink);
        self.nlink_old.append_value(change.nlink_old);
        self.new.append(change.new);
        self.old.append(change.old);
        self.symlink_target.append_option(change.symlink_target.as_deref());
        append_xattrs(&mut self.xattr, change.xattrs.as_deref());
        append_extents(&mut self.extents, &change.extents);
        self.data_bytes.append_value(change.data_bytes());
        for (builder, side) in [(&mut self.rare, change.new), (&mut self.rare_old, change.old)] {
            let side = side.unwrap_or_default();
            column::append_rare(builder, side.far_second, side.rare);
        }
        self.bytes += bytes_of(change);
    }

    fn is_full(&self) -> bool {
        let lists = [&self.links_added, &self.links_removed, &self.xattr, &self.extents];
        self.inode.len() >= BATCH_ROWS
            || self.bytes >= BATCH_BYTES
            || lists.iter().any(|l| l.values_ref().len() >= BATCH_ITEMS)
    }

    fn finish(&mut self, schema: &Arc<Schema>) -> RecordBatch {
        self.bytes = 0;
        let change: Vec<Arc<dyn Array>> =
            self.change.iter_mut().map(|b| Arc::new(b.finish()) as Arc<dyn Array>).collect();
        let mut columns: Vec<Arc<dyn Array>> = vec![
            Arc::new(self.inode.finish()),
            Arc::new(self.generation.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.path.text.finish()),
            Arc::new(self.old_path.text.finish()),
            Arc::new(self.path.raw.finish()),
            Arc::new(self.old_path.raw.finish()),
            Arc::new(StructArray::new(flag_fields(), change, None)),
            Arc::new(self.links_added.finish()),
            Arc::new(self.links_removed.finish()),
            Arc::new(self.nlink.finish()),
            Arc::new(self.nlink_old.finish()),
        ];
        columns
            .extend(self.new.finish().into_iter().zip(self.old.finish()).flat_map(|(new, old)| [new, old]));
        columns.extend([
            Arc::new(self.symlink_target.finish()) as Arc<dyn Array>,
            Arc::new(self.xattr.finish()),
            Arc::new(self.extents.finish()),
            Arc::new(self.data_bytes.finish()),
            Arc::new(self.rare.finish()),
            Arc::new(self.rare_old.finish()),
        ]);
        RecordBatch::try_new(schema.clone(), columns).expect("the builders follow the schema")
    }
}

/// What is as long as it likes.
fn bytes_of(change: &Change) -> usize {
    let paths = [&change.path, &change.old_path].into_iter().flatten().map(|path| path.as_bytes().len());
    let names = change.links_added.iter().chain(&change.links_removed).map(|link| link.name.len());
    let xattrs = change.xattrs.iter().flatten().map(|xattr| xattr.name.len() + xattr.value.len());
    paths.chain(names).chain(xattrs).sum::<usize>() + change.symlink_target.as_ref().map_or(0, |t| t.len())
}

fn flags_to_array(f: ChangeFlags) -> [bool; 7] {
    [f.created, f.deleted, f.renamed, f.data, f.attributes, f.xattrs, f.links]
}

fn append_extents(list: &mut column::StructList, extents: &[Extent]) {
    for extent in extents {
        let item = list.values();
        field::<UInt64Builder>(item, 0).append_value(extent.offset);
        field::<UInt64Builder>(item, 1).append_value(extent.length);
        field::<StringBuilder>(item, 2).append_value(extent.op.name());
        field::<StringBuilder>(item, 3).append_option(extent.source.map(|s| s.end.name()));
        field::<UInt64Builder>(item, 4).append_option(extent.source.map(|s| s.ino));
        field::<UInt64Builder>(item, 5).append_option(extent.source.map(|s| s.offset));
        let checksum = field::<FixedSizeBinaryBuilder>(item, 6);
        match extent.checksum {
            Some(hash) => checksum.append_value(hash).expect("a hash has 32 bytes"),
            None => checksum.append_null(),
        }
        item.append(true);
    }
    list.append(true);
}

/// Writes changes, which must come sorted by inode, a deleted one before a created one.
pub struct ManifestWriter {
    file: BatchWriter,
    schema: Arc<Schema>,
    builders: Builders,
    counts: Counts,
    batches: u64,
}

impl ManifestWriter {
    pub fn create(file: &(impl Named + ?Sized), header: &Header) -> Result<ManifestWriter> {
        let schema = Arc::new(schema(header));
        let file = BatchWriter::create(file, &schema, CompressionType::ZSTD)?;
        Ok(ManifestWriter { file, schema, builders: Builders::new(), counts: Counts::default(), batches: 0 })
    }

    pub fn write(&mut self, change: &Change) -> Result<()> {
        self.counts.add(change);
        self.builders.append(change);
        if self.builders.is_full() { self.end_batch() } else { Ok(()) }
    }

    fn end_batch(&mut self) -> Result<()> {
        self.batches += 1;
        self.file.write(&self.builders.finish(&self.schema))
    }

    /// On the disk when this returns.
    pub fn finish(mut self) -> Result<Counts> {
        self.end_batch()?;
        let (file, path) = self.file.finish()?;
        fill_in_totals(file, &self.counts, self.batches).context("write", path)?;
        Ok(self.counts)
    }
}

/// The schema stands near both ends of the file: within this many bytes.
const ENDS: u64 = 1 << 16;

fn fill_in_totals(mut file: File, counts: &Counts, batches: u64) -> std::io::Result<()> {
    let values =
        [counts.rows, counts.created, counts.changed, counts.renamed, counts.deleted, counts.data_bytes];
    let size = file.metadata()?.len();
    // The footer also lists the batches, 24 bytes each.
    let footer = ENDS + batches * 24;
    for start in [0, size.saturating_sub(footer)] {
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&file).take(footer.max(ENDS)).read_to_end(&mut bytes)?;
        for (at, value) in values.iter().enumerate() {
            let mark = placeholder(at);
            let places: Vec<usize> = bytes
                .windows(DIGITS)
                .enumerate()
                .filter(|(_, w)| *w == mark.as_bytes())
                .map(|(i, _)| i)
                .collect();
            for place in places {
                file.seek(SeekFrom::Start(start + place as u64))?;
                file.write_all(format!("{value:0DIGITS$}").as_bytes())?;
            }
        }
    }
    file.sync_all()
}

/// The changes of a manifest, in order.
pub struct ManifestReader {
    file: BatchReader,
    /// Those of a batch that are still to come, each with its place among all rows.
    rows: std::vec::IntoIter<(u64, Change)>,
    /// Rows of the batches that were read.
    read: u64,
}

impl ManifestReader {
    pub fn open(file: &(impl Named + ?Sized)) -> Result<ManifestReader> {
        let file = BatchReader::open(file, &schema(&Header::default()), NEWER)?;
        Ok(ManifestReader { file, rows: Vec::new().into_iter(), read: 0 })
    }

    pub fn header(&self) -> Result<Header> {
        let schema = self.file.schema();
        let text = |key: &str| schema.metadata().get(&format!("snapsync.{key}")).cloned().unwrap_or_default();
        Ok(Header {
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

    /// Only the changes that are wanted; the rest of other rows is passed over unread.
    pub fn only<F: Fn(&Brief) -> bool + Sync>(self, wanted: F) -> Only<F> {
        Only { reader: self, wanted }
    }

    /// The rows of the next batch, beside those that the iterator has begun with.
    pub(crate) fn next_rows(
        &mut self,
        wanted: impl Fn(&Brief) -> bool + Sync,
    ) -> Option<Result<Vec<Change>>> {
        let rows = self.next_numbered(wanted)?;
        Some(rows.map(|rows| rows.into_iter().map(|(_, change)| change).collect()))
    }

    fn next_numbered(
        &mut self,
        wanted: impl Fn(&Brief) -> bool + Sync,
    ) -> Option<Result<Vec<(u64, Change)>>> {
        let batch = match self.file.next_batch()? {
            Ok(batch) => batch,
            Err(e) => return Some(Err(e)),
        };
        let first = self.read;
        self.read += batch.num_rows() as u64;
        Some(changes_of(&batch, first, wanted).map_err(|why| self.damaged(why)))
    }

    /// The rows of the batch number `at`.
    pub(crate) fn rows_at(&mut self, at: usize) -> Result<Vec<Change>> {
        let batch = self.file.batch_at(at)?;
        let rows = changes_of(&batch, 0, |_| true).map_err(|why| self.damaged(why))?;
        Ok(rows.into_iter().map(|(_, change)| change).collect())
    }

    fn next_wanted(&mut self, wanted: impl Fn(&Brief) -> bool + Sync) -> Option<Result<(u64, Change)>> {
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
}

impl<F: Fn(&Brief) -> bool + Sync> Iterator for Only<F> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        self.reader.next_wanted(&self.wanted).map(without_number)
    }
}

impl<F: Fn(&Brief) -> bool + Sync> Only<F> {
    /// Each with its place among all rows of the manifest.
    pub fn numbered(mut self) -> impl Iterator<Item = Result<(u64, Change)>> {
        std::iter::from_fn(move || self.reader.next_wanted(&self.wanted))
    }
}

fn without_number(row: Result<(u64, Change)>) -> Result<Change> {
    row.map(|(_, change)| change)
}

/// What a row tells at little cost, and by which it may be passed over.
#[derive(Clone, Copy, Debug)]
pub struct Brief {
    pub kind: Kind,
    pub flags: ChangeFlags,
    pub data_bytes: u64,
    pub has_clones: bool,
    /// How many names come, and how many go.
    pub added: usize,
    pub removed: usize,
    /// The directory of the first name that comes.
    pub parent: Option<u64>,
    /// `FS_*_FL` in the target.
    pub inode_flags: u32,
}

/// The columns of one batch, found once for all of its rows.
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

/// A path's text and, where that is not all of it, its bytes.
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

    fn brief(&self, row: usize) -> Result<Brief, &'static str> {
        let (added, links) = items_at(self.links_added, row);
        let parents = links.column(0).as_primitive::<UInt64Type>();
        let (extents, items) = items_at(self.extents, row);
        let sources = items.column(4);
        Ok(Brief {
            kind: kind_at(self.kind, row).ok_or("a kind is unknown")?,
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

/// `first` is the place of the batch's first row.
fn changes_of(
    batch: &RecordBatch,
    first: u64,
    wanted: impl Fn(&Brief) -> bool + Sync,
) -> Result<Vec<(u64, Change)>, &'static str> {
    let view = View::of(batch);
    let numbered = |row: usize| view.change(row).map(|change| (first + row as u64, change));
    let change = |row| match view.brief(row) {
        Ok(brief) => wanted(&brief).then(|| numbered(row)),
        Err(why) => Some(Err(why)),
    };
    (0..batch.num_rows()).into_par_iter().with_min_len(SIDE_BY_SIDE).filter_map(change).collect()
}

/// What every later stage relies on, whoever wrote the file.
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

impl PathView<'_> {
    fn at(&self, row: usize) -> Result<Option<RelPath>, &'static str> {
        let text = optional(self.text, row, || self.text.value(row));
        let raw = optional(self.raw, row, || self.raw.value(row));
        // Or people would be shown another path than the one that counts.
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

    /// All of them, or none.
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
    // The inner option: no source. The outer one: none of ours.
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
