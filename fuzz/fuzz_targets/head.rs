//! The head of a delta, as it comes and with a length and a digest that are right; and of its manifest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use snapsync_stream::wire::{DeltaHead, MAGIC, ManifestHead, VERSION, read_head, write_head};
use std::path::Path;

/// Of what comes before the header, and of the digest behind it.
const START: usize = 32;
const DIGEST: usize = 32;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    if let Some(repaired) = repair(bytes) {
        read(&repaired);
    }
});

fn read(bytes: &[u8]) {
    let mut from = bytes;
    let name = Path::new("fuzz");
    if let Ok((header, digest)) = read_head(&mut from, name) {
        let mut again = Vec::new();
        let written = write_head(&mut again, &header).expect("what could be read can be written");
        let (back, read) = read_head(&mut &again[..], name).expect("what was written can be read");
        // Written as this version writes it, whichever it was read from.
        assert_eq!((back, read), (DeltaHead { version: VERSION, ..header }, written));
        assert_eq!(digest, bytes[bytes.len() - from.len() - DIGEST..][..DIGEST]);
    }
    if let Ok(manifest) = ManifestHead::read(&mut from, name) {
        assert_eq!(ManifestHead::read(&mut &manifest.to_bytes()[..], name).expect("it was one"), manifest);
    }
}

fn repair(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut head = bytes[..bytes.len().checked_sub(DIGEST)?].to_vec();
    let length = u32::try_from(head.len().checked_sub(START)?).ok()?;
    head[..START].fill(0);
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&length.to_le_bytes());
    let digest = blake3::hash(&head);
    head.extend(digest.as_bytes());
    Some(head)
}
