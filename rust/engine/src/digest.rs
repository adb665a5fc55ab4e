//! The records of a tree by which two sides are compared: one for each name, sorted by path. A record has
//! only a digest of a file's content, so the two sides may be on two machines.

use crate::names::{Encoded, Merged, Name, Names};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use snapsync_model::{
    Attributes, Content, Context, Details, Error, Inode, Kind, Monitor, Range, Rare, RelPath, Result, Side,
    Xattr, read_still,
};
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The number of records that are made at a time; large files among them are read in parallel.
pub(crate) const BATCH: usize = 4096;
pub(crate) const READ: usize = 1 << 18;
/// Content is hashed in chunks of this many bytes.
pub(crate) const CHUNK: u64 = 64 << 10;
static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];

pub(crate) type Digest = [u8; 32];
/// Stands for the digest of content that the disk cannot read, or that the snapshot has lost. It equals
/// nothing, not even itself.
pub(crate) const UNREADABLE: Digest = [0; 32];

/// Which files are read. The choice depends only on the path, so both sides choose the same files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    All,
    Nothing,
    /// Paths are spread over a circle, and those on an arc of this width are read. The seed sets the start of
    /// the arc.
    Share {
        seed: u64,
        width: u64,
    },
}

/// The golden section of the circle. Even for regular seeds, arcs at this distance soon leave no gap.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Reading {
    /// `sample` is in percent. The default seed is the time in seconds.
    pub fn new(quick: bool, sample: Option<f64>, seed: Option<u64>) -> Result<Reading> {
        match (quick, sample) {
            (true, Some(_)) => {
                Err(Error::usage("--quick reads no file, and --sample some", "give one of them"))
            }
            (true, None) => Ok(Reading::Nothing),
            (false, None) => Ok(Reading::All),
            (false, Some(percent)) if percent > 0.0 && percent <= 100.0 => {
                let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                // Casts of floats saturate at the largest number, which is the whole circle.
                let width = (percent / 100.0 * 2_f64.powi(64)) as u64;
                Ok(Reading::Share { seed: seed.unwrap_or_else(now), width })
            }
            (false, Some(percent)) => Err(Error::usage(
                format!("{percent} % is not a share of the files"),
                "give --sample more than 0 and at most 100 percent, as in --sample 5%",
            )),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Reading::All => "full",
            Reading::Nothing => "quick",
            Reading::Share { .. } => "sample",
        }
    }

    pub(crate) fn seed(self) -> Option<u64> {
        match self {
            Reading::Share { seed, .. } => Some(seed),
            _ => None,
        }
    }

    /// Whether the file with that first name is read. An empty file has nothing to read.
    pub(crate) fn wants(self, path: &RelPath, size: u64) -> bool {
        size > 0
            && match self {
                Reading::All => true,
                Reading::Nothing => false,
                Reading::Share { seed, width } => {
                    place_of(path).wrapping_sub(seed.wrapping_mul(STEP)) <= width
                }
            }
    }
}

/// The position of a path on the circle.
pub(crate) fn place_of(path: &RelPath) -> u64 {
    let hash = blake3::hash(path.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|at| hash.as_bytes()[at]))
}

/// One name of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path: RelPath,
    pub(crate) kind: Kind,
    /// The first of its names if the inode has several.
    pub(crate) first: Option<RelPath>,
    /// The inode, only at the first of its names.
    pub(crate) body: Option<Body>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) attributes: Attributes,
    /// Empty for anything but a symbolic link.
    pub(crate) symlink_target: Box<[u8]>,
    /// Names and digests of values.
    pub(crate) xattrs: Vec<(Box<[u8]>, Digest)>,
    /// Set for a file that was read.
    pub(crate) content: Option<Digest>,
}

/// What was read; None from a failing disk, or if a snapshot has lost it: these are a result of the
/// comparison, and must not end it.
pub(crate) fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(Error::Lost { .. }) => Ok(None),
        Err(error) if error.errno() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(None),
        read => read.map(Some),
    }
}

/// The digest of all of a file that was opened.
pub(crate) fn digest_of(
    side: &dyn Side,
    path: &RelPath,
    inode: &Inode,
    file: Result<Content>,
    monitor: &Monitor,
) -> Result<Digest> {
    let range = Range { offset: 0, length: inode.attributes.size };
    read_still(side, inode, &mut file?, |file| content(file, path.as_path(), range, monitor))
}

