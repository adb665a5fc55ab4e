//! Records which data of a delta has arrived: nothing is accepted twice or unasked, and after an interruption
//! only data that still verifies counts.
//!
//! `received` in the stage has 52 bytes for each frame: inode, offset (u64), length (u32), little-endian, and
//! the BLAKE3 of the bytes. It proves nothing by itself: what it names is read again and verified.

use rustix::fs::OFlags;
use snapsync_model::{Change, Context, Op, Range, Result, locked};
use snapsync_stream::Held;
use snapsync_sys::Spot;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(crate) const FILE: &str = "received";
pub(super) const ENTRY: usize = 52;
/// The frames and bytes that a worker stages before it records them. Recording each small file would cost as
/// much as the file. A kill loses the last records.
const UNWRITTEN: usize = 64;
const UNWRITTEN_BYTES: u64 = 1 << 20;

/// Offsets and ends of ranges apart from each other.
type Ranges = BTreeMap<u64, u64>;

#[derive(Default)]
pub(crate) struct Received {
    /// The missing ranges of files that have some of their data.
    missing: Mutex<HashMap<u64, Ranges>>,
    /// The data that was there when this run began.
    held: Held,
    bytes: AtomicU64,
    log: Option<(File, PathBuf)>,
}

impl Received {
    pub(crate) fn open(&mut self, stage: &Spot) -> Result<()> {
        let file = stage.join(FILE);
        let log = file.open_or_create(OFlags::WRONLY | OFlags::APPEND).context("open", file.show())?;
        self.log = Some((log, file.show()));
        Ok(())
    }

    /// The records of one worker.
    pub(crate) fn notes(&self) -> Notes<'_> {
        Notes { received: self, entries: Vec::new(), bytes: 0 }
    }

    /// Counts data that did not travel: it is shared again after an interruption.
    pub(crate) fn share(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn holds(&self, ino: u64, range: Range) -> bool {
        self.held.bytes_in(ino, range) == range.length
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !locked(&self.missing).is_empty()
    }

    /// Whether an interrupted run left some of this file.
    pub(crate) fn has_begun(&self, ino: u64) -> bool {
        !self.held.is_empty() && locked(&self.missing).contains_key(&ino)
    }

    /// Calls `create` for the first frame of a file with several; None for later ones.
    pub(crate) fn begin<T>(
        &self,
        change: &Change,
        create: impl FnOnce() -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        let mut missing = locked(&self.missing);
        if missing.contains_key(&change.ino) {
            return None;
        }
        let made = create();
        if made.is_ok() {
            let data = change.extents.iter().filter(|e| e.op == Op::Data);
            missing.insert(change.ino, data.map(|e| (e.offset, e.offset + e.length)).collect());
        }
        Some(made)
    }

    /// The number of new bytes in a range, and whether the file is complete now; None if some of the range
    /// arrived in this run already.
    pub(crate) fn arrived(&self, ino: u64, range: Range) -> Option<(u64, bool)> {
        let mut missing = locked(&self.missing);
        let left = missing.get_mut(&ino)?;
        let new = take_out(left, range);
        if new + self.held.bytes_in(ino, range) < range.length {
            return None;
        }
        let is_last = left.is_empty();
        if is_last {
            missing.remove(&ino);
        }
        Some((new, is_last && new > 0))
    }
}

/// The records of what one worker has staged.
pub(crate) struct Notes<'a> {
    received: &'a Received,
    /// Records that are not written yet.
    entries: Vec<u8>,
    /// The bytes of data in those records.
    bytes: u64,
}

impl Notes<'_> {
    /// Records a staged range, `new` bytes of which count.
    pub(crate) fn add(&mut self, ino: u64, range: Range, new: u64, hash: &[u8; 32]) -> Result<()> {
        self.received.bytes.fetch_add(new, Relaxed);
        let entry = Entry { ino, offset: range.offset, length: range.length as u32, hash: *hash };
        self.entries.extend(entry.to_bytes());
        self.bytes += range.length;
        if self.entries.len() < UNWRITTEN * ENTRY && self.bytes < UNWRITTEN_BYTES {
            return Ok(());
        }
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        if let Some((log, path)) = &self.received.log {
            let mut log = log;
            log.write_all(&self.entries).context("write", path)?;
        }
        self.entries.clear();
        self.bytes = 0;
        Ok(())
    }
}

