//! Tables and ranges of packs: encrypted on their way to the store if the log is, and opened on their way
//! back.

use crate::commit::StoredObject;
use crate::log::Log;
use crate::seals::{Header, Unopened};
use snapsync_manifest::{FrameRow, read_frames, write_frames};
use snapsync_model::{Context, Error, Result, locked};
use snapsync_sys::{Named, scratch};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;

/// The most bytes of what says to whom an object is encrypted.
const LARGEST_HEADER: u64 = 1 << 20;
/// How many of these are kept.
const HEADERS: usize = 64;
/// The most bytes of a manifest or an index.
const LARGEST_TABLE: u64 = 64 << 30;
/// How many bytes of it are read at a time.
const PART: u64 = 8 << 20;

impl Log {
    /// Writes an object from a file.
    pub fn put_file(&self, key: String, from: &dyn Named) -> Result<StoredObject> {
        let read = || {
            let mut bytes = Vec::new();
            from.open()?.read_to_end(&mut bytes).map(|_| bytes)
        };
        let bytes =
            read().map_err(|source| Error::Io { action: "read", path: from.show().into_owned(), source })?;
        self.put(key, bytes)
    }

    /// Writes an object, encrypted if the log is.
    pub(crate) fn put(&self, key: String, bytes: Vec<u8>) -> Result<StoredObject> {
        self.put_sealed(key, self.seals.seal(bytes)?)
    }

    pub(crate) fn put_sealed(&self, key: String, bytes: Vec<u8>) -> Result<StoredObject> {
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let size = bytes.len() as u64;
        self.objects.put(&key, bytes)?;
        Ok(StoredObject { key, size, blake3 })
    }

    /// The frames of an index.
    pub fn index(&self, object: &StoredObject) -> Result<Vec<FrameRow>> {
        let dir = scratch()?;
        let file = dir.path().join("index.arrow");
        self.download(object, &file)?;
        read_frames(&file)
    }

    /// Uploads an index of frames, which are sorted, if there are any.
    pub fn put_index(&self, key: String, frames: &[FrameRow]) -> Result<Option<StoredObject>> {
        if frames.is_empty() {
            return Ok(None);
        }
        let dir = scratch()?;
        let file = dir.path().join("index.arrow");
        write_frames(&file, frames)?;
        self.put_file(key, &file).map(Some)
    }

    /// Brings an object into a file; it is what its commit says, or nothing is returned.
    pub fn download(&self, object: &StoredObject, to: &dyn Named) -> Result<()> {
        if !self.is_encrypted() {
            return self.bring(object, to);
        }
        self.expect_open()?;
        let dir = scratch()?;
        let sealed = dir.path().join("sealed");
        self.bring(object, &sealed)?;
        let show = to.show().into_owned();
        let io = |source| Error::Io { action: "write", path: show.clone(), source };
        let reader = self.seals.reader(File::open(&sealed).context("open", &sealed)?);
        let mut reader = reader.map_err(|why| self.unopened(&object.key, why))?;
        let mut file = to.create().map_err(io)?;
        let mut part = vec![0; 1 << 20];
        loop {
            let length = reader.read(&mut part).map_err(|_| self.unopened(&object.key, Unopened::Damaged))?;
            if length == 0 {
                return Ok(());
            }
            file.write_all(&part[..length]).map_err(io)?;
        }
    }

    fn bring(&self, object: &StoredObject, to: &dyn Named) -> Result<()> {
        if object.size > LARGEST_TABLE {
            return Err(self.objects.damaged(&object.key, "its commit gives it too many bytes"));
        }
        let show = to.show().into_owned();
        let io = |source| Error::Io { action: "write", path: show.clone(), source };
        let mut file = to.create().map_err(io)?;
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < object.size {
            let end = object.size.min(at + PART);
            let bytes = self.objects.range(&object.key, at..end)?;
            hasher.update(&bytes);
            file.write_all(&bytes).map_err(io)?;
            at = end;
        }
        if hasher.finalize().to_hex().as_str() != object.blake3 {
            return Err(self.objects.damaged(&object.key, "it is not what its commit says"));
        }
        Ok(())
    }

    /// How many bytes a pack has, of those that `pack_range` reads.
    pub(crate) fn pack_length(&self, key: &str, size: u64) -> Result<u64> {
        if self.is_encrypted() { self.header(key, size).map(|header| header.length()) } else { Ok(size) }
    }

    /// A range of a pack of `size` bytes in the store.
    pub(crate) fn pack_range(&self, (key, size): (&str, u64), range: Range<u64>) -> Result<Vec<u8>> {
        if !self.is_encrypted() {
            return self.objects.range(key, range);
        }
        let header = self.header(key, size)?;
        if range.end > header.length() {
            return Err(self.objects.damaged(key, "it is shorter than what names it says"));
        }
        let chunks = self.objects.range(key, header.chunks(&range))?;
        header.open(&self.seals, &range, chunks).map_err(|why| self.unopened(key, why))
    }

    fn header(&self, key: &str, size: u64) -> Result<Header> {
        if let Some((_, header)) = locked(&self.headers).iter().find(|(of, _)| of == key) {
            return Ok(header.clone());
        }
        let mut length = Header::GUESS.min(size);
        let header = loop {
            match Header::find(&self.objects.range(key, 0..length)?, size) {
                Some(header) => break header,
                None if length == size.min(LARGEST_HEADER) => {
                    return Err(self.objects.damaged(key, "it is not encrypted, as all of the log is"));
                }
                None => length = size.min(LARGEST_HEADER),
            }
        };
        let mut headers = locked(&self.headers);
        headers.truncate(HEADERS - 1);
        headers.push_front((key.to_owned(), header.clone()));
        Ok(header)
    }
}
