//! The format of a delta as in docs/format.md: head, manifest, frames, end.

use crate::codec::Codec;
use serde::{Deserialize, Serialize};
use snapsync_model::{
    AccountNames, Context, Counts, Error, Identity, Origin, Promotions, Result, SnapshotInfo,
};
use std::io::{self, Read, Write};
use std::path::Path;
use uuid::Uuid;

pub const MAGIC: [u8; 8] = *b"\x89SNSD\r\n\x1a";
pub const VERSION: u32 = 2;
/// The version of the first builds, whose manifests tell less about an inode.
const OLDEST: u32 = 1;
/// The most bytes of a frame before compression.
pub const LARGEST_FRAME: u32 = 4 << 20;
/// Most of it may be names of users and groups.
const LARGEST_HEADER: u32 = 4 << 20;

pub type Digest = [u8; 32];

/// The description of a delta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaHead {
    /// The version of the format, which stands before the rest.
    #[serde(skip)]
    pub version: u32,
    pub snapshot: SnapshotInfo,
    pub origin: Option<Origin>,
    pub base: Option<Identity>,
    /// None, None and 0 if the snapshot belongs to no volume.
    pub volume: Option<Uuid>,
    pub lineage: Option<Uuid>,
    pub epoch: u64,
    /// The promotions that led to that epoch.
    #[serde(default, skip_serializing_if = "Promotions::is_empty")]
    pub promotions: Promotions,
    pub filesystem: String,
    pub totals: Totals,
    pub software: String,
    /// Whether its volume has other numbers for users and groups than its lineage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_name: bool,
    /// The names of users and groups in the manifest; None if its maker could not tell them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<AccountNames>,
}

impl DeltaHead {
    pub fn identity(&self) -> Identity {
        Identity { id: self.snapshot.id, origin: self.origin }
    }
}

/// The totals of the manifest, sent before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub rows: u64,
    pub created: u64,
    pub changed: u64,
    pub renamed: u64,
    pub deleted: u64,
    pub data_bytes: u64,
}

impl From<&Counts> for Totals {
    fn from(counts: &Counts) -> Totals {
        Totals {
            rows: counts.rows,
            created: counts.created,
            changed: counts.changed,
            renamed: counts.renamed,
            deleted: counts.deleted,
            data_bytes: counts.data_bytes,
        }
    }
}

impl From<Totals> for Counts {
    fn from(totals: Totals) -> Counts {
        Counts {
            rows: totals.rows,
            created: totals.created,
            changed: totals.changed,
            renamed: totals.renamed,
            deleted: totals.deleted,
            data_bytes: totals.data_bytes,
            ..Counts::default()
        }
    }
}

pub fn software() -> String {
    format!("snapsync {}", env!("CARGO_PKG_VERSION"))
}

/// The announcement of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    pub length: u64,
    pub digest: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    pub codec: Codec,
    pub raw: u32,
    pub stored: u32,
    pub ino: u64,
    pub offset: u64,
    pub digest: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaEnd {
    pub frames: u64,
    pub bytes: u64,
    pub digest: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    Frame(FrameHead),
    End(DeltaEnd),
}

/// The totals of the frames of one stream, as the end record tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    seed: [Digest; 2],
    pub frames: u64,
    pub bytes: u64,
    of_heads: Digest,
}

impl Sum {
    pub fn new(head: Digest, manifest: Digest) -> Sum {
        Sum { seed: [head, manifest], frames: 0, bytes: 0, of_heads: [0; 32] }
    }

    pub fn add(&mut self, head: &FrameHead) {
        self.frames += 1;
        self.bytes += u64::from(head.raw);
        let digest = blake3::hash(&head.to_bytes());
        self.of_heads.iter_mut().zip(digest.as_bytes()).for_each(|(sum, byte)| *sum ^= byte);
    }

    pub fn end(&self) -> DeltaEnd {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed[0]).update(&self.seed[1]);
        hasher.update(&self.frames.to_le_bytes()).update(&self.bytes.to_le_bytes());
        let digest = *hasher.update(&self.of_heads).finalize().as_bytes();
        DeltaEnd { frames: self.frames, bytes: self.bytes, digest }
    }
}

