//! Arrow IPC files as used for both kinds: read batch by batch, with text metadata, and with clear errors for
//! damage.

use arrow_array::RecordBatch;
use arrow_ipc::CompressionType;
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use snapsync_model::{Context, Error, Result};
use snapsync_sys::Named;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

pub(crate) struct BatchWriter {
    writer: FileWriter<std::io::BufWriter<File>>,
    path: PathBuf,
}

impl BatchWriter {
    pub(crate) fn create(
        file: &(impl Named + ?Sized),
        schema: &Schema,
        compression: CompressionType,
    ) -> Result<BatchWriter> {
        let path = &*file.show();
        let file = file.create().context("create", path)?;
        let writer = IpcWriteOptions::default()
            .try_with_compression(Some(compression))
            .and_then(|options| {
                FileWriter::try_new_with_options(std::io::BufWriter::new(file), schema, options)
            })
            .map_err(|e| failed("write", path, &e))?;
        Ok(BatchWriter { writer, path: path.to_path_buf() })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|e| failed("write", &self.path, &e))
    }

    /// Adds metadata to the file's footer that was unknown at the start.
    pub(crate) fn note(&mut self, key: &str, value: &str) {
        self.writer.write_metadata(key, value);
    }

    /// The file, complete but not yet synced, and its path for messages.
    pub(crate) fn finish(mut self) -> Result<(File, PathBuf)> {
        self.writer.finish().map_err(|e| failed("write", &self.path, &e))?;
        let buffer = self.writer.into_inner().map_err(|e| failed("write", &self.path, &e))?;
        let file = buffer.into_inner().map_err(std::io::IntoInnerError::into_error);
        Ok((file.context("write", &self.path)?, self.path))
    }
}

pub(crate) struct BatchReader {
    reader: FileReader<BufReader<File>>,
    path: PathBuf,
}

impl BatchReader {
    /// Opens a file whose columns are those of `schema`; files of an older version lack the last `newer`
    /// columns.
    pub(crate) fn open(file: &(impl Named + ?Sized), schema: &Schema, newer: usize) -> Result<BatchReader> {
        BatchReader::open_some(file, schema, newer, None)
    }

    /// Reads only some columns, given by their positions in the schema.
    pub(crate) fn open_some(
        file: &(impl Named + ?Sized),
        schema: &Schema,
        newer: usize,
        columns: Option<&[usize]>,
    ) -> Result<BatchReader> {
        let path = &*file.show();
        let file = file.open().context("open", path)?;
        let open = |columns: Option<Vec<usize>>| {
            let file = BufReader::new(file.try_clone().context("open", path)?);
            FileReader::try_new(file, columns).map_err(|e| damaged(path, &e.to_string()))
        };
        let reader = open(None)?;
        let found = reader.schema();
        let all = schema.fields();
        // Compares names, types and nullability.
        let is_known = found.fields() == all || found.fields()[..] == all[..all.len().saturating_sub(newer)];
        if !is_known {
            return Err(damaged(path, "its columns are not the ones of this version"));
        }
        let has = found.fields().len();
        let reader = match columns {
            Some(columns) => open(Some(columns.iter().copied().filter(|at| *at < has).collect()))?,
            None => reader,
        };
        Ok(BatchReader { reader, path: path.to_path_buf() })
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        self.reader.schema()
    }

    pub(crate) fn noted(&self, key: &str) -> Option<&String> {
        self.reader.custom_metadata().get(key)
    }

    pub(crate) fn metadata(&self, key: &str) -> Result<String> {
        let value = self.reader.schema().metadata().get(key).cloned();
        value.ok_or_else(|| damaged(&self.path, &format!("{key} is missing")))
    }

    pub(crate) fn number(&self, key: &str) -> Result<u64> {
        self.metadata(key)?.parse().map_err(|_| damaged(&self.path, &format!("{key} is not a number")))
    }

    pub(crate) fn damaged(&self, why: &str) -> Error {
        damaged(&self.path, why)
    }

    pub(crate) fn batches(&self) -> usize {
        self.reader.num_batches()
    }

    /// Reads batch number `at`; the batches after it come next.
    pub(crate) fn batch_at(&mut self, at: usize) -> Result<RecordBatch> {
        self.reader.set_index(at).map_err(|e| damaged(&self.path, &e.to_string()))?;
        self.next_batch().unwrap_or_else(|| Err(damaged(&self.path, "a batch of it is gone")))
    }

    pub(crate) fn next_batch(&mut self) -> Option<Result<RecordBatch>> {
        Some(self.reader.next()?.map_err(|e| damaged(&self.path, &e.to_string())))
    }
}

fn failed(action: &'static str, path: &Path, error: &ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, source) => {
            let source = source.raw_os_error().map_or_else(
                || std::io::Error::new(source.kind(), source.to_string()),
                std::io::Error::from_raw_os_error,
            );
            Error::Io { action, path: path.to_path_buf(), source }
        }
        other => Error::failed(format!("cannot {action} {}: {other}", path.display()), ""),
    }
}

pub(crate) fn damaged(path: &Path, why: &str) -> Error {
    Error::integrity(
        format!("cannot read {} as a snapsync Arrow file: {why}", path.display()),
        "make it again from its source; if it is part of a store, verify the volume",
    )
}

/// The rows of a record batch, and the list items after which it ends early; both bound memory.
pub(crate) const BATCH_ROWS: usize = 8192;
pub(crate) const BATCH_ITEMS: usize = 65_536;
/// The bytes of names, paths and values after which a batch ends early.
pub(crate) const BATCH_BYTES: usize = 32 << 20;
