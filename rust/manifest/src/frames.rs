//! The index of frames: where the bytes of files lie in the packs of a log. An Arrow IPC file, one row a
//! piece of a frame, sorted by inode and offset.

use crate::file::{BATCH_ROWS, BatchReader, BatchWriter};
use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow_ipc::CompressionType;
use arrow_schema::{DataType, Field, Schema};
use snapsync_model::{Error, Result};
use snapsync_sys::Named;
use std::sync::Arc;

/// Bytes of a file, and the frame that has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameRow {
    pub ino: u64,
    /// In the file.
    pub offset: u64,
    /// The number of these bytes, and where they begin in the frame.
    pub length: u32,
    pub skip: u32,
    /// The bytes of the frame, and those that are stored of it; as many where it is not compressed.
    pub raw: u32,
    pub stored: u32,
    /// The number of the pack among those of its commit.
    pub pack: u32,
    /// Where the stored bytes begin in the pack.
    pub at: u64,
    /// BLAKE3 of the bytes of the frame.
    pub digest: [u8; 32],
}

impl FrameRow {
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// Whether it is all of its frame.
    pub fn is_whole(&self) -> bool {
        self.length == self.raw
    }

    /// What of it lies in `from..to`, if anything does.
    pub fn within(&self, from: u64, to: u64) -> Option<FrameRow> {
        let (start, end) = (self.offset.max(from), self.end().min(to));
        if start >= end {
            return None;
        }
        let skip = self.skip + (start - self.offset) as u32;
        Some(FrameRow { offset: start, length: (end - start) as u32, skip, ..*self })
    }
}

fn schema() -> Schema {
    let always = |name, kind| Field::new(name, kind, false);
    Schema::new(vec![
        always("inode", DataType::UInt64),
        always("offset", DataType::UInt64),
        always("length", DataType::UInt32),
        always("skip", DataType::UInt32),
        always("frame_length", DataType::UInt32),
        always("stored", DataType::UInt32),
        always("pack", DataType::UInt32),
        always("pack_offset", DataType::UInt64),
        always("digest", DataType::FixedSizeBinary(32)),
    ])
    .with_metadata([("snapsync.frames".to_owned(), "1".to_owned())])
}

/// Writes rows that are sorted.
pub fn write_frames(file: &(impl Named + ?Sized), rows: &[FrameRow]) -> Result<()> {
    let schema = Arc::new(schema());
    let mut writer = BatchWriter::create(file, &schema, CompressionType::ZSTD)?;
    for rows in rows.chunks(BATCH_ROWS) {
        let long = |get: fn(&FrameRow) -> u64| -> ArrayRef {
            Arc::new(rows.iter().map(get).collect::<UInt64Array>())
        };
        let short = |get: fn(&FrameRow) -> u32| -> ArrayRef {
            Arc::new(rows.iter().map(get).collect::<UInt32Array>())
        };
        let mut digests = FixedSizeBinaryBuilder::with_capacity(rows.len(), 32);
        rows.iter().try_for_each(|row| digests.append_value(row.digest)).map_err(|e| odd(&e))?;
        let columns = vec![
            long(|row| row.ino),
            long(|row| row.offset),
            short(|row| row.length),
            short(|row| row.skip),
            short(|row| row.raw),
            short(|row| row.stored),
            short(|row| row.pack),
            long(|row| row.at),
            Arc::new(digests.finish()),
        ];
        writer.write(&RecordBatch::try_new(schema.clone(), columns).map_err(|e| odd(&e))?)?;
    }
    writer.finish().map(drop)
}

/// Reads all rows; refuses those that are not sorted or overlap.
pub fn read_frames(file: &(impl Named + ?Sized)) -> Result<Vec<FrameRow>> {
    let mut reader = BatchReader::open(file, &schema(), 0)?;
    let mut rows: Vec<FrameRow> = Vec::new();
    while let Some(batch) = reader.next_batch() {
        let batch = batch?;
        let long = |at: usize| batch.column(at).as_primitive::<UInt64Type>();
        let short = |at: usize| batch.column(at).as_primitive::<UInt32Type>();
        let digests = batch.column(8).as_fixed_size_binary();
        if batch.columns().iter().any(|column| column.null_count() > 0) {
            return Err(reader.damaged("a value of it is missing"));
        }
        for row in 0..batch.num_rows() {
            let digest = digests.value(row).try_into().unwrap_or_default();
            let row = FrameRow {
                ino: long(0).value(row),
                offset: long(1).value(row),
                length: short(2).value(row),
                skip: short(3).value(row),
                raw: short(4).value(row),
                stored: short(5).value(row),
                pack: short(6).value(row),
                at: long(7).value(row),
                digest,
            };
            let follows = rows
                .last()
                .is_none_or(|last| last.ino < row.ino || (last.ino == row.ino && last.end() <= row.offset));
            let fits = row.length > 0
                && row.skip.checked_add(row.length).is_some_and(|end| end <= row.raw)
                && (1..=row.raw).contains(&row.stored)
                && row.offset.checked_add(row.length.into()).is_some();
            if !follows || !fits {
                return Err(reader.damaged("its frames are out of order, or make no sense"));
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

fn odd(error: &arrow_schema::ArrowError) -> Error {
    Error::failed(format!("cannot make the index of frames: {error}"), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ino: u64, offset: u64) -> FrameRow {
        let digest = [3; 32];
        FrameRow { ino, offset, length: 10, skip: 2, raw: 12, stored: 7, pack: 1, at: 64, digest }
    }

    #[test]
    fn rows_come_back_and_what_overlaps_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("frames.arrow");
        for rows in [vec![], vec![row(1, 0), row(1, 10), row(2, 0)], (0..20_000).map(|n| row(n, 5)).collect()]
        {
            write_frames(&file, &rows).unwrap();
            assert_eq!(read_frames(&file).unwrap(), rows);
        }
        for wrong in [
            vec![row(1, 0), row(1, 9)],
            vec![row(2, 0), row(1, 0)],
            vec![FrameRow { length: 0, ..row(1, 0) }],
            vec![FrameRow { skip: 3, ..row(1, 0) }],
            vec![FrameRow { stored: 13, ..row(1, 0) }],
            vec![row(1, u64::MAX)],
        ] {
            write_frames(&file, &wrong).unwrap();
            assert_eq!(read_frames(&file).unwrap_err().exit_code(), 4, "{wrong:?}");
        }
    }
}
