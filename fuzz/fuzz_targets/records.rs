//! The records behind the manifest. The first byte says whether digests, lengths and the end are put right
//! before, so that what lies behind them is reached.

#![no_main]

use libfuzzer_sys::fuzz_target;
use snapsync_model::Monitor;
use snapsync_stream::wire::{DeltaEnd, LARGEST_FRAME, Record, Sum};
use snapsync_stream::{Arrivals, Taker, receive};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SEED: [[u8; 32]; 2] = [[0; 32]; 2];
const HEAD: usize = 64;
/// Of a frame, where its lengths, its offset and its digest are.
const RAW: usize = 4;
const STORED: usize = 8;
const DIGEST: usize = 32;

fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((how, bytes)) if how % 2 == 1 => take(&repair(bytes)),
        Some((_, bytes)) => take(bytes),
        None => {}
    }
});

fn take(bytes: &[u8]) {
    let (frames, raw, skipped) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let skip = |ino, range: snapsync_model::Range| {
        let is_skipped = ino % 4 == 3;
        assert!((1..=u64::from(LARGEST_FRAME)).contains(&range.length) && range.end() > range.offset);
        if is_skipped {
            frames.fetch_add(1, Relaxed);
            skipped.fetch_add(range.length, Relaxed);
        }
        is_skipped
    };
    let make_taker = || -> Taker<'_> {
        Box::new(|arrived| {
            assert_eq!(*blake3::hash(&arrived.bytes).as_bytes(), arrived.hash);
            assert!(arrived.ino % 4 != 3 && arrived.bytes.len() <= LARGEST_FRAME as usize);
            frames.fetch_add(1, Relaxed);
            raw.fetch_add(arrived.range().length, Relaxed);
            Ok(())
        })
    };
    let arrivals = vec![Arrivals { from: Box::new(bytes), name: PathBuf::from("fuzz") }];
    if let Ok(end) = receive(arrivals, SEED, 1, &Monitor::default(), &skip, &make_taker) {
        assert_eq!((end.frames, end.bytes), (frames.into_inner(), raw.into_inner() + skipped.into_inner()));
    }
}

/// Frames as they are, but that they hold what they say; and the end that they need.
fn repair(mut bytes: &[u8]) -> Vec<u8> {
    let mut repaired = Vec::new();
    let mut sum = Sum::new(SEED[0], SEED[1]);
    while bytes.len() > HEAD && bytes[0] == b'F' {
        let (start, rest) = bytes.split_at(HEAD);
        let mut head = start.to_vec();
        let stored = u32_at(&head, STORED).min(rest.len() as u32);
        head[STORED..][..4].copy_from_slice(&stored.to_le_bytes());
        let (payload, rest) = rest.split_at(stored as usize);
        let raw = match head[1] {
            0 => Some(payload.to_vec()),
            _ => zstd::bulk::decompress(payload, u32_at(&head, RAW).min(LARGEST_FRAME) as usize).ok(),
        };
        if let Some(raw) = raw {
            head[RAW..][..4].copy_from_slice(&(raw.len() as u32).to_le_bytes());
            head[DIGEST..].copy_from_slice(blake3::hash(&raw).as_bytes());
        }
        if let Ok(Record::Frame(head)) = Record::read(&mut &head[..], Path::new("fuzz")) {
            sum.add(&head);
        }
        repaired.extend(head);
        repaired.extend(payload);
        bytes = rest;
    }
    // Of an end that is there, whatever it says.
    let end: DeltaEnd = sum.end();
    repaired.extend(if bytes.first() == Some(&b'E') { end.to_bytes().to_vec() } else { bytes.to_vec() });
    repaired
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]))
}
