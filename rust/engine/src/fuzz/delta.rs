//! Deltas of the volumes that are lied about, as they really are, and as somebody makes them up.

use crate::fuzz::lies::{Seen, alter};
use crate::fuzz::script::Move;
use crate::options::TransferOptions;
use crate::verbs::send::send;
use snapsync_manifest::{ManifestReader, ManifestWriter};
use snapsync_model::{Change, Extent, Link, Monitor, Op, RelPath};
use snapsync_stream::Compression;
use snapsync_stream::wire::{
    DeltaHead, Digest, FrameHead, MAGIC, ManifestHead, Record, Sum, VERSION, read_head,
};
use std::io::Read;
use std::path::{Path, PathBuf};

/// One that was made by who may.
pub(super) struct Delta {
    pub(super) header: DeltaHead,
    manifest: Vec<u8>,
    frames: Vec<(FrameHead, Vec<u8>)>,
}

/// The same as it goes over a channel.
pub(super) struct Told {
    pub(super) head: Vec<u8>,
    pub(super) frames: Vec<u8>,
}

impl Delta {
    /// The delta of `snapshot` from `base`; it passes through a file in `dir`.
    pub(super) fn of(snapshot: &Path, base: Option<PathBuf>, dir: &Path) -> Delta {
        let (file, transfer) =
            (dir.join("delta"), TransferOptions { compression: Compression::None, limit: None });
        let bases: Vec<PathBuf> = base.into_iter().collect();
        send(snapshot, &bases, Some(&file), None, &transfer, &Monitor::default()).expect("it can be sent");
        let bytes = std::fs::read(&file).expect("it was sent");
        std::fs::remove_file(&file).expect("it was sent");
        let from = &mut bytes.as_slice();
        let (header, _) = read_head(from, &file).expect("it has a head");
        let length = ManifestHead::read(from, &file).expect("it has a manifest").length;
        let mut manifest = vec![0; length as usize];
        from.read_exact(&mut manifest).expect("it has a manifest");
        let mut frames = Vec::new();
        while let Record::Frame(head) = Record::read(from, &file).expect("it has an end") {
            let mut bytes = vec![0; head.stored as usize];
            from.read_exact(&mut bytes).expect("a frame is whole");
            frames.push((head, bytes));
        }
        Delta { header, manifest, frames }
    }

    /// By which a stage is known that was made from it.
    pub(super) fn digest(&self) -> String {
        blake3::hash(&self.manifest).to_hex().to_string()
    }

    /// The delta as it is, except for the lie if there is one.
    pub(super) fn told(&self, lie: Option<Move>, seen: &Seen, dir: &Path) -> Told {
        let Some(lie) = lie else {
            return self.put(self.head(None, seen), &self.manifest, &self.frames, false);
        };
        let mut told = match lie.place % 8 {
            0 | 1 => self.put(self.head(Some(lie), seen), &self.manifest, &self.frames, false),
            2..=4 => self.put(self.head(None, seen), &self.with_other_row(lie, dir), &self.frames, false),
            5 => {
                let (head, frames) = (self.head(None, seen), self.other_frames(lie));
                self.put(head, &self.manifest, &frames, lie.value >= 128)
            }
            _ => self.put(self.head(None, seen), &self.manifest, &self.frames, lie.value >= 128),
        };
        let bytes = if lie.place & 8 == 0 { &mut told.frames } else { &mut told.head };
        let at = usize::from(lie.value) * 7 % bytes.len();
        match lie.place % 8 {
            6 => bytes[at] ^= 1 << (lie.place >> 5),
            7 => bytes.truncate(at),
            _ => {}
        }
        told
    }

    fn head(&self, lie: Option<Move>, seen: &Seen) -> Vec<u8> {
        let mut header = serde_json::to_value(&self.header).expect("a header can be told");
        if let Some(Move { place, value, .. }) = lie {
            alter(&mut header, place >> 3, value, seen);
        }
        let json = serde_json::to_vec(&header).expect("a header can be told");
        let start =
            [&MAGIC[..], &VERSION.to_le_bytes(), &(json.len() as u32).to_le_bytes(), &[0; 16]].concat();
        [start, json].concat()
    }

    fn put(&self, head: Vec<u8>, manifest: &[u8], frames: &[(FrameHead, Vec<u8>)], is_endless: bool) -> Told {
        let digest: Digest = *blake3::hash(&head).as_bytes();
        let of_manifest =
            ManifestHead { length: manifest.len() as u64, digest: *blake3::hash(manifest).as_bytes() };
        let mut sum = Sum::new(digest, of_manifest.digest);
        let mut bytes = Vec::new();
        for (head, payload) in frames {
            sum.add(head);
            bytes.extend(head.to_bytes());
            bytes.extend(payload);
        }
        if !is_endless {
            bytes.extend(sum.end().to_bytes());
        }
        let head = [&head[..], &digest, &of_manifest.to_bytes(), manifest].concat();
        Told { head, frames: bytes }
    }

