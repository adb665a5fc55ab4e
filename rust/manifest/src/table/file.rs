//! The inode table of a pool snapshot: one row an inode, with the pool object that holds its data.

use crate::column::{
    self, Columns, append_links, append_ranges, append_xattrs, bytes_at, kind_at, link_list, links_are,
    links_at, list_of, range_list, ranges_at, timestamp, timestamp_builder, xattr_list, xattrs_at,
};
use crate::file::{BATCH_ITEMS, BATCH_ROWS, BatchReader, BatchWriter};
use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, StringBuilder, StructBuilder, TimestampNanosecondBuilder, UInt32Builder,
    UInt64Builder,
};
use arrow_array::{
    BinaryArray, BooleanArray, RecordBatch, StringArray, StructArray, TimestampNanosecondArray, UInt32Array,
    UInt64Array,
};
use arrow_ipc::CompressionType;
use arrow_schema::{DataType, Field, Schema};
use rayon::prelude::*;
use snapsync_model::{Attributes, Context, Details, Inode, Look, Result};
use snapsync_sys::Named;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// The least number of rows that one thread decodes.
const SIDE_BY_SIDE: usize = 256;

/// The metadata of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableInfo {
    /// When the walk that made it began, in ns since 1970.
    pub walk_started: i64,
    /// The whole table that this is, or that this is a patch of; None for version 1, which has no patches.
    pub whole: Option<Uuid>,
    /// Set if nothing of the tree is missing and each directory was read after its change time was taken. The
    /// value identifies the mounting of the file system.
    pub complete: Option<String>,
    /// The mounting during which the rows were last compared with the files, if their times prove anything.
    pub mounting: Option<String>,
    /// The version of the format. Version 3 keeps everything that `Attributes` has.
    pub version: u32,
}

impl TableInfo {
    /// Whether the next table can start from these rows as they are.
    pub fn is_current(&self) -> bool {
        self.whole.is_some() && self.version == VERSION
    }
}

pub(crate) const VERSION: u32 = 3;
/// The number of columns that version 2 lacks.
const NEWER: usize = 1;

const TABLE: &str = "snapsync.table";
const WALK_STARTED: &str = "snapsync.walk_started";
const WHOLE: &str = "snapsync.whole";
const COMPLETE: &str = "snapsync.complete";
const MOUNTING: &str = "snapsync.mounting";

fn schema(info: &TableInfo) -> Schema {
    let u64s = |name| Field::new(name, DataType::UInt64, false);
    let u32s = |name| Field::new(name, DataType::UInt32, false);
    Schema::new(vec![
        u64s("inode"),
        u64s("generation"),
        Field::new("kind", DataType::Utf8, false),
        u64s("size"),
        u32s("mode"),
        u32s("uid"),
        u32s("gid"),
        u64s("rdev"),
        Field::new("mtime", timestamp(), false),
        Field::new("ctime", timestamp(), false),
        u64s("blocks"),
        u32s("flags"),
        Field::new("links", list_of(column::link_fields()), false),
        Field::new("symlink_target", DataType::Binary, true),
        Field::new("xattr", list_of(column::xattr_fields()), false),
        Field::new("unwritten", list_of(column::range_fields()), false),
        u64s("object"),
        Field::new("shared", DataType::Boolean, false),
        Field::new("rare", DataType::Struct(column::rare_fields()), true),
    ])
    .with_metadata(HashMap::from([
        (TABLE.to_owned(), VERSION.to_string()),
        (WALK_STARTED.to_owned(), info.walk_started.to_string()),
        (WHOLE.to_owned(), info.whole.unwrap_or_default().to_string()),
        (MOUNTING.to_owned(), info.mounting.clone().unwrap_or_default()),
    ]))
}

