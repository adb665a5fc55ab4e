//! The bytes of a file as they are read: those of one file, or ranges of others that lie over it, or bytes
//! that are in no file.

use crate::extent::Range;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Open for reading.
#[derive(Debug)]
pub struct Content {
    bottom: Bottom,
    over: Option<Over>,
}

#[derive(Debug)]
enum Bottom {
    File(File),
    Other(Box<dyn ReadAt>),
}

/// Bytes that are not in a file of their own, and stay as they are.
pub trait ReadAt: fmt::Debug + Send + Sync {
    fn size(&self) -> u64;

    /// Reads at least a byte, unless there is none.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

impl Bottom {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Bottom::File(file) => file.read_at(bytes, at),
            Bottom::Other(other) => other.read_at(bytes, at),
        }
    }

    fn read_exact_at(&self, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
        if let Bottom::File(file) = self {
            return file.read_exact_at(bytes, at);
        }
        while !bytes.is_empty() {
            match self.read_at(bytes, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => (bytes, at) = (&mut bytes[read..], at + read as u64),
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Over {
    size: u64,
    /// The number of the object at the bottom.
    on: u64,
    /// Sorted, and without overlap.
    parts: Vec<Cover>,
    files: Vec<File>,
}

/// A range that is not read at the bottom: it is in another file at an offset, or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    pub range: Range,
    /// Which file, and where in it.
    pub from: Option<(usize, u64)>,
}

/// Where a byte lies, and where what lies there ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    AtBottom { until: u64 },
    Over { until: u64 },
    InHole { until: u64 },
}

impl From<File> for Content {
    fn from(bottom: File) -> Content {
        Content { bottom: Bottom::File(bottom), over: None }
    }
}

impl From<Box<dyn ReadAt>> for Content {
    fn from(bottom: Box<dyn ReadAt>) -> Content {
        Content { bottom: Bottom::Other(bottom), over: None }
    }
}

impl Content {
    /// Of `size` bytes: `parts` of some files, over what is at the bottom, which is object `on`.
    /// Nothing lies over `bottom` yet.
    pub fn over((bottom, on): (Content, u64), size: u64, parts: Vec<Cover>, files: Vec<File>) -> Content {
        Content { bottom: bottom.bottom, over: Some(Over { size, on, parts, files }) }
    }

    /// The file that has all of the bytes, each at its place.
    pub fn file(&self) -> Option<&File> {
        self.bottom().filter(|_| self.over.is_none())
    }

    /// The file that has what nothing lies over; None if that is in no file.
    pub fn bottom(&self) -> Option<&File> {
        match &self.bottom {
            Bottom::File(file) => Some(file),
            Bottom::Other(_) => None,
        }
    }

    /// The object at the bottom, if something lies over it.
    pub fn lies_on(&self) -> Option<u64> {
        self.over.as_ref().map(|over| over.on)
    }

    pub fn size(&self) -> io::Result<u64> {
        match (&self.over, &self.bottom) {
            (Some(over), _) => Ok(over.size),
            (None, Bottom::File(file)) => file.metadata().map(|found| found.len()),
            (None, Bottom::Other(other)) => Ok(other.size()),
        }
    }

    pub fn lies(&self, at: u64) -> Lies {
        let Some(over) = &self.over else { return Lies::AtBottom { until: u64::MAX } };
        match over.part_at(at) {
            Some(Cover { range, from }) if range.offset <= at => match from {
                Some(_) => Lies::Over { until: range.end() },
                None => Lies::InHole { until: range.end() },
            },
            next => Lies::AtBottom { until: next.map_or(u64::MAX, |part| part.range.offset) },
        }
    }

    /// Reads at least a byte, unless there is none.
    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let Some(over) = &self.over else { return self.bottom.read_at(bytes, at) };
        let most = over.size.saturating_sub(at).min(bytes.len() as u64);
        let until = |end: u64| end.saturating_sub(at).min(most) as usize;
        let part = over.part_at(at);
        let length = match part {
            Some(Cover { range, from }) if range.offset <= at => {
                let length = until(range.end());
                match from {
                    Some((file, start)) => {
                        let start = start + (at - range.offset);
                        over.files[*file].read_exact_at(&mut bytes[..length], start)?;
                    }
                    None => bytes[..length].fill(0),
                }
                length
            }
            next => {
                let length = until(next.map_or(u64::MAX, |part| part.range.offset));
                self.bottom.read_exact_at(&mut bytes[..length], at)?;
                length
            }
        };
        Ok(length)
    }

    pub fn read_exact_at(&self, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
        if self.over.is_none() {
            return self.bottom.read_exact_at(bytes, at);
        }
        while !bytes.is_empty() {
            match self.read_at(bytes, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => (bytes, at) = (&mut bytes[read..], at + read as u64),
            }
        }
        Ok(())
    }
}

impl Over {
    /// The part at an offset, or the next one.
    fn part_at(&self, at: u64) -> Option<&Cover> {
        self.parts.get(self.parts.partition_point(|part| part.range.end() <= at))
    }
}

/// Adds parts of a file that lies below all others: only where none of those is.
pub fn lay_under(parts: &mut Vec<Cover>, below: impl IntoIterator<Item = Cover>) {
    let mut seen = Vec::new();
    for Cover { range, from } in below {
        let (mut at, mut next) =
            (range.offset, parts.partition_point(|part| part.range.end() <= range.offset));
        while at < range.end() {
            let (start, end) =
                parts.get(next).map_or((u64::MAX, u64::MAX), |part| (part.range.offset, part.range.end()));
            if at < start {
                let length = start.min(range.end()) - at;
                let from = from.map(|(file, start)| (file, start + (at - range.offset)));
                seen.push(Cover { range: Range { offset: at, length }, from });
            }
            (at, next) = (end, next + 1);
        }
    }
    parts.extend(seen);
    parts.sort_unstable_by_key(|part| part.range);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, length: u64, from: Option<(usize, u64)>) -> Cover {
        Cover { range: Range { offset, length }, from }
    }

    #[test]
    fn bytes_in_memory_are_read_as_those_of_a_file() {
        let bytes: Box<dyn ReadAt> = Box::new(b"some bytes".to_vec());
        let content = Content::from(bytes);
        let mut found = [0; 5];
        content.read_exact_at(&mut found, 5).unwrap();
        assert_eq!((&found, content.size().unwrap()), (b"bytes", 10));
        assert_eq!(content.read_at(&mut found, 8).unwrap(), 2);
        assert_eq!(content.read_at(&mut found, 11).unwrap(), 0);
        let short = content.read_exact_at(&mut found, 6).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_lies_below_is_seen_only_between_what_lies_above() {
        let mut parts = vec![part(10, 10, Some((0, 100))), part(30, 5, None)];
        lay_under(&mut parts, [part(0, 12, Some((1, 500))), part(15, 30, Some((1, 600))), part(50, 1, None)]);
        let wanted = [
            part(0, 10, Some((1, 500))),
            part(10, 10, Some((0, 100))),
            part(20, 10, Some((1, 605))),
            part(30, 5, None),
            part(35, 10, Some((1, 620))),
            part(50, 1, None),
        ];
        assert_eq!(parts, wanted);
        let mut none = Vec::new();
        lay_under(&mut none, wanted);
        assert_eq!(none, wanted);
    }
}
