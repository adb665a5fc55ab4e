//! What a standby reads for its primary: for a scrub, and of files that the primary has lost.

use crate::digest::{Digest, content};
use rayon::prelude::*;
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};
use snapsync_model::{Content, Error, Monitor, Range, RelPath, Result};
use snapsync_snapshot::Volume;
use snapsync_sys::is_leased;
use std::fs::File;
use std::io;
use std::sync::Once;

/// A range of a file that both sides read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub(crate) path: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) range: Range,
}

impl Piece {
    pub(crate) fn length(&self) -> u64 {
        self.range.length
    }

    /// Whether it lies within its file.
    pub(crate) fn is_sound(&self) -> bool {
        self.range.offset.checked_add(self.range.length).is_some_and(|end| end <= self.size)
    }
}

/// What one side has there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Seen {
    Holds(Digest),
    Lacks(String),
}

/// Reads ranges for a primary.
pub(crate) fn read(volume: &Volume, pieces: &[Piece], monitor: &Monitor) -> Result<Vec<Seen>> {
    let files = Files::of(volume, pieces.iter().map(|piece| &piece.path[..]));
    let look = |piece: &Piece| {
        let path = RelPath::new(&piece.path)?;
        match files.open(&path, piece.size)? {
            Ok(file) => seen(&file.into(), &path, piece.range, monitor),
            Err(why) => Ok(Seen::Lacks(why)),
        }
    };
    pieces.par_iter().with_max_len(1).map(look).collect()
}

/// The files that a primary asks about. Only replicated ones are opened.
pub(crate) struct Files<'v> {
    volume: &'v Volume,
    paths: Vec<&'v [u8]>,
    has_asked: Once,
}

impl<'v> Files<'v> {
    pub(crate) fn of(volume: &'v Volume, paths: impl Iterator<Item = &'v [u8]>) -> Files<'v> {
        Files { volume, paths: paths.collect(), has_asked: Once::new() }
    }

    /// A file of that size, or why there is none.
    pub(crate) fn open(&self, path: &RelPath, size: u64) -> Result<std::result::Result<File, String>> {
        let subset = self.volume.subset();
        let is_left_out = || snapsync_walk::left_out(self.volume.root(), path, false, subset);
        if path.as_bytes().split(|byte| *byte == b'/').next() == Some(snapsync_walk::STORE.as_bytes())
            || (!subset.is_everything() && is_left_out()?.is_some())
        {
            return Ok(Err("not replicated".to_owned()));
        }
        let opened = self.read(path).and_then(|file| file.metadata().map(|now| (file, now)));
        Ok(match opened {
            Ok((file, now)) if now.is_file() && now.len() == size => Ok(file),
            Ok(_) => Err("it has another size".to_owned()),
            Err(e) => Err(snapsync_model::reason(&e)),
        })
    }

    /// If somebody holds a lease, all holders are asked before any is waited for, so that their deadlines run
    /// in parallel.
    fn read(&self, path: &RelPath) -> io::Result<File> {
        let root = self.volume.root();
        let ask = || {
            let paths = self.paths.iter().filter_map(|path| RelPath::new(path).ok());
            paths.for_each(|path| drop(root.read_now(&path)));
        };
        match root.read_now(path) {
            Err(e) if is_leased(&e) => {
                self.has_asked.call_once(ask);
                root.read(path)
            }
            other => other,
        }
    }
}

/// Reads from the disk, not from the kernel's cache.
pub(crate) fn seen(file: &Content, path: &RelPath, range: Range, monitor: &Monitor) -> Result<Seen> {
    let forget = || {
        let length = std::num::NonZeroU64::new(range.length);
        // This is only advice: pages in memory may be read from there.
        let _ = file.bottom().map(|file| fadvise(file, range.offset, length, Advice::DontNeed));
    };
    forget();
    let found = content(file, path.as_path(), range, monitor);
    forget();
    match found {
        Ok(digest) => Ok(Seen::Holds(digest)),
        Err(Error::Io { source, .. }) => Ok(Seen::Lacks(snapsync_model::reason(&source))),
        Err(other) => Err(other),
    }
}