struct Builders {
    inode: UInt64Builder,
    generation: UInt64Builder,
    kind: StringBuilder,
    size: UInt64Builder,
    mode: UInt32Builder,
    uid: UInt32Builder,
    gid: UInt32Builder,
    rdev: UInt64Builder,
    mtime: TimestampNanosecondBuilder,
    ctime: TimestampNanosecondBuilder,
    blocks: UInt64Builder,
    flags: UInt32Builder,
    links: column::StructList,
    symlink_target: BinaryBuilder,
    xattr: column::StructList,
    unwritten: column::StructList,
    object: UInt64Builder,
    shared: BooleanBuilder,
    rare: StructBuilder,
}

impl Builders {
    fn new() -> Self {
        Builders {
            inode: UInt64Builder::new(),
            generation: UInt64Builder::new(),
            kind: StringBuilder::new(),
            size: UInt64Builder::new(),
            mode: UInt32Builder::new(),
            uid: UInt32Builder::new(),
            gid: UInt32Builder::new(),
            rdev: UInt64Builder::new(),
            mtime: timestamp_builder(),
            ctime: timestamp_builder(),
            blocks: UInt64Builder::new(),
            flags: UInt32Builder::new(),
            links: link_list(),
            symlink_target: BinaryBuilder::new(),
            xattr: xattr_list(),
            unwritten: range_list(),
            object: UInt64Builder::new(),
            shared: BooleanBuilder::new(),
            rare: column::rare_builder(),
        }
    }

    fn append(&mut self, inode: &Inode) {
        let none = Details::default();
        let details = inode.details.as_deref().unwrap_or(&none);
        let attributes = inode.attributes;
        self.inode.append_value(inode.ino);
        self.generation.append_value(inode.generation);
        self.kind.append_value(inode.kind.name());
        self.size.append_value(attributes.size);
        self.mode.append_value(attributes.mode);
        self.uid.append_value(attributes.uid);
        self.gid.append_value(attributes.gid);
        self.rdev.append_value(attributes.rdev);
        self.mtime.append_value(attributes.mtime);
        self.ctime.append_value(inode.ctime);
        self.blocks.append_value(inode.blocks);
        self.flags.append_value(details.flags);
        append_links(&mut self.links, &inode.links);
        self.symlink_target.append_option(details.symlink_target.as_deref());
        append_xattrs(&mut self.xattr, Some(&details.xattrs));
        append_ranges(&mut self.unwritten, &details.unwritten);
        self.object.append_value(inode.object);
        self.shared.append_value(inode.shared);
        column::append_rare(&mut self.rare, attributes.far_second, details.rare);
    }

    fn is_full(&self) -> bool {
        use arrow_array::builder::ArrayBuilder;
        self.inode.len() >= BATCH_ROWS
            || [&self.links, &self.xattr, &self.unwritten].iter().any(|l| l.values_ref().len() >= BATCH_ITEMS)
    }

    fn finish(&mut self, schema: &Arc<Schema>) -> RecordBatch {
        RecordBatch::try_new(
            schema.clone(),
            vec![
                Arc::new(self.inode.finish()),
                Arc::new(self.generation.finish()),
                Arc::new(self.kind.finish()),
                Arc::new(self.size.finish()),
                Arc::new(self.mode.finish()),
                Arc::new(self.uid.finish()),
                Arc::new(self.gid.finish()),
                Arc::new(self.rdev.finish()),
                Arc::new(self.mtime.finish()),
                Arc::new(self.ctime.finish()),
                Arc::new(self.blocks.finish()),
                Arc::new(self.flags.finish()),
                Arc::new(self.links.finish()),
                Arc::new(self.symlink_target.finish()),
                Arc::new(self.xattr.finish()),
                Arc::new(self.unwritten.finish()),
                Arc::new(self.object.finish()),
                Arc::new(self.shared.finish()),
                Arc::new(self.rare.finish()),
            ],
        )
        .expect("the builders follow the schema")
    }
}

/// Writes inodes, which must come sorted.
pub struct TableWriter {
    file: BatchWriter,
    schema: Arc<Schema>,
    builders: Builders,
}

