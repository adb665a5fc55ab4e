//! What a standby reads for a scrub.

use crate::digest::{Digest, content};
use rayon::prelude::*;
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};
use snapsync_model::{Error, Monitor, Range, RelPath, Result};
use snapsync_snapshot::Volume;
use snapsync_sys::{Root, is_leased};
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

/// Reads ranges for a primary. Only replicated files are read.
pub(crate) fn read(volume: &Volume, pieces: &[Piece], monitor: &Monitor) -> Result<Vec<Seen>> {
    let (root, has_asked) = (volume.root(), Once::new());
    let look = |piece: &Piece| {
        let path = RelPath::new(&piece.path)?;
        let is_left_out = || snapsync_walk::left_out(root, &path, false, volume.subset());
        if path.as_bytes().split(|byte| *byte == b'/').next() == Some(snapsync_walk::STORE.as_bytes())
            || (!volume.subset().is_everything() && is_left_out()?.is_some())
        {
            return Ok(Seen::Lacks("not replicated".to_owned()));
        }
        let file = match read_of(root, pieces, &path, &has_asked) {
            Err(e) => return Ok(Seen::Lacks(snapsync_model::reason(&e))),
            Ok(file) => file,
        };
        match file.metadata() {
            Ok(now) if now.is_file() && now.len() == piece.size => seen(&file, &path, piece.range, monitor),
            Ok(_) => Ok(Seen::Lacks("it has another size".to_owned())),
            Err(e) => Ok(Seen::Lacks(snapsync_model::reason(&e))),
        }
    };
    pieces.par_iter().with_max_len(1).map(look).collect()
}

/// Opens a file. If somebody holds a lease, all holders are asked before any is waited for, so that their
/// deadlines run in parallel.
fn read_of(root: &Root, pieces: &[Piece], path: &RelPath, has_asked: &Once) -> io::Result<File> {
    let ask = || {
        let paths = pieces.iter().filter_map(|piece| RelPath::new(&piece.path).ok());
        paths.for_each(|path| drop(root.read_now(&path)));
    };
    match root.read_now(path) {
        Err(e) if is_leased(&e) => {
            has_asked.call_once(ask);
            root.read(path)
        }
        other => other,
    }
}

/// Reads from the disk, not from the kernel's cache.
pub(crate) fn seen(file: &File, path: &RelPath, range: Range, monitor: &Monitor) -> Result<Seen> {
    let forget = || {
        let length = std::num::NonZeroU64::new(range.length);
        // This is only advice: pages in memory may be read from there.
        let _ = fadvise(file, range.offset, length, Advice::DontNeed);
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
