//! Writes frames into packs, and notes where each is.

use crate::commit::StoredObject;
use crate::footer;
use crate::log::Log;
use snapsync_manifest::FrameRow;
use snapsync_model::{Error, Monitor, Result, locked};
use snapsync_stream::wire::{FrameHead, Record};
use snapsync_stream::{Limit, Outlet};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The bytes after which a pack ends. Each of the writers holds one.
pub const PACK: usize = 16 << 20;

/// The packs of one snapshot while they are written.
pub struct Packs<'a> {
    log: &'a Log,
    /// Where they are: below it nobody else writes.
    folder: String,
    limit: Option<Arc<Limit>>,
    monitor: &'a Monitor,
    written: Mutex<Written>,
}

struct Written {
    packs: Vec<Option<StoredObject>>,
    frames: Vec<FrameRow>,
}

impl<'a> Packs<'a> {
    /// `earlier` is what passes before this one have written there, as `finish` told it.
    pub fn new(
        log: &'a Log,
        folder: String,
        earlier: (Vec<StoredObject>, Vec<FrameRow>),
        limit: Option<Arc<Limit>>,
        monitor: &'a Monitor,
    ) -> Packs<'a> {
        let written = Written { packs: earlier.0.into_iter().map(Some).collect(), frames: earlier.1 };
        Packs { log, folder, limit, monitor, written: Mutex::new(written) }
    }

    /// A place for frames, which makes packs of them.
    pub fn outlet(&self) -> Outlet<'_> {
        let name = Path::new(&self.log.objects().show(&self.folder)).to_path_buf();
        let to = Packing { packs: self, bytes: Vec::with_capacity(PACK), rows: Vec::new(), left: 0 };
        Outlet { to: Box::new(to), name }
    }

    /// All packs, and their frames, sorted.
    pub fn finish(self) -> Result<(Vec<StoredObject>, Vec<FrameRow>)> {
        let Written { packs, mut frames } = snapsync_model::unlocked(self.written);
        let packs: Option<Vec<StoredObject>> = packs.into_iter().collect();
        frames.sort_unstable();
        packs.map(|packs| (packs, frames)).ok_or_else(|| Error::failed("a pack was not written", "try again"))
    }

    fn put(&self, mut bytes: Vec<u8>, mut rows: Vec<FrameRow>) -> Result<()> {
        let number = {
            let mut written = locked(&self.written);
            written.packs.push(None);
            written.packs.len() - 1
        };
        if let Some(limit) = &self.limit {
            limit.wait(bytes.len() as u64, self.monitor).map_err(|e| lifted(e, &self.folder))?;
        }
        self.monitor.check()?;
        footer::append(&mut bytes, &rows, (self.log, &self.log.needed_signer()?), &self.folder);
        let bytes = self.log.seals.seal_upload(bytes)?;
        // Whoever goes on with it knows by its name what it has.
        let name = blake3::hash(&bytes).to_hex();
        let object = self.log.put_sealed(format!("{}/{number:06}-{name}", self.folder), bytes)?;
        let mut written = locked(&self.written);
        written.packs[number] = Some(object);
        rows.iter_mut().for_each(|row| row.pack = number as u32);
        written.frames.append(&mut rows);
        Ok(())
    }
}

fn lifted(error: io::Error, folder: &str) -> Error {
    snapsync_stream::wire::lift(error, "write", Path::new(folder))
}

/// One writer of packs: each call brings the head of a frame, all of its bytes, or the end.
struct Packing<'a> {
    packs: &'a Packs<'a>,
    bytes: Vec<u8>,
    rows: Vec<FrameRow>,
    /// Bytes of the last frame that are still to come.
    left: usize,
}

impl Packing<'_> {
    fn begin(&mut self, head: &FrameHead) -> Result<()> {
        if !self.rows.is_empty() && self.bytes.len() + head.stored as usize > PACK {
            self.put()?;
        }
        self.rows.push(FrameRow {
            ino: head.ino,
            offset: head.offset,
            length: head.raw,
            skip: 0,
            raw: head.raw,
            stored: head.stored,
            pack: 0,
            at: (self.bytes.len() + head.to_bytes().len()) as u64,
            digest: head.digest,
        });
        self.left = head.stored as usize;
        Ok(())
    }

    fn put(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(PACK));
        self.packs.put(bytes, std::mem::take(&mut self.rows))
    }
}

impl Write for Packing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = if self.left > 0 {
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            taken
        } else {
            let head =
                Record::read(&mut &bytes[..], Path::new(&self.packs.folder)).map_err(io::Error::other)?;
            let Record::Frame(head) = head else { return Ok(bytes.len()) };
            self.begin(&head).map_err(io::Error::other)?;
            head.to_bytes().len()
        };
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.put().map_err(io::Error::other)
    }
}