/// The digest of a file's content in a range that begins with a chunk. It covers the offset and the bytes of
/// each chunk that is not all zeros, so holes need not be read, and their places make no difference.
pub(crate) fn content(file: &Content, path: &Path, range: Range, monitor: &Monitor) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let (mut bytes, mut read_to) = (vec![0; READ.min(range.length as usize)], 0);
    for run in Runs::of(file, range) {
        monitor.check()?;
        let run = run.context("read", path)?;
        let bytes = &mut bytes[..run.length as usize];
        file.read_exact_at(bytes, run.offset).context("read", path)?;
        let chunks = bytes.chunks(CHUNK as usize).zip((run.offset..).step_by(CHUNK as usize));
        for (chunk, at) in chunks.filter(|(chunk, _)| *chunk != &ZEROS[..chunk.len()]) {
            hasher.update(&at.to_le_bytes()).update(chunk);
        }
        read_to = run.end();
    }
    if read_to < range.end() && file.size().context("read the size of", path)? < range.end() {
        // A shortened file would otherwise look like one with zeros.
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("read", path);
    }
    Ok(hasher.finalize().into())
}

/// The parts of a file that may hold anything but zeros: whole chunks, at most `READ` bytes at a time.
pub(crate) struct Runs<'a> {
    file: &'a Content,
    size: u64,
    at: u64,
    end: u64,
}

impl<'a> Runs<'a> {
    pub(crate) fn of(file: &'a Content, range: Range) -> Runs<'a> {
        Runs { file, size: range.end(), at: range.offset, end: 0 }
    }
}

impl Iterator for Runs<'_> {
    type Item = io::Result<Range>;

    fn next(&mut self) -> Option<io::Result<Range>> {
        if self.at < self.size && self.size - self.at <= CHUNK {
            // To read one chunk takes no longer than to ask where its holes are.
            self.end = self.size;
        }
        if self.at >= self.end {
            let data = match snapsync_sys::next_data_in(self.file, self.at, self.size) {
                Ok(data) => data?,
                Err(error) => return Some(Err(error)),
            };
            self.at = data.offset / CHUNK * CHUNK;
            self.end = data.end().next_multiple_of(CHUNK).min(self.size);
        }
        let run = Range { offset: self.at, length: (self.end - self.at).min(READ as u64) };
        self.at = run.end();
        Some(Ok(run))
    }
}

/// A side on this machine.
pub(crate) struct Near<'a> {
    side: &'a dyn Side,
    names: Merged<'a>,
    reading: Reading,
    /// Whether its records count as progress.
    is_counted: bool,
    monitor: &'a Monitor,
}

impl<'a> Near<'a> {
    pub(crate) fn new(
        names: &'a Names<'a>,
        reading: Reading,
        is_counted: bool,
        monitor: &'a Monitor,
    ) -> Result<Near<'a>> {
        Ok(Near { side: names.side, names: names.iter()?, reading, is_counted, monitor })
    }

    /// The next records; empty at the end.
    pub(crate) fn more(&mut self) -> Result<Vec<Record>> {
        let batch: Vec<Encoded> = self.names.by_ref().take(BATCH).collect::<Result<_>>()?;
        let make = |name: &Encoded| {
            self.monitor.check()?;
            let mut name = name.decode()?;
            let body = name.inode.take().map(|inode| self.body(&name.path, &inode)).transpose()?;
            self.monitor.advance(u64::from(self.is_counted));
            Ok(Record { body, ..Record::from(name) })
        };
        batch.par_iter().with_max_len(1).map(make).collect()
    }

    fn body(&self, path: &RelPath, inode: &Inode) -> Result<Body> {
        if inode.kind != Kind::File || !self.reading.wants(path, inode.attributes.size) {
            return Ok(Body::of(inode, self.side.details(inode)?, None));
        }
        let (details, file) = self.side.details_and_data(path, inode)?;
        let digest = readable(digest_of(self.side, path, inode, file, self.monitor))?;
        Ok(Body::of(inode, details, Some(digest.unwrap_or(UNREADABLE))))
    }
}