impl TableWriter {
    pub fn create(file: &(impl Named + ?Sized), info: &TableInfo) -> Result<TableWriter> {
        let schema = Arc::new(schema(info));
        // It is read often and mostly shared by many snapshots, so speed matters more than size.
        let file = BatchWriter::create(file, &schema, CompressionType::LZ4_FRAME)?;
        Ok(TableWriter { file, schema, builders: Builders::new() })
    }

    pub fn write(&mut self, inode: &Inode) -> Result<()> {
        self.builders.append(inode);
        if self.builders.is_full() {
            self.file.write(&self.builders.finish(&self.schema))?;
        }
        Ok(())
    }

    /// Finishes the table, which is on the disk when this returns.
    pub fn finish(mut self, complete: Option<&str>) -> Result<()> {
        self.file.write(&self.builders.finish(&self.schema))?;
        if let Some(complete) = complete {
            self.file.note(COMPLETE, complete);
        }
        let (file, path) = self.file.finish()?;
        file.sync_all().context("sync", path)
    }
}

/// The inodes of a table, in order.
pub struct TableReader {
    file: BatchReader,
    rows: std::vec::IntoIter<Inode>,
}

impl TableReader {
    pub fn open(file: &(impl Named + ?Sized)) -> Result<TableReader> {
        let file = BatchReader::open(file, &schema(&TableInfo::default()), NEWER)?;
        Ok(TableReader { file, rows: Vec::new().into_iter() })
    }

    pub fn info(&self) -> Result<TableInfo> {
        let text = self.file.metadata(WALK_STARTED)?;
        let walk_started =
            text.parse().map_err(|_| self.file.damaged("snapsync.walk_started is not a number"))?;
        let (schema, whole) = (self.file.schema(), whole_of(&self.file)?);
        let version = self.file.number(TABLE)?.try_into().unwrap_or(0);
        // An older version does not tell everything about an inode.
        let complete = self.file.noted(COMPLETE).filter(|_| version == VERSION).cloned();
        let mounting = schema.metadata().get(MOUNTING).filter(|text| !text.is_empty()).cloned();
        Ok(TableInfo { walk_started, whole, complete, mounting, version })
    }

    pub(crate) fn batches(&self) -> usize {
        self.file.batches()
    }

    fn next_batch(&mut self) -> Option<Result<TableBatch>> {
        Some(self.file.next_batch()?.map(TableBatch))
    }

    pub(crate) fn batch_at(&mut self, at: usize) -> Result<TableBatch> {
        self.file.batch_at(at).map(TableBatch)
    }

    fn inodes_of(&self, batch: &TableBatch) -> Result<Vec<Inode>> {
        let view = batch.view();
        let rows = (0..view.len()).into_par_iter().with_min_len(SIDE_BY_SIDE);
        rows.map(|row| view.inode(row))
            .collect::<Option<_>>()
            .ok_or_else(|| self.file.damaged("a kind is unknown"))
    }
}

impl Iterator for TableReader {
    type Item = Result<Inode>;

