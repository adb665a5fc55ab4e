//! The end of a pack, which tells the frames in it: an upload that was cut goes on with the packs that are
//! there already.

use crate::log::Log;
use snapsync_manifest::FrameRow;
use snapsync_model::Result;

const MAGIC: [u8; 8] = *b"SNSPACK1";
/// The bytes of each frame in it: inode, offset, length, stored bytes, their place, digest.
const ENTRY: u64 = 64;
/// How many frames there are, and the magic.
const TAIL: u64 = 16;
/// So much of the end of a pack is read at first: it has the footers of most.
const GUESS: u64 = 64 << 10;

/// Appends what tells these frames, which are all of a pack.
pub(crate) fn append(pack: &mut Vec<u8>, rows: &[FrameRow]) {
    for row in rows {
        pack.extend(row.ino.to_le_bytes());
        pack.extend(row.offset.to_le_bytes());
        pack.extend(row.raw.to_le_bytes());
        pack.extend(row.stored.to_le_bytes());
        pack.extend(row.at.to_le_bytes());
        pack.extend(row.digest);
    }
    pack.extend((rows.len() as u64).to_le_bytes());
    pack.extend(MAGIC);
}

/// The frames of a pack; None if its end does not tell them.
pub(crate) fn read(log: &Log, key: &str, size: u64, number: u32) -> Result<Option<Vec<FrameRow>>> {
    let pack = (key, size);
    let size = log.pack_length(key, size)?;
    let mut end = log.pack_range(pack, size.saturating_sub(GUESS)..size)?;
    let Some(count) = count(&end) else { return Ok(None) };
    let Some(length) = count.checked_mul(ENTRY).and_then(|rows| rows.checked_add(TAIL)) else {
        return Ok(None);
    };
    if length > size {
        return Ok(None);
    }
    if length > end.len() as u64 {
        end = log.pack_range(pack, size - length..size)?;
    }
    let rows = &end[end.len() - length as usize..end.len() - TAIL as usize];
    Ok(Some(rows.chunks_exact(ENTRY as usize).map(|row| entry(row, number)).collect()))
}

fn count(end: &[u8]) -> Option<u64> {
    let tail = end.last_chunk::<{ TAIL as usize }>()?;
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
        for count in [1, 2, 1000, 5000] {
            let (mut pack, rows) = (vec![1; 100], (0..count).map(row).collect::<Vec<_>>());
            append(&mut pack, &rows);
            let key = format!("packs/{count}");
            log.objects().put(&key, pack.clone()).unwrap();
            assert_eq!(read(&log, &key, pack.len() as u64, 3).unwrap(), Some(rows));
        }
        for other in [vec![0; 100], b"SNSPACK1".to_vec(), [[255; 8], MAGIC].concat()] {
            log.objects().put("packs/x", other.clone()).unwrap();
            assert_eq!(read(&log, "packs/x", other.len() as u64, 3).unwrap(), None);
        }
    }
}
