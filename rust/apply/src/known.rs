//! The inodes of this volume that the rows of a manifest refer to, noted before the commit changes any: the
//! manifest has the primary's numbers, a deleted inode can be identified only while it exists, and the commit
//! must change exactly what the check saw, even if somebody exchanges names.
//!
//! `known` in the stage has 32 bytes for each row of the manifest, in the same order and little-endian:
//! number, change time, birth time, and one word with whether it was checked (1) or staged (2), its kind and
//! its links. Rows of new inodes are filled in when those are staged.

use rustix::fs::{Mode, OFlags};
use snapsync_model::{Change, Context, Kind, ROOT, RelPath, Result};
use snapsync_sys::{Root, Stat, has_lasting_identity, stat_at, stat_of};
use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

pub(crate) const FILE: &str = "known";
const BYTES: usize = 32;

/// The inode of this volume that a row of the manifest refers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) ino: u64,
    pub(crate) ctime: i64,
    /// Birth time.
    pub(crate) generation: u64,
    pub(crate) links: u32,
    pub(crate) kind: Option<Kind>,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum What {
    /// It did not exist.
    #[default]
    Nothing,
    /// It was in the tree during the check.
    Checked,
    /// It is new, and in the stage.
    Staged,
    /// Older builds did not note it.
    Untold,
}

/// A row of the manifest, and the inode it refers to here.
pub(crate) struct Row {
    pub(crate) change: Change,
    pub(crate) known: Known,
}

impl Borrow<Change> for Row {
    fn borrow(&self) -> &Change {
        &self.change
    }
}

impl Known {
    pub(crate) fn of(stat: &Stat, what: What) -> Known {
        let Stat { ino, ctime, generation, nlink: links, kind, .. } = *stat;
        Known { ino, ctime, generation, links, kind: Some(kind), what }
    }

    /// The number of names that it had.
    pub(crate) fn links(&self) -> Option<u32> {
        matches!(self.what, What::Checked | What::Staged).then_some(self.links)
    }

    fn to_bytes(self) -> [u8; BYTES] {
        let Known { ino, ctime, generation, links, kind, what } = self;
        let kind = u64::from(kind.map_or(0, Kind::mode_bits));
        let what = what as u64 | kind << 8 | u64::from(links) << 32;
        let mut bytes = [0; BYTES];
        let words = [ino, ctime as u64, generation, what];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; BYTES]) -> Known {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let [ino, ctime, generation, last] = words;
        let what = match last as u8 {
            1 => What::Checked,
            2 => What::Staged,
            _ => What::Nothing,
        };
        let kind = Kind::from_mode((last >> 8) as u32 & 0xff_ffff);
        Known { ino, ctime: ctime as i64, generation, links: (last >> 32) as u32, kind, what }
    }
}

/// Writes the file. The seal makes it durable together with the rest of the stage.
pub(crate) struct Recorder {
    file: BufWriter<File>,
    path: PathBuf,
    top: Stat,
}

impl Recorder {
    pub(crate) fn create(root: &Root, at: &RelPath) -> Result<Recorder> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY;
        let path = root.show(at);
        let file = root.open_at(at, flags, Mode::from_raw_mode(0o600)).context("create", &path)?;
        let file = BufWriter::new(File::from(file));
        let top = stat_at(root.fd(), OsStr::new(".")).context("read the attributes of", root.path())?;
        Ok(Recorder { file, path, top })
    }

    pub(crate) fn row(&mut self, change: &Change, stat: Option<&Stat>) -> Result<()> {
        // Numbers on another device mean something else.
        let stat = stat.filter(|stat| stat.dev == self.top.dev);
        let mut known = stat.map_or(Known::default(), |stat| Known::of(stat, What::Checked));
        if stat.is_some() && change.old_path.as_ref().is_some_and(RelPath::is_root) {
            known.ino = ROOT;
        }
        self.file.write_all(&known.to_bytes()).context("write", &self.path)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.file.flush().context("write", &self.path)
    }
}

/// The file, once all its rows are written.
pub(crate) struct Knowledge {
    file: File,
    pub(crate) dev: (u32, u32),
    /// Whether inodes keep their numbers and birth times; otherwise entries are identified only by kind.
    pub(crate) is_exact: bool,
}

impl Knowledge {
    pub(crate) fn open(root: &Root, at: &RelPath) -> Result<Knowledge> {
        let file = root.write(at).context("open", root.show(at))?;
        let look = || -> io::Result<((u32, u32), bool)> {
            let filesystem = snapsync_sys::filesystem(root.fd())?;
            Ok((stat_of(root.fd())?.dev, has_lasting_identity(root.fd(), filesystem)?))
        };
        let (dev, is_exact) = look().context("read the attributes of", root.path())?;
        Ok(Knowledge { file, dev, is_exact })
    }

    pub(crate) fn at(&self, row: u64) -> io::Result<Known> {
        let mut bytes = [0; BYTES];
        self.file.read_exact_at(&mut bytes, row * BYTES as u64)?;
        Ok(Known::from_bytes(&bytes))
    }

    pub(crate) fn set(&self, rows: &[(u64, Known)]) -> io::Result<()> {
        rows.chunk_by(|(one, _), (next, _)| one + 1 == *next).try_for_each(|rows| {
            let bytes: Vec<u8> = rows.iter().flat_map(|(_, known)| known.to_bytes()).collect();
            self.file.write_all_at(&bytes, rows[0].0 * BYTES as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inode_comes_back_from_its_bytes() {
        for what in [What::Nothing, What::Checked, What::Staged] {
            let (ino, links, kind) = (1 << 63, u32::MAX, Some(Kind::Symlink));
            let known = Known { ino, ctime: i64::MIN, generation: 7, links, kind, what };
            assert_eq!(Known::from_bytes(&known.to_bytes()), known);
        }
        assert_eq!(Known::from_bytes(&[0; BYTES]), Known::default());
    }
}