    /// The manifest with one row that was made up.
    fn with_other_row(&self, lie: Move, dir: &Path) -> Vec<u8> {
        let file = dir.join("manifest");
        std::fs::write(&file, &self.manifest).expect("there is room");
        let reader = ManifestReader::open(&file).expect("it is a manifest");
        let header = reader.header().expect("it is a manifest");
        let mut rows: Vec<Change> = reader.map(|row| row.expect("it is a manifest")).collect();
        let count = rows.len().max(1);
        if let Some(row) = rows.get_mut(usize::from(lie.place >> 3) % count) {
            change(row, lie.value);
        }
        let mut writer = ManifestWriter::create(&file, &header).expect("there is room");
        rows.iter().for_each(|row| writer.write(row).expect("there is room"));
        writer.finish().expect("there is room");
        std::fs::read(&file).expect("it was written")
    }

    fn other_frames(&self, lie: Move) -> Vec<(FrameHead, Vec<u8>)> {
        let mut frames = self.frames.clone();
        let Some(at) = usize::from(lie.place >> 3).checked_rem(frames.len()) else { return frames };
        let (head, bytes) = &mut frames[at];
        match lie.value % 10 {
            0 => head.ino += 1,
            1 => head.ino = u64::MAX,
            2 => head.offset += 1,
            3 => head.offset = 1 << 40,
            4 => bytes.push(7),
            5 => bytes.truncate(bytes.len() / 2),
            6 => head.digest[0] ^= 1,
            7 => bytes.iter_mut().for_each(|byte| *byte ^= 1),
            8 => drop(frames.remove(at)),
            _ => frames.push(frames[at].clone()),
        }
        if let Some((head, bytes)) = frames.get_mut(at).filter(|_| matches!(lie.value % 10, 4 | 5 | 7)) {
            (head.raw, head.stored) = (bytes.len() as u32, bytes.len() as u32);
            head.digest = *blake3::hash(bytes).as_bytes();
        }
        frames
    }
}

/// One thing about a row is not as it is.
fn change(row: &mut Change, value: u8) {
    const NAMES: [&[u8]; 6] = [b".snapsync/x", b"a/.snapsync", b"link/x", b"inner", b"gone/under", b"big"];
    let path = || RelPath::new(NAMES[usize::from(value >> 5) % NAMES.len()]).ok();
    match value % 32 {
        0..=3 => row.path = path(),
        4 => row.old_path = path(),
        5 => row.links_added = path().into_iter().map(|path| link(row.ino, &path)).collect(),
        6 => row.links_removed = path().into_iter().map(|path| link(row.ino, &path)).collect(),
        7 => row.flags.created ^= true,
        8 => row.flags.deleted ^= true,
        9 => row.flags.renamed ^= true,
        10 => row.flags.data ^= true,
        11 => row.flags.links ^= true,
        12 => row.nlink = row.nlink.wrapping_sub(1),
        13 => row.nlink_old = u32::from(value),
        14 => row.ino = u64::from(value >> 5),
        15 => row.new = None,
        16 => row.new.iter_mut().for_each(|new| new.size = u64::MAX),
        17 => row.new.iter_mut().for_each(|new| new.mode = u32::MAX),
        18 => row.new.iter_mut().for_each(|new| new.mode ^= 0o4000),
        19 => row.symlink_target = Some((*b"../../outside/canary").into()),
        20 => row.extents.clear(),
        21 => row.extents.push(Extent {
            offset: 0,
            length: 1 << 62,
            op: Op::Data,
            source: None,
            checksum: None,
        }),
        22 => row.extents.iter_mut().for_each(|extent| extent.op = Op::Hole),
        23 => row.extents.iter_mut().for_each(|extent| extent.length += 1),
        24 => row.old = row.new,
        25 => std::mem::swap(&mut row.old_path, &mut row.path),
        26 => row.generation ^= 1,
        27 => row.xattrs = Some(Vec::new()),
        28 => row.kind = snapsync_model::Kind::Directory,
        29 => row.kind = snapsync_model::Kind::Symlink,
        30 => row.flags.attributes ^= true,
        _ => row.ino = u64::MAX,
    }
}

fn link(parent: u64, path: &RelPath) -> Link {
    Link { parent, name: path.split().map_or_else(Vec::new, |(_, name)| name.to_vec()).into() }
}
