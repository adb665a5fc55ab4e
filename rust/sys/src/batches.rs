//! Reads large files for a digest, while what was read before is digested.

use crate::data::next_data;
use snapsync_model::Range;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const PIECE: u64 = 64 << 10;
/// The bytes of a piece with its offset.
const WITH_OFFSET: usize = size_of::<u64>() + PIECE as usize;
const BATCH: usize = 32 * WITH_OFFSET;

/// Reads ranges of a file in pieces, and hands on many at once, each behind its offset as eight bytes in
/// little-endian order. Pieces of zeros are left out: the same bytes give the same, wherever the file has
/// holes.
pub fn each_batch(file: &File, ranges: &[Range], mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let (full, batches) = sync_channel(1);
    let (back, emptied) = sync_channel(2);
    let mut filling = Filling { file, bytes: vec![0; BATCH], used: 0, emptied, full };
    back.send(vec![0; BATCH]).map_err(io::Error::other)?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || filling.read(ranges));
        for (bytes, used) in batches {
            take(&bytes[..used]);
            // Nobody waits for it once all is read.
            let _ = back.send(bytes);
        }
        reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Filling<'a> {
    file: &'a File,
    bytes: Vec<u8>,
    used: usize,
    emptied: Receiver<Vec<u8>>,
    full: SyncSender<(Vec<u8>, usize)>,
}

impl Filling<'_> {
    fn read(&mut self, ranges: &[Range]) -> io::Result<()> {
        for range in ranges {
            let mut at = range.offset;
            while let Some(data) = next_data(self.file, at, range.end())? {
                at = at.max(data.offset / PIECE * PIECE);
                while at < data.end() {
                    let length = (PIECE - at % PIECE).min(range.end() - at);
                    self.add(at, length as usize)?;
                    at += length;
                }
            }
        }
        self.hand_on()
    }

    fn add(&mut self, at: u64, length: usize) -> io::Result<()> {
        if self.used + WITH_OFFSET > BATCH {
            self.hand_on()?;
        }
        let (offset, piece) = self.bytes[self.used..].split_at_mut(size_of::<u64>());
        offset.copy_from_slice(&at.to_le_bytes());
        self.file.read_exact_at(&mut piece[..length], at)?;
        if piece[..length].iter().any(|byte| *byte != 0) {
            self.used += size_of::<u64>() + length;
        }
        Ok(())
    }

    /// Ends without a further batch if the other thread has panicked.
    fn hand_on(&mut self) -> io::Result<()> {
        let next = self.emptied.recv().map_err(io::Error::other)?;
        let bytes = std::mem::replace(&mut self.bytes, next);
        let used = std::mem::take(&mut self.used);
        self.full.send((bytes, used)).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn all_pieces_come_once_with_their_offsets_but_those_of_zeros() {
        let (piece, count) = (PIECE as usize, 100);
        let mut bytes: Vec<u8> = (0..count * piece + 5).map(|at| (at / 1000) as u8 | 1).collect();
        bytes[3 * piece..5 * piece].fill(0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let end = bytes.len() as u64;
        let ranges = [(0, 10), (70_000, 20 * PIECE), (40 * PIECE, end - 40 * PIECE)];
        let ranges = ranges.map(|(offset, length)| Range { offset, length });
        let mut wanted = Vec::new();
        for range in &ranges {
            let mut at = range.offset;
            while at < range.end() {
                let until = ((at / PIECE + 1) * PIECE).min(range.end());
                let piece = &bytes[at as usize..until as usize];
                if piece.iter().any(|byte| *byte != 0) {
                    wanted.extend_from_slice(&at.to_le_bytes());
                    wanted.extend_from_slice(piece);
                }
                at = until;
            }
        }
        let (mut got, mut batches) = (Vec::new(), 0);
        each_batch(&file, &ranges, |batch| {
            got.extend_from_slice(batch);
            batches += 1;
        })
        .unwrap();
        assert!(got == wanted);
        assert!(batches > 2);
    }

    #[test]
    fn a_file_that_ends_too_early_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 1000]).unwrap();
        let found = each_batch(&file, &[Range { offset: 0, length: 2000 }], |_| {});
        assert!(found.is_err_and(|e| e.kind() == io::ErrorKind::UnexpectedEof));
    }
}
