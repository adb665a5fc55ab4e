//! The inode table of a pool snapshot: one row an inode, with the pool object that holds its data.

use crate::column::{
    self, Columns, append_links, append_ranges, append_xattrs, bytes_at, kind_at, link_list, links_at,
    list_of, range_list, ranges_at, timestamp, timestamp_builder, xattr_list, xattrs_at,
};
use crate::file::{BatchReader, BatchWriter};
use crate::{BATCH_ITEMS, BATCH_ROWS};
use arrow_array::RecordBatch;
use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, StringBuilder, TimestampNanosecondBuilder, UInt32Builder, UInt64Builder,
};
use arrow_schema::{DataType, Field, Schema};
use snapsync_model::{Attributes, Context, Details, Inode, Kind, Result};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// What the whole table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// When the walk that made it began, in ns since 1970: an inode whose change time is not clearly older
    /// may have changed again unseen.
    pub walk_started: i64,
}

fn schema(info: TableInfo) -> Schema {
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
    ])
    .with_metadata(HashMap::from([
        ("snapsync.table".to_owned(), "1".to_owned()),
        ("snapsync.walk_started".to_owned(), info.walk_started.to_string()),
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
    pub fn create(path: &Path, info: TableInfo) -> Result<TableWriter> {
        let schema = Arc::new(schema(info));
        Ok(TableWriter { file: BatchWriter::create(path, &schema)?, schema, builders: Builders::new() })
    }

    pub fn write(&mut self, inode: &Inode) -> Result<()> {
        self.builders.append(inode);
        if self.builders.is_full() {
            self.file.write(&self.builders.finish(&self.schema))?;
        }
        Ok(())
    }

    /// On the disk when this returns.
    pub fn finish(mut self, path: &Path) -> Result<()> {
        self.file.write(&self.builders.finish(&self.schema))?;
        self.file.finish()?.sync_all().context("sync", path)
    }
}

/// The inodes of a table, in order.
pub struct TableReader {
    file: BatchReader,
    only: Option<Kind>,
    rows: std::vec::IntoIter<Inode>,
}

impl TableReader {
    pub fn open(path: &Path) -> Result<TableReader> {
        let file = BatchReader::open(path, &schema(TableInfo { walk_started: 0 }))?;
        Ok(TableReader { file, only: None, rows: Vec::new().into_iter() })
    }

    /// The inodes of one kind: rows of others are passed over unread.
    pub fn only(path: &Path, kind: Kind) -> Result<TableReader> {
        Ok(TableReader { only: Some(kind), ..TableReader::open(path)? })
    }

    pub fn info(&self) -> Result<TableInfo> {
        let text = self.file.metadata("snapsync.walk_started")?;
        let walk_started =
            text.parse().map_err(|_| self.file.damaged("snapsync.walk_started is not a number"))?;
        Ok(TableInfo { walk_started })
    }
}

impl Iterator for TableReader {
    type Item = Result<Inode>;

    fn next(&mut self) -> Option<Result<Inode>> {
        loop {
            if let Some(inode) = self.rows.next() {
                return Some(Ok(inode));
            }
            let rows = match self.file.next_batch()? {
                Ok(batch) => {
                    inodes_of(&batch, self.only).ok_or_else(|| self.file.damaged("a kind is unknown"))
                }
                Err(e) => Err(e),
            };
            match rows {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

fn inodes_of(batch: &RecordBatch, only: Option<Kind>) -> Option<Vec<Inode>> {
    let columns = Columns(batch);
    let (ino, generation, kind) = (columns.u64("inode"), columns.u64("generation"), columns.text("kind"));
    let (size, mode, uid, gid) =
        (columns.u64("size"), columns.u32("mode"), columns.u32("uid"), columns.u32("gid"));
    let (rdev, mtime, ctime) = (columns.u64("rdev"), columns.time("mtime"), columns.time("ctime"));
    let (blocks, flags, object) = (columns.u64("blocks"), columns.u32("flags"), columns.u64("object"));
    let shared = columns.flag("shared");
    let (links, target) = (columns.list("links"), columns.binary("symlink_target"));
    let (xattr, unwritten) = (columns.list("xattr"), columns.list("unwritten"));
    let inode = |row| {
        Some(Inode {
            ino: ino.value(row),
            generation: generation.value(row),
            kind: kind_at(kind, row)?,
            attributes: Attributes {
                size: size.value(row),
                mode: mode.value(row),
                uid: uid.value(row),
                gid: gid.value(row),
                rdev: rdev.value(row),
                mtime: mtime.value(row),
                flags: flags.value(row),
            },
            ctime: ctime.value(row),
            blocks: blocks.value(row),
            links: links_at(links, row),
            details: Some(Box::new(Details {
                flags: flags.value(row),
                xattrs: xattrs_at(xattr, row).unwrap_or_default(),
                symlink_target: bytes_at(target, row),
                unwritten: ranges_at(unwritten, row),
            })),
            object: object.value(row),
            shared: shared.value(row),
        })
    };
    let is_wanted = |row: &usize| only.is_none_or(|only| kind.value(*row) == only.name());
    (0..batch.num_rows()).filter(is_wanted).map(inode).collect()
}