impl From<Name> for Record {
    fn from(Name { path, kind, first, .. }: Name) -> Record {
        Record { path, kind, first, body: None }
    }
}

impl Record {
    /// Writes the record in the format of docs/format.md.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        put(to, self.path.as_bytes());
        to.push((self.kind.mode_bits() >> 12) as u8);
        to.push(u8::from(self.first.is_some()) | u8::from(self.body.is_some()) << 1);
        if let Some(first) = &self.first {
            put(to, first.as_bytes());
        }
        let Some(body) = &self.body else { return };
        let a = &body.attributes;
        [a.mode, a.uid, a.gid, a.flags].iter().for_each(|n| to.extend(n.to_le_bytes()));
        [a.rdev, a.mtime as u64, a.size, a.far_second as u64].iter().for_each(|n| to.extend(n.to_le_bytes()));
        let rare = a.rare;
        [rare.project, rare.xflags, rare.extent_size, rare.cow_extent_size]
            .iter()
            .for_each(|n| to.extend(n.to_le_bytes()));
        put(to, &body.symlink_target);
        to.extend((body.xattrs.len() as u32).to_le_bytes());
        for (name, digest) in &body.xattrs {
            put(to, name);
            to.extend(digest);
        }
        to.push(u8::from(body.content.is_some()));
        to.extend(body.content.iter().flatten());
    }

    /// The first record of a peer's bytes, and the rest of them; None if they are not valid.
    pub(crate) fn read(from: &[u8], reading: Reading) -> Option<(Record, &[u8])> {
        let mut from = Bytes(from);
        let path = RelPath::new(from.run()?).ok()?;
        let [kind, has] = from.array()?;
        let kind = Kind::from_mode(u32::from(kind) << 12).filter(|_| kind < 16 && has < 4)?;
        let first = if has & 1 == 0 { None } else { Some(RelPath::new(from.run()?).ok()?) };
        let body = if has & 2 == 0 { None } else { Some(Body::read(&mut from, kind)?) };
        let record = Record { path, kind, first, body };
        record.makes_sense(reading).then_some((record, from.0))
    }

    fn makes_sense(&self, reading: Reading) -> bool {
        let has_body = self.body.is_some() == self.first.as_ref().is_none_or(|first| *first == self.path);
        let is_read_as_asked = self.body.as_ref().is_none_or(|body| {
            let wanted = self.kind == Kind::File && reading.wants(&self.path, body.attributes.size);
            body.content.is_some() == wanted
        });
        let first_is_first = self.first.as_ref().is_none_or(|first| *first <= self.path);
        has_body && is_read_as_asked && first_is_first
    }
}

impl Body {
    pub(crate) fn of(inode: &Inode, details: Details, content: Option<Digest>) -> Body {
        let attributes = inode.attributes.with(&details);
        let digest = |xattr: Xattr| (xattr.name, blake3::hash(&xattr.value).into());
        let xattrs = details.xattrs.into_iter().map(digest).collect();
        Body { attributes, symlink_target: details.symlink_target.unwrap_or_default(), xattrs, content }
    }

    fn read(from: &mut Bytes<'_>, kind: Kind) -> Option<Body> {
        let [mode, uid, gid, flags] = from.numbers()?.map(u32::from_le_bytes);
        let [rdev, mtime, size, far_second] = from.numbers()?.map(u64::from_le_bytes);
        let [project, xflags, extent_size, cow_extent_size] = from.numbers()?.map(u32::from_le_bytes);
        let rare = Rare { project, xflags, extent_size, cow_extent_size };
        let (mtime, far_second) = (mtime as i64, far_second as i64);
        let attributes = Attributes { size, mode, uid, gid, rdev, mtime, far_second, flags, rare };
        let symlink_target: Box<[u8]> = from.run()?.into();
        let count = u32::from_le_bytes(from.array()?);
        // Nothing is allocated for a mere announcement.
        let mut xattrs = Vec::new();
        for _ in 0..count {
            xattrs.push((from.run()?.into(), from.array()?));
        }
        let content = match from.array()? {
            [0] => None,
            [1] => Some(from.array()?),
            _ => return None,
        };
        (symlink_target.is_empty() || kind == Kind::Symlink).then_some(())?;
        Some(Body { attributes, symlink_target, xattrs, content })
    }
}

fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_le_bytes());
    to.extend(bytes);
}

/// The remaining bytes of untrusted input.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn numbers<const N: usize, const M: usize>(&mut self) -> Option<[[u8; N]; M]> {
        let mut numbers = [[0; N]; M];
        for number in &mut numbers {
            *number = self.array()?;
        }
        Some(numbers)
    }

    /// A length, followed by as many bytes.
    fn run(&mut self) -> Option<&'b [u8]> {
        let length = u32::from_le_bytes(self.array()?);
        let (run, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(run)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// None if it is no hexadecimal.
pub(crate) fn of_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(&pair[0])? << 4 | digit(pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn records() -> Vec<Record> {
        let attributes = Attributes { size: 9, mode: 0o644, mtime: -5, ..Attributes::default() };
        let xattrs = vec![(b"user.a"[..].into(), [7; 32])];
        let file = Body { attributes, symlink_target: Box::default(), xattrs, content: Some([3; 32]) };
        let empty = Attributes::default();
        let link =
            Body { attributes: empty, symlink_target: b"../x"[..].into(), xattrs: Vec::new(), content: None };
        let record = |name, kind, first: Option<&str>, body: Option<&Body>| Record {
            path: path(name),
            kind,
            first: first.map(path),
            body: body.cloned(),
        };
        vec![
            record("a", Kind::File, Some("a"), Some(&file)),
            record("b/c", Kind::File, Some("a"), None),
            record("l", Kind::Symlink, None, Some(&link)),
        ]
    }

    fn bytes(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        bytes
    }

    #[test]
    fn records_come_back_from_their_bytes() {
        for record in records() {
            let bytes = [bytes(&record), b"more".to_vec()].concat();
            assert_eq!(Record::read(&bytes, Reading::All), Some((record, &b"more"[..])));
        }
    }

    #[test]
    fn a_record_that_ends_too_early_or_makes_no_sense_is_none() {
        for record in records() {
            let bytes = bytes(&record);
            (0..bytes.len()).for_each(|at| assert_eq!(Record::read(&bytes[..at], Reading::All), None));
        }
        let [named, further, link] = &records()[..] else { unreachable!() };
        let lies = [
            Record { body: None, ..named.clone() },
            Record { body: named.body.clone(), ..further.clone() },
            Record { first: None, ..further.clone() },
            Record { first: Some(path("z")), ..further.clone() },
            Record { kind: Kind::Directory, ..link.clone() },
            Record { kind: Kind::Fifo, ..named.clone() },
        ];
        for lie in lies {
            assert_eq!(Record::read(&bytes(&lie), Reading::All), None, "{lie:?}");
        }
        // A file is read that should not be, or the other way round.
        assert_eq!(Record::read(&bytes(named), Reading::Nothing), None);
    }

    #[test]
    fn a_share_moves_on_and_leaves_no_path_out_for_long() {
        let paths: Vec<_> = (0..2000).map(|n| path(&format!("file-{n}"))).collect();
        for apart in [1, 3600, 86_400, 604_800] {
            let mut read = vec![0; paths.len()];
            for run in 0..100 {
                let reading = Reading::new(false, Some(5.0), Some(1_700_000_000 + run * apart)).unwrap();
                let chosen: Vec<_> = (0..paths.len()).filter(|at| reading.wants(&paths[*at], 1)).collect();
                assert!((50..150).contains(&chosen.len()), "{}", chosen.len());
                chosen.into_iter().for_each(|at| read[at] += 1);
            }
            assert!(read.iter().all(|times| (1..=20).contains(times)), "{apart}");
        }
        let everything = Reading::new(false, Some(100.0), None).unwrap();
        assert!(paths.iter().all(|path| everything.wants(path, 1) && !everything.wants(path, 0)));
    }

    #[test]
    fn shares_that_make_no_sense_are_a_usage_error() {
        for wrong in [0.0, -1.0, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Reading::new(false, Some(wrong), None).unwrap_err().exit_code(), 2);
        }
        assert_eq!(Reading::new(true, Some(5.0), None).unwrap_err().exit_code(), 2);
    }
}
