//! Which inodes of this volume the rows of a manifest speak of, noted before the commit changes any: the manifest's
//! numbers are those of the primary, and what is deleted can be asked for its own only while it is there.
//!
//! `inodes` in the stage has 16 bytes for each row of the manifest, in its order: number and change time, little
//! endian; all bits are set for a row without an old path.

use crate::stage::{INCOMING, MANIFEST};
use rustix::fs::{Mode, OFlags};
use snapsync_model::{Change, Context, ROOT, RelPath, Result, Seen};
use snapsync_sys::{Root, Spot, Stat, stat_at};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

pub(crate) const FILE: &str = "inodes";
const NONE: Seen = Seen { ino: u64::MAX, ctime: -1 };

/// Writes the file. The seal makes it durable with the rest of the stage.
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
        // Numbers of another device mean something else.
        let stat = stat.filter(|stat| stat.dev == self.top.dev);
        let is_root = change.old_path.as_ref().is_some_and(|path| path.is_root());
        let seen =
            stat.map_or(NONE, |stat| Seen { ino: if is_root { ROOT } else { stat.ino }, ctime: stat.ctime });
        self.file.write_all(&to_bytes(seen)).context("write", &self.path)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.file.flush().context("write", &self.path)
    }
}

/// What was applied, as the stage still tells.
pub struct Applied {
    pub manifest: Spot,
    /// One for each row of the manifest; None for what was created.
    pub seen: Vec<Option<Seen>>,
}

/// None where the stage does not have it, or not whole.
pub fn applied(root: &Arc<Root>, snapshot: Uuid) -> Result<Option<Applied>> {
    let part = |name: &str| RelPath::new(format!("{INCOMING}/{snapshot}/{name}").as_bytes());
    let (manifest, inodes) = (part(MANIFEST)?, part(FILE)?);
    let bytes = match (root.entry(&manifest), root.read(&inodes)) {
        (Err(e), _) | (_, Err(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        (_, file) => file.and_then(read_whole).context("read", root.show(&inodes))?,
    };
    let manifest = Spot::new(root.clone(), manifest);
    let (rows, rest) = bytes.as_chunks();
    let seen = rows.iter().map(|row| from_bytes(*row)).collect();
    Ok(rest.is_empty().then_some(Applied { manifest, seen }))
}

fn read_whole(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn to_bytes(seen: Seen) -> [u8; 16] {
    let bytes = u128::from(seen.ino) | u128::from(seen.ctime as u64) << 64;
    bytes.to_le_bytes()
}

fn from_bytes(bytes: [u8; 16]) -> Option<Seen> {
    let bytes = u128::from_le_bytes(bytes);
    let seen = Seen { ino: bytes as u64, ctime: (bytes >> 64) as i64 };
    (seen != NONE).then_some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inode_comes_back_from_its_bytes() {
        for seen in [Seen { ino: 0, ctime: -5 }, Seen { ino: 1 << 63, ctime: i64::MIN }] {
            assert_eq!(from_bytes(to_bytes(seen)), Some(seen));
        }
        assert_eq!(from_bytes(to_bytes(NONE)), None);
    }
}
