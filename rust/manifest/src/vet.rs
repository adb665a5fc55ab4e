//! Checks a change manifest of unknown origin. The Arrow reader trusts a file wherever a lie costs only a
//! panic or an allocation, so everything that it relies on is checked before.
//!
//! Decompression needs no check of its own: it unpacks each buffer at once into the length claimed for it,
//! which is bounded here, and refuses any other length.

use crate::changes::read::ManifestReader;
use crate::changes::schema::{
    FORMAT, MOST_EXTENTS, MOST_LINKS, MOST_XATTRS, OLDER, columns_of_changes, columns_of_older_changes,
};
use crate::file::{BATCH_ITEMS, BATCH_ROWS, damaged};
use arrow_ipc::{
    Block, Buffer, CompressionType, FieldNode, Footer, KeyValue, MessageHeader, MetadataVersion, RecordBatch,
    root_as_footer, root_as_message,
};
use arrow_schema::{DataType, Field, Fields};
use snapsync_model::{Context, Error, Result};
use snapsync_sys::Named;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The most bytes of one batch, unpacked or in the file.
pub(crate) const MOST_BYTES: u64 = 512 << 20;

const MAGIC: &[u8; 6] = b"ARROW1";
/// The end of the file: the length of the footer, and the magic.
const TAIL: u64 = 10;
/// The largest footer; each batch takes 24 bytes of it.
const MOST_FOOTER: u64 = 32 << 20;
/// The largest description of where the columns of a batch are.
const MOST_MESSAGE: u64 = 64 << 10;
/// The most bytes of text in the schema.
const MOST_METADATA: usize = 64 << 10;
const MOST_KEYS: usize = 64;
/// Marks a message of the current format; its length follows.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// The bytes before a buffer, which give its unpacked length or say that it is not packed.
const PREFIX: u64 = 8;
const STORED: i64 = -1;
/// The size of the offset where an item of a list or a text begins.
const OFFSET: u64 = 4;

/// Why the check of a file stops.
enum Stop {
    Damaged(&'static str),
    Failed(io::Error),
}

impl From<&'static str> for Stop {
    fn from(why: &'static str) -> Stop {
        Stop::Damaged(why)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Stop::Damaged("it ends early"),
            _ => Stop::Failed(error),
        }
    }
}

type Attempt<T> = std::result::Result<T, Stop>;

/// Proves that a file of unknown origin is a change manifest that can be read without a panic, in bounded
/// memory, and with sound values in every row. Whether the rows agree with each other is not checked.
pub fn vet(manifest: &(impl Named + ?Sized)) -> Result<()> {
    let path = &*manifest.show();
    let file = manifest.open().context("open", path)?;
    look(&file).map_err(|stop| match stop {
        Stop::Damaged(why) => damaged(path, why),
        Stop::Failed(source) => Error::Io { action: "read", path: path.to_path_buf(), source },
    })?;
    // No file is known that makes it panic after these checks, but the reader is not our code.
    catch_unwind(AssertUnwindSafe(|| read(manifest)))
        .unwrap_or_else(|_| Err(damaged(path, "the Arrow reader gave up on it")))
}

fn read(manifest: &(impl Named + ?Sized)) -> Result<()> {
    let mut reader = ManifestReader::open(manifest)?;
    if ![FORMAT, OLDER].contains(&&*reader.format()?) {
        return Err(damaged(&manifest.show(), "its format is not the one of this version"));
    }
    reader.counts()?;
    reader.try_for_each(|row| row.map(drop))
}

fn look(file: &File) -> Attempt<()> {
    let size = file.metadata()?.len();
    let bytes = footer_bytes(file, size)?;
    let footer = root_as_footer(&bytes).map_err(|_| "its footer is damaged")?;
    let count = footer.schema().and_then(|schema| schema.fields()).map_or(0, |fields| fields.len());
    let older = columns_of_older_changes();
    let fields = if count == older.len() { older } else { columns_of_changes() };
    look_at_footer(&footer, &fields)?;
    let end = size - TAIL - bytes.len() as u64;
    let mut at = MAGIC.len() as u64;
    for block in footer.recordBatches().ok_or("its footer names no batches")? {
        at = look_at_block(file, block, (at, end), &fields)?;
    }
    Ok(())
}

