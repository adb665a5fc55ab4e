//! What the fuzzer in `fuzz/` reaches of the protocol. Nothing of it is in the product.

use crate::digest::{Reading, Record};
use crate::remote::messages::{Answer, Ask, Failure, Hello, Message, Request};
use crate::remote::wire::hear;
use serde::Serialize;
use snapsync_model::{Attributes, Change, ChangeFlags, Extent, Kind, Op, Range};
use snapsync_stream::Held;
use std::path::Path;

/// Hears messages as they come, and all bytes behind the first length as one message of the right length.
pub fn messages(bytes: &[u8]) {
    hear_all(bytes);
    records(bytes);
    if let Some((_, text)) = bytes.split_at_checked(4) {
        hear_all(&framed(text));
    }
}

/// A record that is understood must be equal to the bytes that it was read from.
fn records(mut from: &[u8]) {
    while let Some((record, rest)) = Record::read(from, Reading::Nothing) {
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        assert_eq!(Record::read(&bytes, Reading::Nothing), Some((record, &[][..])));
        from = rest;
    }
}

fn hear_all(bytes: &[u8]) {
    each::<Hello>(bytes, drop);
    each::<Request>(bytes, drop);
    each::<Ask>(bytes, |ask| {
        if let Ask::Failed(failure) = ask {
            fail(failure);
        }
    });
    each::<Answer>(bytes, |answer| match answer {
        Answer::Failed(failure) => fail(failure),
        Answer::Begun(begun) => widens_nothing(&begun.held),
        _ => {}
    });
}

/// Until something is no message. Each can be told on as it was understood.
fn each<T: Serialize + Message>(mut from: &[u8], look: impl Fn(T)) {
    let peer = Path::new("fuzz");
    while let Ok(message) = hear::<T>(&mut from, peer) {
        let told = serde_json::to_vec(&message).expect("what was heard can be told");
        let again = hear::<T>(&mut &framed(&told)[..], peer).expect("what was told can be heard");
        assert_eq!(serde_json::to_vec(&again).ok(), Some(told));
        look(message);
    }
}

fn framed(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text].concat()
}

fn fail(failure: Failure) {
    let error = failure.into_error(Path::new("fuzz"), Path::new("about"));
    assert!((1..=5).contains(&error.exit_code()) && !error.sentence().is_empty());
}

/// A liar can only take away from what is sent.
fn widens_nothing(held: &Held) {
    for ino in [0, 5, u64::MAX] {
        let change = row(ino);
        let mut at = 0;
        for left in held.left(&change) {
            let is_named =
                |e: &Extent| e.op == Op::Data && e.offset <= left.offset && left.end() <= e.offset + e.length;
            assert!(left.length > 0 && left.offset >= at, "{left:?}");
            assert!(change.extents.iter().any(is_named), "{left:?}");
            at = left.end();
        }
        for extent in &change.extents {
            let range = Range { offset: extent.offset, length: extent.length };
            assert!(held.bytes_in(ino, range) <= range.length);
        }
    }
    let told = serde_json::to_vec(&held.told()).expect("it can be told");
    serde_json::from_slice::<Held>(&told).expect("it can be heard");
}

fn row(ino: u64) -> Change {
    const END: u64 = i64::MAX as u64;
    let extent = |(offset, length, op)| Extent { offset, length, op, source: None, checksum: None };
    let extents =
        [(0, 4096, Op::Data), (4096, 100, Op::Hole), (8192, 8192, Op::Data), (END - 9, 9, Op::Data)];
    let attributes = Some(Attributes { size: END, ..Attributes::default() });
    Change {
        ino,
        generation: 0,
        kind: Kind::File,
        flags: ChangeFlags { data: true, ..ChangeFlags::default() },
        path: None,
        old_path: None,
        links_added: Vec::new(),
        links_removed: Vec::new(),
        nlink: 1,
        nlink_old: 1,
        new: attributes,
        old: attributes,
        symlink_target: None,
        xattrs: None,
        extents: extents.map(extent).to_vec(),
    }
}