    fn next(&mut self) -> Option<Result<Inode>> {
        loop {
            if let Some(inode) = self.rows.next() {
                return Some(Ok(inode));
            }
            match self.next_batch()?.and_then(|batch| self.inodes_of(&batch)) {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

fn whole_of(file: &BatchReader) -> Result<Option<Uuid>> {
    let whole = file.schema().metadata().get(WHOLE).map(|text| text.parse()).transpose();
    whole.map_err(|_| file.damaged("snapsync.whole is no table's id"))
}

/// Some columns of a table: numbers with names and kinds, numbers with objects, or only numbers.
pub(crate) struct ColumnsReader(BatchReader);

/// The positions of these columns in the schema.
const INODE: usize = 0;
const KIND: usize = 2;
/// Number, generation, kind, size, mode, owner, times, blocks and the rare attributes.
const LOOK: [usize; 11] = [INODE, 1, KIND, 3, 4, 5, 6, 8, 9, 10, 18];
const LINKS: usize = 12;
const OBJECT: usize = 16;

impl ColumnsReader {
    pub(crate) fn names(file: &(impl Named + ?Sized)) -> Result<ColumnsReader> {
        let schema = schema(&TableInfo::default());
        BatchReader::open_some(file, &schema, NEWER, Some(&[INODE, KIND, LINKS])).map(ColumnsReader)
    }

    /// The numbers of inodes and of their objects.
    pub(crate) fn objects(file: &(impl Named + ?Sized)) -> Result<ColumnsReader> {
        let schema = schema(&TableInfo::default());
        BatchReader::open_some(file, &schema, NEWER, Some(&[INODE, OBJECT])).map(ColumnsReader)
    }

    /// The columns that one stat of an inode tells.
    pub(crate) fn looks(file: &(impl Named + ?Sized)) -> Result<ColumnsReader> {
        let schema = schema(&TableInfo::default());
        BatchReader::open_some(file, &schema, NEWER, Some(&LOOK)).map(ColumnsReader)
    }

    /// Only the numbers.
    pub(crate) fn numbers(file: &(impl Named + ?Sized)) -> Result<ColumnsReader> {
        let schema = schema(&TableInfo::default());
        BatchReader::open_some(file, &schema, NEWER, Some(&[INODE])).map(ColumnsReader)
    }

    /// The whole table that this is, or is a patch of.
    pub(crate) fn whole(&self) -> Result<Option<Uuid>> {
        whole_of(&self.0)
    }

    pub(crate) fn batches(&self) -> usize {
        self.0.batches()
    }

    pub(crate) fn batch_at(&mut self, at: usize) -> Result<SomeColumns> {
        self.0.batch_at(at).map(SomeColumns)
    }
}

pub(crate) struct SomeColumns(RecordBatch);

impl SomeColumns {
    pub(crate) fn numbers(&self) -> &[u64] {
        Columns(&self.0).u64("inode").values()
    }

    pub(crate) fn objects(&self) -> &[u64] {
        Columns(&self.0).u64("object").values()
    }

    /// None if a kind is unknown.
    pub(crate) fn looks(&self) -> Option<Vec<Look>> {
        let columns = Columns(&self.0);
        let (generation, kind, size) = (columns.u64("generation"), columns.text("kind"), columns.u64("size"));
        let (mode, uid, gid) = (columns.u32("mode"), columns.u32("uid"), columns.u32("gid"));
        let (mtime, ctime, blocks) = (columns.time("mtime"), columns.time("ctime"), columns.u64("blocks"));
        let rare = columns.perhaps("rare");
        let look = |(row, ino): (usize, &u64)| {
            let attributes = Attributes {
                size: size.value(row),
                mode: mode.value(row),
                uid: uid.value(row),
                gid: gid.value(row),
                mtime: mtime.value(row),
                ..Attributes::default()
            };
            let attributes = column::with_rare(rare, row, attributes);
            let (ctime, blocks) = (ctime.value(row), blocks.value(row));
            Some(Look::of(*ino, generation.value(row), kind_at(kind, row)?, attributes, ctime, blocks))
        };
        self.numbers().iter().enumerate().map(look).collect()
    }

    /// Calls `act` with every name in every row.
    pub(crate) fn each(&self, mut act: impl FnMut(NameRow<'_>)) {
        let columns = Columns(&self.0);
        let (kinds, links) = (columns.text("kind"), columns.list("links"));
        for (row, ino) in self.numbers().iter().copied().enumerate() {
            let kind = kinds.value(row);
            column::each_link(links, row)
                .for_each(|(parent, name)| act(NameRow { row, ino, kind, parent, name }));
        }
    }
}

/// One of the names in a row.
pub(crate) struct NameRow<'a> {
    pub(crate) row: usize,
    pub(crate) ino: u64,
    pub(crate) kind: &'a str,
    pub(crate) parent: u64,
    pub(crate) name: &'a [u8],
}

/// Some rows of a table.
pub struct TableBatch(RecordBatch);

impl TableBatch {
    pub fn view(&self) -> TableView<'_> {
        let columns = Columns(&self.0);
        TableView {
            ino: columns.u64("inode"),
            generation: columns.u64("generation"),
            kind: columns.text("kind"),
            size: columns.u64("size"),
            mode: columns.u32("mode"),
            uid: columns.u32("uid"),
            gid: columns.u32("gid"),
            rdev: columns.u64("rdev"),
            mtime: columns.time("mtime"),
            ctime: columns.time("ctime"),
            blocks: columns.u64("blocks"),
            flags: columns.u32("flags"),
            links: columns.list("links"),
            symlink_target: columns.binary("symlink_target"),
            xattr: columns.list("xattr"),
            unwritten: columns.list("unwritten"),
            object: columns.u64("object"),
            shared: columns.flag("shared"),
            rare: columns.perhaps("rare"),
        }
    }
}

/// The columns of some rows, looked up once for all of them.
pub struct TableView<'a> {
    ino: &'a UInt64Array,
    generation: &'a UInt64Array,
    kind: &'a StringArray,
    size: &'a UInt64Array,
    mode: &'a UInt32Array,
    uid: &'a UInt32Array,
    gid: &'a UInt32Array,
    rdev: &'a UInt64Array,
    mtime: &'a TimestampNanosecondArray,
    ctime: &'a TimestampNanosecondArray,
    blocks: &'a UInt64Array,
    flags: &'a UInt32Array,
    links: &'a column::List,
    symlink_target: &'a BinaryArray,
    xattr: &'a column::List,
    unwritten: &'a column::List,
    object: &'a UInt64Array,
    shared: &'a BooleanArray,
    rare: Option<&'a StructArray>,
}

impl TableView<'_> {
    pub fn len(&self) -> usize {
        self.ino.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ino.is_empty()
    }

    /// The numbers of all rows, sorted.
    pub fn numbers(&self) -> &[u64] {
        self.ino.values()
    }

    /// None if its kind is unknown.
    pub fn inode(&self, row: usize) -> Option<Inode> {
        let attributes = self.attributes(row);
        Some(Inode {
            ino: self.ino.value(row),
            generation: self.generation.value(row),
            kind: kind_at(self.kind, row)?,
            attributes,
            ctime: self.ctime.value(row),
            blocks: self.blocks.value(row),
            links: links_at(self.links, row),
            details: Some(Box::new(Details {
                flags: attributes.flags,
                rare: attributes.rare,
                xattrs: xattrs_at(self.xattr, row).unwrap_or_default(),
                symlink_target: bytes_at(self.symlink_target, row),
                unwritten: ranges_at(self.unwritten, row),
            })),
            object: self.object.value(row),
            shared: self.shared.value(row),
        })
    }

    fn attributes(&self, row: usize) -> Attributes {
        let attributes = Attributes {
            size: self.size.value(row),
            mode: self.mode.value(row),
            uid: self.uid.value(row),
            gid: self.gid.value(row),
            rdev: self.rdev.value(row),
            mtime: self.mtime.value(row),
            flags: self.flags.value(row),
            ..Attributes::default()
        };
        column::with_rare(self.rare, row, attributes)
    }

    /// Whether a walked inode matches the row in everything but details and object.
    pub fn says(&self, row: usize, walked: &Inode) -> bool {
        self.ino.value(row) == walked.ino
            && self.generation.value(row) == walked.generation
            && self.ctime.value(row) == walked.ctime
            && self.blocks.value(row) == walked.blocks
            && self.attributes(row).bare() == walked.attributes.bare()
            && self.kind.value(row) == walked.kind.name()
            && links_are(self.links, row, &walked.links)
    }
}