fn footer_bytes(file: &File, size: u64) -> Attempt<Vec<u8>> {
    let mut head = [0; MAGIC.len()];
    file.read_exact_at(&mut head, 0)?;
    let mut tail = [0; TAIL as usize];
    file.read_exact_at(&mut tail, size.checked_sub(TAIL).ok_or("it ends early")?)?;
    let (length, magic) = tail.split_at(4);
    if head != *MAGIC || magic != MAGIC {
        return Err("it is no Arrow file".into());
    }
    let length = length.try_into().map(i32::from_le_bytes).map_err(|_| "it ends early")?;
    let length = u64::try_from(length).map_err(|_| "its footer has no proper length")?;
    if length > MOST_FOOTER || length + TAIL + MAGIC.len() as u64 > size {
        return Err("its footer has no proper length".into());
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, size - TAIL - length)?;
    Ok(bytes)
}

/// The schema is compared before it is copied, because parts of a flatbuffer may be shared, and a copy
/// multiplies them.
fn look_at_footer(footer: &Footer<'_>, fields: &Fields) -> Attempt<()> {
    if footer.version() != MetadataVersion::V5 {
        return Err("its version of Arrow is another one".into());
    }
    if footer.dictionaries().is_some_and(|all| !all.is_empty())
        || footer.custom_metadata().is_some_and(|all| !all.is_empty())
    {
        return Err("its footer holds what no manifest has".into());
    }
    let schema = footer.schema().ok_or("it has no schema")?;
    let found = schema.fields().ok_or("it has no columns")?;
    if found.len() != fields.len() || !found.iter().zip(fields).all(|(found, field)| is_like(found, field)) {
        return Err("its columns are not the ones of this version".into());
    }
    let texts: Vec<KeyValue<'_>> =
        schema.custom_metadata().into_iter().flatten().take(MOST_KEYS + 1).collect();
    let length = |text: Option<&str>| text.map_or(0, str::len);
    let bytes: usize = texts.iter().map(|text| length(text.key()) + length(text.value())).sum();
    if texts.len() > MOST_KEYS || bytes > MOST_METADATA {
        return Err("its metadata is too large".into());
    }
    Ok(())
}

/// Compares everything that has no limit of its own. The rest of the types is compared when the file is
/// opened.
fn is_like(found: arrow_ipc::Field<'_>, field: &Field) -> bool {
    let below = children(field);
    let children = found.children();
    found.name() == Some(field.name())
        && found.nullable() == field.is_nullable()
        && found.dictionary().is_none()
        && found.custom_metadata().is_none_or(|all| all.is_empty())
        && children.map_or(0, |all| all.len()) == below.len()
        && children.into_iter().flatten().zip(below).all(|(found, field)| is_like(found, field))
}

fn children(field: &Field) -> Vec<&Field> {
    match field.data_type() {
        DataType::List(item) => vec![item],
        DataType::Struct(fields) => fields.iter().map(|field| &**field).collect(),
        _ => Vec::new(),
    }
}

/// Blocks must follow each other, so that no byte is unpacked twice. Returns where this one ends.
fn look_at_block(file: &File, block: &Block, (at, end): (u64, u64), fields: &Fields) -> Attempt<u64> {
    let number = |value: i64| u64::try_from(value).map_err(|_| "a batch has no proper place");
    let (offset, body) = (number(block.offset())?, number(block.bodyLength())?);
    let message = number(i64::from(block.metaDataLength()))?;
    let is_within = offset.checked_add(message + body).is_some_and(|to| to <= end);
    if offset < at || !is_within || body > MOST_BYTES || !(16..=MOST_MESSAGE).contains(&message) {
        return Err("a batch has no proper place".into());
    }
    let mut bytes = vec![0; message as usize];
    file.read_exact_at(&mut bytes, offset)?;
    if bytes[..4] != CONTINUATION {
        return Err("a batch has no message".into());
    }
    let found = root_as_message(&bytes[8..]).map_err(|_| "the message of a batch is damaged")?;
    if found.version() != MetadataVersion::V5 || found.header_type() != MessageHeader::RecordBatch {
        return Err("a batch is of another kind".into());
    }
    let batch = found.header_as_record_batch().ok_or("a batch is of another kind")?;
    look_at_batch(file, &batch, (offset + message, body), fields)?;
    Ok(offset + message + body)
}

