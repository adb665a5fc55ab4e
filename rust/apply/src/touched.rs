//! Which inodes of this volume the rows of a manifest speak of, noted before the commit changes any: the manifest's
//! numbers are those of the primary, what is deleted can be asked for its own only while it is there, and what the commit
//! changes must be what the check saw, whoever has exchanged names since.
//!
//! `known` in the stage has 32 bytes for each row of the manifest, in its order, little endian: number, change time,
//! birth time, and in one word whether it was checked (1) or is staged (2), its kind and its links.
//! Rows of new inodes are filled in when those are staged.

use crate::stage::{CHUNK, INCOMING, Incoming, MANIFEST, SIDE_BY_SIDE, next_chunk};
use crate::strays::is_absent;
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags};
use snapsync_manifest::Brief;
use snapsync_model::{Change, Context, Error, Kind, ROOT, RelPath, Result, Seen};
use snapsync_sys::{Entry, Parents, Root, Spot, Stat, has_lasting_identity, stat_at, stat_of};
use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

pub(crate) const FILE: &str = "known";
const BYTES: usize = 32;

/// What a row of the manifest speaks of here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    ino: u64,
    ctime: i64,
    /// Birth time.
    generation: u64,
    links: u32,
    kind: Option<Kind>,
    what: What,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum What {
    /// It was nowhere.
    #[default]
    Nothing,
    /// In the tree when it was checked.
    Checked,
    /// New, and in the stage.
    Staged,
    /// Older builds did not note it.
    Untold,
}