impl Drop for Notes<'_> {
    fn drop(&mut self) {
        // Without these records the next run gets the same data again.
        let _ = self.write();
    }
}

/// Removes a range from others, and returns how many bytes of it were there.
fn take_out(ranges: &mut Ranges, range: Range) -> u64 {
    let (start, end) = (range.offset, range.end());
    let before = ranges.range(..start).next_back().map(|(from, to)| (*from, *to));
    let within = ranges.range(start..end).map(|(from, to)| (*from, *to));
    let hit: Vec<(u64, u64)> = before.filter(|(_, to)| *to > start).into_iter().chain(within).collect();
    let mut taken = 0;
    for (from, to) in hit {
        ranges.remove(&from);
        if from < start {
            ranges.insert(from, start);
        }
        if to > end {
            ranges.insert(end, to);
        }
        taken += to.min(end) - from.max(start);
    }
    taken
}

pub(super) struct Entry {
    ino: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) hash: [u8; 32],
}

impl Entry {
    pub(super) fn to_bytes(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.ino.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..].copy_from_slice(&self.hash);
        bytes
    }

    fn from_bytes(bytes: &[u8; ENTRY]) -> Entry {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        Entry {
            ino: number(0),
            offset: number(8),
            length: u32::from_le_bytes(std::array::from_fn(|n| bytes[16 + n])),
            hash: std::array::from_fn(|n| bytes[20 + n]),
        }
    }

    pub(super) fn range(&self) -> Range {
        Range { offset: self.offset, length: self.length.into() }
    }
}

pub(super) fn read_log(stage: &Spot) -> Result<HashMap<u64, Vec<Entry>>> {
    let file = stage.join(FILE);
    let bytes = file.read_if_there().context("read", file.show())?.unwrap_or_default();
    let mut log: HashMap<u64, Vec<Entry>> = HashMap::new();
    // An incomplete entry at the end was cut by a crash.
    for bytes in bytes.as_chunks().0 {
        let entry = Entry::from_bytes(bytes);
        log.entry(entry.ino).or_default().push(entry);
    }
    Ok(log)
}

impl Received {
    /// Records which data of the next row is there, and returns whether all of it is.
    pub(super) fn hold(&mut self, change: &Change, ranges: &[Range], follows_whole: bool) -> bool {
        self.held.push(change, ranges, follows_whole);
        let bytes: u64 = ranges.iter().map(|r| r.length).sum();
        *self.bytes.get_mut() += bytes;
        let is_whole = bytes == change.data_bytes();
        if bytes > 0 && !is_whole {
            let left = self.held.left(change).into_iter().map(|r| (r.offset, r.end())).collect();
            locked(&self.missing).insert(change.ino, left);
        }
        is_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_is_gone_and_counted() {
        let mut ranges = Ranges::from([(0, 10), (20, 40), (50, 60)]);
        let mut take = |offset, length| take_out(&mut ranges, Range { offset, length });
        assert_eq!(take(5, 20), 10);
        assert_eq!(take(5, 20), 0);
        assert_eq!(take(30, 5), 5);
        assert_eq!(take(0, 100), 5 + 5 + 5 + 10);
        assert!(ranges.is_empty());
    }

    #[test]
    fn an_entry_comes_back_from_its_bytes() {
        let entry = Entry { ino: 1 << 60, offset: 77, length: 5, hash: [9; 32] };
        let back = Entry::from_bytes(&entry.to_bytes());
        assert_eq!((back.ino, back.offset, back.length, back.hash), (1 << 60, 77, 5, [9; 32]));
    }
}