fn look_at_batch(file: &File, batch: &RecordBatch<'_>, body: (u64, u64), fields: &Fields) -> Attempt<()> {
    let packed = batch.compression().is_some_and(|packing| packing.codec() == CompressionType::ZSTD);
    if !packed || batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
        return Err("a batch is packed in another way".into());
    }
    let rows = usize::try_from(batch.length()).ok().filter(|rows| *rows <= BATCH_ROWS);
    let rows = rows.ok_or("a batch has too many rows")?;
    let mut nodes = batch.nodes().ok_or("a batch has no columns")?.iter();
    let mut shapes = Shapes { nodes: &mut nodes, widths: Vec::new() };
    for field in fields {
        shapes.column(field, rows)?;
    }
    let widths = shapes.widths;
    let buffers = batch.buffers().ok_or("a batch has no columns")?;
    if nodes.next().is_some() || buffers.len() != widths.len() {
        return Err("a batch has other columns".into());
    }
    let (mut at, mut unpacked) = (0, 0);
    for (buffer, width) in buffers.iter().zip(widths) {
        let bytes = look_at_buffer(file, buffer, body, &mut at)?;
        if bytes % width != 0 {
            return Err("a buffer ends within a value".into());
        }
        unpacked += bytes;
        if unpacked > MOST_BYTES {
            return Err("a batch is too large".into());
        }
    }
    Ok(())
}

/// The number of values of each column and each list of a batch.
struct Shapes<'n, N> {
    nodes: &'n mut N,
    /// For each buffer of the columns so far, the bytes of one value. Arrow panics if some are left over.
    widths: Vec<u64>,
}

impl<'a, N: Iterator<Item = &'a FieldNode>> Shapes<'_, N> {
    fn column(&mut self, field: &Field, rows: usize) -> Attempt<()> {
        let found = self.next(field)?;
        if found != rows {
            Err("a column has other rows than its batch".into())
        } else {
            self.below(field, rows)
        }
    }

    fn below(&mut self, field: &Field, values: usize) -> Attempt<()> {
        match field.data_type() {
            DataType::List(item) => {
                self.widths.extend([1, OFFSET]);
                let items = self.next(item)?;
                if items > BATCH_ITEMS + most_items(field.name()) {
                    return Err("a list is too long".into());
                }
                self.below(item, items)
            }
            DataType::Struct(fields) => {
                self.widths.push(1);
                fields.iter().try_for_each(|field| self.column(field, values))
            }
            DataType::Utf8 | DataType::Binary => {
                self.widths.extend([1, OFFSET, 1]);
                Ok(())
            }
            other => {
                self.widths.extend([1, other.primitive_width().unwrap_or(1) as u64]);
                Ok(())
            }
        }
    }

    /// The number of values of the next column or list.
    fn next(&mut self, field: &Field) -> Attempt<usize> {
        let node = self.nodes.next().ok_or("a batch has other columns")?;
        let values = usize::try_from(node.length()).map_err(|_| "a column has no proper length")?;
        let most_nulls = if field.is_nullable() { node.length() } else { 0 };
        if !(0..=most_nulls).contains(&node.null_count()) {
            return Err("a column has nulls where none may be".into());
        }
        Ok(values)
    }
}

/// The most items of one row, in addition to those after which a batch ends.
fn most_items(name: &str) -> usize {
    match name {
        "extents" => MOST_EXTENTS,
        "xattr" => MOST_XATTRS,
        _ => MOST_LINKS,
    }
}

/// Buffers must follow each other too. Returns the unpacked length of this one.
fn look_at_buffer(file: &File, buffer: &Buffer, (from, body): (u64, u64), at: &mut u64) -> Attempt<u64> {
    let wrong = "a buffer has no proper place";
    let offset = u64::try_from(buffer.offset()).map_err(|_| wrong)?;
    let length = u64::try_from(buffer.length()).map_err(|_| wrong)?;
    let end = offset.checked_add(length).filter(|end| *end <= body).ok_or(wrong)?;
    if offset < *at {
        return Err(wrong.into());
    }
    *at = end;
    if length == 0 {
        return Ok(0);
    }
    let bytes = length.checked_sub(PREFIX).ok_or("a buffer is too short")?;
    let mut prefix = [0; PREFIX as usize];
    file.read_exact_at(&mut prefix, from + offset)?;
    match i64::from_le_bytes(prefix) {
        STORED => Ok(bytes),
        claimed => {
            let claimed = u64::try_from(claimed).map_err(|_| "a buffer has no proper length")?;
            Ok(claimed.min(MOST_BYTES + 1))
        }
    }
}
