//! Writes a manifest once, in batches; its totals are filled in at the end.

use crate::changes::attributes::AttributeBuilders;
use crate::changes::schema::{DIGITS, ManifestHeader, extent_fields, flag_fields, placeholder, schema};
use crate::column::{self, append_links, append_xattrs, field, link_list, struct_list, xattr_list};
use crate::file::{BATCH_BYTES, BATCH_ITEMS, BATCH_ROWS, BatchWriter};
use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, StringBuilder, StructBuilder,
    UInt32Builder, UInt64Builder,
};
use arrow_array::{Array, RecordBatch, StructArray};
use arrow_ipc::CompressionType;
use arrow_schema::Schema;
use snapsync_model::{Change, ChangeFlags, Context, Counts, Extent, RelPath, Result};
use snapsync_sys::Named;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

/// A path as text, and its bytes if they are not UTF-8.
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
    /// The bytes of names, paths and values.
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

/// The bytes of the values that have no fixed size.
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

/// Writes changes, which must come sorted by inode, with a deleted one before a created one.
pub struct ManifestWriter {
    file: BatchWriter,
    schema: Arc<Schema>,
    builders: Builders,
    counts: Counts,
    batches: u64,
}

impl ManifestWriter {
    pub fn create(file: &(impl Named + ?Sized), header: &ManifestHeader) -> Result<ManifestWriter> {
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

    /// Finishes the file, which is on the disk when this returns.
    pub fn finish(mut self) -> Result<Counts> {
        self.end_batch()?;
        let (file, path) = self.file.finish()?;
        fill_in_totals(file, &self.counts, self.batches).context("write", path)?;
        Ok(self.counts)
    }
}

/// The schema stands within this many bytes of both ends of the file.
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
    Ok(())
}