/// Writes the head, and returns its digest.
pub fn write_head(to: &mut impl Write, header: &DeltaHead) -> io::Result<Digest> {
    let json = serde_json::to_vec(header)?;
    let length = u32::try_from(json.len()).ok().filter(|length| *length <= LARGEST_HEADER);
    let length = length.ok_or_else(|| io::Error::other("the header is too large"))?;
    let mut bytes = Vec::with_capacity(32 + json.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(json);
    let digest = *blake3::hash(&bytes).as_bytes();
    to.write_all(&bytes)?;
    to.write_all(&digest)?;
    Ok(digest)
}

/// Reads the head and its digest; `name` is for messages.
pub fn read_head(from: &mut impl Read, name: &Path) -> Result<(DeltaHead, Digest)> {
    let mut start = [0; 32];
    for at in 0..MAGIC.len() {
        fill(from, &mut start[at..=at], name)?;
        if start[at] != MAGIC[at] {
            return Err(damaged(name, "it does not begin as a delta does"));
        }
    }
    fill(from, &mut start[8..], name)?;
    let [version, length] = [8, 12].map(|at| u32_at(&start, at));
    let required = u64_at(&start, 16);
    if !(OLDEST..=VERSION).contains(&version) || required != 0 {
        let what = format!("{} has version {version} and needs features {required:#x}", name.display());
        return Err(Error::refused(what, "use the newer snapsync that this delta asks for"));
    }
    if length > LARGEST_HEADER {
        return Err(damaged(name, "its header is too large"));
    }
    let mut json = vec![0; length as usize];
    fill(from, &mut json, name)?;
    let mut digest = [0; 32];
    fill(from, &mut digest, name)?;
    if *blake3::Hasher::new().update(&start).update(&json).finalize().as_bytes() != digest {
        return Err(damaged(name, "its head is not what its digest says"));
    }
    let header: DeltaHead =
        serde_json::from_slice(&json).map_err(|e| damaged(name, &format!("its header: {e}")))?;
    Ok((DeltaHead { version, ..header }, digest))
}

impl ManifestHead {
    pub fn to_bytes(self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[0] = b'M';
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..].copy_from_slice(&self.digest);
        bytes
    }

    pub fn read(from: &mut impl Read, name: &Path) -> Result<ManifestHead> {
        let mut bytes = [0; 48];
        fill(from, &mut bytes, name)?;
        if bytes[..8] != *b"M\0\0\0\0\0\0\0" {
            return Err(damaged(name, "its manifest does not come first"));
        }
        Ok(ManifestHead { length: u64_at(&bytes, 8), digest: digest_at(&bytes, 16) })
    }
}

impl FrameHead {
    /// The head of a frame whose bytes are compressed if that made them fewer.
    pub fn of(raw: u32, stored: u32, ino: u64, offset: u64, digest: Digest) -> FrameHead {
        let codec = if stored < raw { Codec::Zstd } else { Codec::Stored };
        FrameHead { codec, raw, stored, ino, offset, digest }
    }

    pub fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0] = b'F';
        bytes[1] = self.codec as u8;
        bytes[4..8].copy_from_slice(&self.raw.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.stored.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.ino.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.offset.to_le_bytes());
        bytes[32..].copy_from_slice(&self.digest);
        bytes
    }

    /// None if a field has a forbidden value.
    fn parse(bytes: &[u8; 64]) -> Option<FrameHead> {
        let head = FrameHead {
            codec: Codec::from_number(bytes[1])?,
            raw: u32_at(bytes, 4),
            stored: u32_at(bytes, 8),
            ino: u64_at(bytes, 16),
            offset: u64_at(bytes, 24),
            digest: digest_at(bytes, 32),
        };
        let stored_fits = match head.codec {
            Codec::Stored => head.stored == head.raw,
            Codec::Zstd => head.stored < head.raw && head.stored > 0,
        };
        let fits = (1..=LARGEST_FRAME).contains(&head.raw)
            && stored_fits
            && head.offset.checked_add(u64::from(head.raw)).is_some();
        (fits && head.to_bytes() == *bytes).then_some(head)
    }
}

impl DeltaEnd {
    pub fn to_bytes(self) -> [u8; 56] {
        let mut bytes = [0; 56];
        bytes[0] = b'E';
        bytes[8..16].copy_from_slice(&self.frames.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..].copy_from_slice(&self.digest);
        bytes
    }

