//! The end of a pack, which tells the frames in it: an upload that was cut goes on with the packs that are
//! there already. What it tells goes into an index that is signed, so it is signed itself.

use crate::keys::{SIGNED, Signer, is_signature};
use crate::log::Log;
use serde_json::{Value, json};
use snapsync_manifest::FrameRow;
use snapsync_model::Result;

const MAGIC: [u8; 8] = *b"SNSPACK1";
/// The bytes of each frame in it: inode, offset, length, stored bytes, their place, digest.
const ENTRY: u64 = 64;
/// How many frames there are, and the magic.
const COUNT: u64 = 16;
/// The same after the signature.
const TAIL: u64 = SIGNED as u64 + COUNT;
/// So much of the end of a pack is read at first: it has the footers of most.
const GUESS: u64 = 64 << 10;
/// The most bytes of a footer. What tells a frame is shorter than the frame and its head, and a pack has
/// little more than 16 MiB of these.
const LARGEST: u64 = 32 << 20;

/// What is signed: frames, and the folder in which they are right. Another pass may bring other data.
fn told(folder: &str, rows: &[u8]) -> Value {
    json!({ "frames": blake3::hash(rows).to_hex().as_str(), "pack": folder })
}

/// Appends what tells these frames, which are all of a pack in a folder.
pub(crate) fn append(pack: &mut Vec<u8>, rows: &[FrameRow], (log, signer): (&Log, &Signer), folder: &str) {
    let from = pack.len();
    for row in rows {
        pack.extend(row.ino.to_le_bytes());
        pack.extend(row.offset.to_le_bytes());
        pack.extend(row.raw.to_le_bytes());
        pack.extend(row.stored.to_le_bytes());
        pack.extend(row.at.to_le_bytes());
        pack.extend(row.digest);
    }
    let signature = signer.signature(log.id(), &told(folder, &pack[from..]));
    pack.extend(signature);
    pack.extend((rows.len() as u64).to_le_bytes());
    pack.extend(MAGIC);
}

/// The frames of a pack in a folder; None if its end does not tell them, or somebody else has written that.
pub(crate) fn read(
    (log, signer): (&Log, &Signer),
    folder: &str,
    pack: (&str, u64),
    number: u32,
) -> Result<Option<Vec<FrameRow>>> {
    let size = log.pack_length(pack.0, pack.1)?;
    if size < TAIL {
        return Ok(None);
    }
    let mut end = log.pack_range(pack, size.saturating_sub(GUESS)..size)?;
    let Some(count) = count(&end) else { return Ok(None) };
    let Some(length) = count.checked_mul(ENTRY).and_then(|rows| rows.checked_add(TAIL)) else {
        return Ok(None);
    };
    if length > size.min(LARGEST) {
        return Ok(None);
    }
    if length > end.len() as u64 {
        end = log.pack_range(pack, size - length..size)?;
    }
    let rows = &end[end.len() - length as usize..end.len() - TAIL as usize];
    let signature = end[end.len() - TAIL as usize..].first_chunk();
    let is_own = |signature| is_signature(signature, signer.key(), log.id(), &told(folder, rows));
    if !signature.is_some_and(is_own) {
        return Ok(None);
    }
    Ok(Some(rows.chunks_exact(ENTRY as usize).map(|row| entry(row, number)).collect()))
}

fn count(end: &[u8]) -> Option<u64> {
    let tail = end.last_chunk::<{ COUNT as usize }>()?;
    let (count, magic) = tail.split_at(8);
    (magic == MAGIC).then(|| u64_of(count))
}

fn entry(row: &[u8], pack: u32) -> FrameRow {
    let raw = u32_of(&row[16..20]);
    FrameRow {
        ino: u64_of(&row[..8]),
        offset: u64_of(&row[8..16]),
        length: raw,
        skip: 0,
        raw,
        stored: u32_of(&row[20..24]),
        pack,
        at: u64_of(&row[24..32]),
        digest: std::array::from_fn(|at| row[32 + at]),
    }
}

fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|at| bytes[at]))
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|at| bytes[at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LogAddress;

    #[test]
    fn a_pack_tells_its_frames_however_many_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::init(&LogAddress::Directory(dir.path().join("log")), &[]).unwrap();
        let row = |ino| FrameRow {
            ino,
            offset: 5,
            length: 10,
            skip: 0,
            raw: 10,
            stored: 7,
            pack: 3,
            at: 64,
            digest: [9; 32],
        };
        let (own, other) = (Signer::new().unwrap(), Signer::new().unwrap());
        let read = |signer: &Signer, folder: &str, pack: &[u8]| {
            log.objects().put("packs/x", pack.to_vec()).unwrap();
            super::read((&log, signer), folder, ("packs/x", pack.len() as u64), 3).unwrap()
        };
        for count in [1, 2, 1000, 5000] {
            let (mut pack, rows) = (vec![1; 100], (0..count).map(row).collect::<Vec<_>>());
            append(&mut pack, &rows, (&log, &own), "packs/a");
            assert_eq!(read(&own, "packs/a", &pack), Some(rows));
            assert_eq!(read(&other, "packs/a", &pack), None);
            assert_eq!(read(&own, "packs/b", &pack), None);
            pack[100] ^= 1;
            assert_eq!(read(&own, "packs/a", &pack), None);
        }
        for none in [vec![], vec![0; 100], b"SNSPACK1".to_vec(), [[255; 100].as_slice(), &MAGIC].concat()] {
            assert_eq!(read(&own, "packs/a", &none), None);
        }
    }
}
