//! Before-images: what an object had where the object after it has other bytes. All else is in that one.
//!
//! The file begins with a head: what it is, the object, the object after it, the size of the object's bytes,
//! the number of ranges, each range with the place of its bytes in this file, and a digest of all that.

use crate::content::Cover;
use crate::extent::Range;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 16] = b"SNAPSYNC-BEFORE\n";
const FIXED: usize = 48;
const EACH: usize = 24;
const DIGEST: usize = 32;
/// More are in no file that could be read.
const MOST: u64 = 1 << 24;

pub type DigestOf = fn(&[u8]) -> [u8; DIGEST];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeforeImage {
    pub object: u64,
    /// The object that has the bytes of all other ranges.
    pub next: u64,
    pub size: u64,
    /// Sorted, and without overlap.
    ranges: Vec<Kept>,
}

/// A file that a commit changes in place: what it has afterwards is another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Of this volume.
    pub ino: u64,
    /// Of the manifest.
    pub row: u64,
    pub object: u64,
    pub next: u64,
    /// Of the bytes that both have.
    pub rest: [u8; DIGEST],
}

impl Successor {
    pub const BYTES: usize = 64;

    pub fn to_bytes(&self) -> [u8; Successor::BYTES] {
        let words = [self.ino, self.row, self.object, self.next];
        let mut bytes = [0; Successor::BYTES];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        bytes[32..].copy_from_slice(&self.rest);
        bytes
    }

    pub fn from_bytes(bytes: &[u8; Successor::BYTES]) -> Successor {
        let [ino, row, object, next] = words(bytes);
        let rest = *bytes[32..].first_chunk().expect("it is long enough");
        Successor { ino, row, object, next, rest }
    }
}

/// A range with the place of its bytes in the file; 0 for a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    range: Range,
    at: u64,
}

impl BeforeImage {
    /// Of sorted ranges; those that are no data are holes.
    pub fn new(object: u64, next: u64, size: u64, ranges: &[(Range, bool)]) -> BeforeImage {
        let mut at = head_of(ranges.len()) as u64;
        let kept = ranges.iter().map(|(range, is_data)| {
            let here = if *is_data { at } else { 0 };
            at += if *is_data { range.length } else { 0 };
            Kept { range: *range, at: here }
        });
        BeforeImage { object, next, size, ranges: kept.collect() }
    }

    /// The bytes that the ranges hold.
    pub fn held(&self) -> u64 {
        self.ranges.iter().filter(|kept| kept.at > 0).map(|kept| kept.range.length).sum()
    }

    /// Its ranges as parts of a file that has this number in a list.
    pub fn parts(&self, file: usize) -> impl Iterator<Item = Cover> + '_ {
        self.ranges
            .iter()
            .map(move |Kept { range, at }| Cover { range: *range, from: (*at > 0).then_some((file, *at)) })
    }

    /// The ranges that it says nothing of: there the next object has the same bytes.
    pub fn rest(&self) -> Vec<Range> {
        let (mut rest, mut at) = (Vec::new(), 0);
        for Kept { range, .. } in &self.ranges {
            if at < range.offset {
                rest.push(Range { offset: at, length: range.offset - at });
            }
            at = range.end();
        }
        if at < self.size {
            rest.push(Range { offset: at, length: self.size - at });
        }
        rest
    }

    pub fn head(&self, digest: DigestOf) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for word in [self.object, self.next, self.size, self.ranges.len() as u64] {
            bytes.extend(word.to_le_bytes());
        }
        for Kept { range, at } in &self.ranges {
            [range.offset, range.length, *at].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        }
        bytes.extend(digest(&bytes));
        bytes
    }

    /// None where the file is no whole before-image.
    pub fn read(file: &File, digest: DigestOf) -> io::Result<Option<BeforeImage>> {
        let mut fixed = [0; FIXED];
        if !read_at(file, &mut fixed)? || &fixed[..MAGIC.len()] != MAGIC {
            return Ok(None);
        }
        let [object, next, size, count] = words(&fixed[MAGIC.len()..]);
        let length = file.metadata()?.len();
        if count > MOST.min(length / EACH as u64) {
            return Ok(None);
        }
        let mut head = vec![0; head_of(count as usize)];
        if !read_at(file, &mut head)? {
            return Ok(None);
        }
        let (told, sum) = head.split_at(head.len() - DIGEST);
        let kept = told[FIXED..].chunks_exact(EACH).map(|each| {
            let [offset, length, at] = words(each);
            Kept { range: Range { offset, length }, at }
        });
        let image = BeforeImage { object, next, size, ranges: kept.collect() };
        Ok((digest(told) == sum && image.makes_sense(length)).then_some(image))
    }

    fn makes_sense(&self, length: u64) -> bool {
        let head = head_of(self.ranges.len()) as u64;
        let mut end = 0;
        self.ranges.iter().all(|Kept { range, at }| {
            let is_next = range.offset >= end && range.length > 0;
            let Some(after) = range.offset.checked_add(range.length) else { return false };
            end = after;
            let is_there = *at >= head && at.checked_add(range.length).is_some_and(|end| end <= length);
            is_next && after <= self.size && (*at == 0 || is_there)
        })
    }
}

fn head_of(ranges: usize) -> usize {
    FIXED + ranges * EACH + DIGEST
}

fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// False where the file ends before that.
fn read_at(file: &File, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact_at(bytes, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}