    fn parse(bytes: &[u8; 56]) -> Option<DeltaEnd> {
        let end =
            DeltaEnd { frames: u64_at(bytes, 8), bytes: u64_at(bytes, 16), digest: digest_at(bytes, 24) };
        (end.to_bytes() == *bytes).then_some(end)
    }
}

impl Record {
    pub fn read(from: &mut impl Read, name: &Path) -> Result<Record> {
        let mut bytes = [0; 64];
        fill(from, &mut bytes[..1], name)?;
        let record = match bytes[0] {
            b'F' => {
                fill(from, &mut bytes[1..], name)?;
                FrameHead::parse(&bytes).map(Record::Frame)
            }
            b'E' => {
                fill(from, &mut bytes[1..56], name)?;
                bytes.first_chunk().and_then(DeltaEnd::parse).map(Record::End)
            }
            _ => None,
        };
        record.ok_or_else(|| damaged(name, "it holds a record that makes no sense"))
    }
}

/// Fills `bytes`; if the input ends first, the delta was cut.
pub fn fill(from: &mut impl Read, bytes: &mut [u8], name: &Path) -> Result<()> {
    from.read_exact(bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => cut(name),
        _ => lift(e, "read", name),
    })
}

/// The workspace's error inside an I/O error, otherwise the I/O error with its action.
pub fn lift(error: io::Error, action: &'static str, name: &Path) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => gone(name),
        Err(error) => Err::<(), _>(error).context(action, name).unwrap_err(),
    }
}

fn gone(name: &Path) -> Error {
    Error::Cut {
        what: format!("nobody reads {} any more", name.display()),
        advice: "see what the reader said, and run both again: what has arrived is kept".to_owned(),
    }
}

fn cut(name: &Path) -> Error {
    Error::Cut {
        what: format!("{} ended before its end record", name.display()),
        advice: "run the same command again: what has arrived is kept, and it goes on from there".to_owned(),
    }
}

pub(crate) fn damaged(name: &Path, why: &str) -> Error {
    Error::integrity(
        format!("cannot read {} as a delta: {why}", name.display()),
        "send it again; nothing of it was applied",
    )
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]))
}

fn digest_at(bytes: &[u8], at: usize) -> Digest {
    std::array::from_fn(|n| bytes[at + n])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> FrameHead {
        FrameHead { codec: Codec::Zstd, raw: 4096, stored: 10, ino: 7, offset: 8192, digest: [3; 32] }
    }

    fn read(bytes: &[u8]) -> Result<Record> {
        Record::read(&mut &bytes[..], Path::new("test"))
    }

    #[test]
    fn records_come_back_from_their_bytes() {
        let end = DeltaEnd { frames: 3, bytes: 12_288, digest: [9; 32] };
        assert_eq!(read(&frame().to_bytes()).unwrap(), Record::Frame(frame()));
        assert_eq!(read(&end.to_bytes()).unwrap(), Record::End(end));
    }

    #[test]
    fn a_frame_that_makes_no_sense_is_refused() {
        let lies = [
            FrameHead { raw: 0, ..frame() },
            FrameHead { raw: LARGEST_FRAME + 1, ..frame() },
            FrameHead { stored: 0, ..frame() },
            FrameHead { stored: 4096, ..frame() },
            FrameHead { codec: Codec::Stored, ..frame() },
            FrameHead { offset: u64::MAX, ..frame() },
        ];
        for lie in lies {
            assert_eq!(read(&lie.to_bytes()).unwrap_err().exit_code(), 4, "{lie:?}");
        }
        for reserved in [1, 2, 12] {
            let mut bytes = frame().to_bytes();
            bytes[reserved] = 0x80;
            assert_eq!(read(&bytes).unwrap_err().exit_code(), 4);
        }
    }

    #[test]
    fn what_ends_too_early_can_go_on() {
        let bytes = frame().to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]).unwrap_err().exit_code(), 5);
        }
    }

    #[test]
    fn a_sum_does_not_depend_on_the_order() {
        let frames = [frame(), FrameHead { ino: 8, ..frame() }, FrameHead { raw: 5000, ..frame() }];
        let sum = |order: [usize; 3]| {
            let mut sum = Sum::new([1; 32], [2; 32]);
            order.iter().for_each(|at| sum.add(&frames[*at]));
            sum.end()
        };
        assert_eq!(sum([0, 1, 2]), sum([2, 0, 1]));
        assert_ne!(sum([0, 1, 2]).digest, sum([0, 1, 1]).digest);
    }
}