/// A row of the manifest, and what it speaks of here.
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
    fn of(stat: &Stat, what: What) -> Known {
        let Stat { ino, ctime, generation, nlink: links, kind, .. } = *stat;
        Known { ino, ctime, generation, links, kind: Some(kind), what }
    }

    /// How many names it had.
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

    fn from_bytes(bytes: &[u8; BYTES]) -> Known {
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

/// The file, when all its rows are written.
pub(crate) struct Knowledge {
    file: File,
    dev: (u32, u32),
    /// Inodes keep their numbers and birth times; else only the kind of an entry tells it from another.
    is_exact: bool,
}

impl Knowledge {
    fn open(root: &Root, at: &RelPath) -> Result<Knowledge> {
        let file = root.write(at).context("open", root.show(at))?;
        let look = || -> io::Result<((u32, u32), bool)> {
            let filesystem = snapsync_sys::filesystem(root.fd())?;
            Ok((stat_of(root.fd())?.dev, has_lasting_identity(root.fd(), filesystem)?))
        };
        let (dev, is_exact) = look().context("read the attributes of", root.path())?;
        Ok(Knowledge { file, dev, is_exact })
    }

    fn at(&self, row: u64) -> io::Result<Known> {
        let mut bytes = [0; BYTES];
        self.file.read_exact_at(&mut bytes, row * BYTES as u64)?;
        Ok(Known::from_bytes(&bytes))
    }

    fn set(&self, row: u64, known: Known) -> io::Result<()> {
        self.file.write_all_at(&known.to_bytes(), row * BYTES as u64)
    }
}

impl Incoming<'_> {
    /// Opens what is known, where the build that staged it noted it.
    pub(crate) fn learn(&mut self) -> Result<()> {
        if self.journal.known && self.knowledge.is_none() {
            self.knowledge = Some(Knowledge::open(&self.root, &self.staged(FILE)?)?);
        }
        Ok(())
    }

    /// Notes which inodes were made in the stage, when all are there.
    pub(crate) fn note_staged(&self) -> Result<()> {
        let Some(knowledge) = &self.knowledge else { return Ok(()) };
        let mut rows = self.manifest_reader()?.only(|row| row.flags.created).numbered();
        loop {
            let chunk: Vec<(u64, Change)> = rows.by_ref().take(CHUNK).collect::<Result<_>>()?;
            if chunk.is_empty() {
                break;
            }
            chunk.par_chunks(SIDE_BY_SIDE).try_for_each(|rows| {
                let mut parents = Parents::new(&self.root);
                rows.iter().try_for_each(|(row, change)| {
                    if change.path.as_ref().is_some_and(RelPath::is_root) {
                        return Ok(());
                    }
                    let path = self.staged_new(change, 0)?;
                    let noted = parents.of(&path).and_then(|(dir, name)| stat_at(dir, name));
                    let noted = noted.and_then(|stat| knowledge.set(*row, Known::of(&stat, What::Staged)));
                    noted.context("note what was staged of", change.display_path())
                })
            })?;
        }
        Ok(())
    }

    pub(crate) fn known(&self, row: u64) -> Result<Known> {
        let Some(knowledge) = &self.knowledge else {
            return Ok(Known { what: What::Untold, ..Known::default() });
        };
        knowledge.at(row).context("read what was checked in", self.root.show(&self.staged(FILE)?))
    }

    /// Whether an entry is what a row speaks of.
    pub(crate) fn is_known(&self, known: &Known, stat: &Stat) -> bool {
        let Some(Knowledge { dev, is_exact, .. }) = &self.knowledge else { return true };
        if !is_exact {
            return known.kind.is_none_or(|kind| kind == stat.kind);
        }
        let is = (stat.dev, stat.ino, stat.generation, Some(stat.kind));
        known.what != What::Nothing && (*dev, known.ino, known.generation, known.kind) == is
    }

    /// What is at `path`, if it is what the row speaks of.
    pub(crate) fn look_for(&self, path: &RelPath, known: &Known) -> Result<Option<Entry>> {
        let found = self.root.entry(path).and_then(|entry| entry.stat().map(|stat| (entry, stat)));
        match found {
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e).context("read the attributes of", self.root.show(path)),
            Ok((entry, stat)) => Ok((path.is_root() || self.is_known(known, &stat)).then_some(entry)),
        }
    }

    /// The same where nothing else will do.
    pub(crate) fn entry_of(&self, path: &RelPath, known: &Known) -> Result<Entry> {
        self.look_for(path, known)?.ok_or_else(|| self.exchanged(path))
    }

    /// What is not any more what the check saw.
    pub(crate) fn exchanged(&self, path: &RelPath) -> Error {
        Error::refused(
            format!("{} was exchanged or removed since it was checked", self.root.show(path).display()),
            "run the command again: it says what was changed by hand, and how to go on",
        )
    }

    /// Calls `act` for every row that is wanted, in parallel.
    pub(crate) fn each_known(
        &self,
        wanted: impl Fn(&Brief) -> bool + Sync,
        act: impl Fn(&Row) -> Result<()> + Sync,
    ) -> Result<()> {
        let mut rows = self.known_rows(wanted)?;
        loop {
            let chunk = next_chunk(&mut rows)?;
            if chunk.is_empty() {
                return Ok(());
            }
            chunk.par_iter().try_for_each(&act)?;
        }
    }

    pub(crate) fn known_rows(
        &self,
        wanted: impl Fn(&Brief) -> bool + Sync,
    ) -> Result<impl Iterator<Item = Result<Row>>> {
        let rows = self.manifest_reader()?.only(wanted).numbered();
        Ok(rows.map(|row| {
            let (row, change) = row?;
            Ok(Row { change, known: self.known(row)? })
        }))
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
    let (manifest, known) = (part(MANIFEST)?, part(FILE)?);
    let bytes = match (root.entry(&manifest), root.read(&known)) {
        (Err(e), _) | (_, Err(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        (_, file) => file.and_then(read_whole).context("read", root.show(&known))?,
    };
    let manifest = Spot::new(root.clone(), manifest);
    let (rows, rest) = bytes.as_chunks();
    let seen = |row| {
        let Known { ino, ctime, what, .. } = Known::from_bytes(row);
        (what == What::Checked).then_some(Seen { ino, ctime })
    };
    let seen = rows.iter().map(seen).collect();
    Ok(rest.is_empty().then_some(Applied { manifest, seen }))
}

fn read_whole(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
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
