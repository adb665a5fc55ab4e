//! Saves what a commit will destroy in the stage before anything is overwritten, so that the commit can be
//! undone.
//!
//! `saved/rows` has a line of JSON for each row of the manifest that had an inode in the base, in the same
//! order. `saved/INODE` has the bytes that will be overwritten in place, at their offsets. Removed entries
//! need no copy, because they are only renamed.

use crate::commit::forward::open_for_flags;
use crate::known::Row;
use crate::stage::incoming::Incoming;
use crate::stage::rows::next_chunk;
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use snapsync_model::{
    Attributes, BLOCK, Change, Context, Error, Kind, ROOT, Range, Rare, RelPath, Result, SegmentKind, Xattr,
};
use snapsync_sys::{Entry, NOCOW, PROTECTIVE, fault, filesystem, layout_of_ranges, set_flags_of};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;

pub(crate) const DIR: &str = "saved";
const ROWS: &str = "saved/rows";
/// The old attributes of a directory that becomes the root of a tree.
const TOP: &str = "saved/root";
/// On a full disk the way back needs some space, which this file keeps free.
const BALLAST: &str = "saved/ballast";
const BALLAST_BYTES: u64 = 128 << 10;

/// An inode as it was before the commit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// The inode number in the manifest.
    ino: u64,
    pub(crate) attributes: Attributes,
    /// None if the commit sets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) xattrs: Option<Vec<Xattr>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<SavedData>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedData {
    /// The ranges that the commit touches; the last may be open-ended.
    pub(crate) touched: Vec<Range>,
    /// Which of these ranges were data, and which were preallocated; the rest were holes.
    pub(crate) data: Vec<Range>,
    pub(crate) unwritten: Vec<Range>,
}

/// Whether something of this row is saved.
pub(crate) fn is_saved(change: &Change) -> bool {
    !change.flags.created && !change.only_lends()
}

impl Incoming<'_> {
    /// Returns whether everything could be saved: a file that its owner may not read cannot.
    pub(crate) fn save(&self) -> Result<bool> {
        let dir = self.staged(DIR)?;
        let make = || {
            // An interrupted run may have left one.
            self.remove_staged(&dir)?;
            self.root.create_dir(&dir, 0o700)
        };
        make().context("make the directory", self.root.show(&dir))?;
        let path = self.staged(ROWS)?;
        let show = self.root.show(&path);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let file = self.root.open_at(&path, flags, Mode::from_raw_mode(0o600)).context("create", &show)?;
        let mut lines = BufWriter::new(File::from(file));
        let mut rows = self.known_rows_of_base(|_| true)?;
        let mut is_whole = true;
        loop {
            let chunk = next_chunk(&mut rows)?;
            if chunk.is_empty() {
                break;
            }
            let saved: Vec<Option<Vec<u8>>> = chunk
                .par_iter()
                .filter(|row| is_saved(&row.change))
                .map(|row| {
                    self.monitor.check()?;
                    self.save_row(row)
                })
                .collect::<Result<_>>()?;
            for line in saved {
                match line {
                    Some(line) => lines.write_all(&line).context("write", &show)?,
                    None => is_whole = false,
                }
            }
        }
        lines.flush().context("write", &show)?;
        if self.journal.base.is_none() {
            self.save_root()?;
        }
        self.take_ballast()?;
        Ok(is_whole)
    }

    fn save_root(&self) -> Result<()> {
        let path = self.staged(TOP)?;
        let save = || {
            let entry = self.root.entry(&RelPath::root())?;
            let (stat, xattrs) = (entry.stat()?, Some(entry.xattrs()?));
            let saved = Saved { ino: ROOT, attributes: stat.attributes, xattrs, data: None };
            let line = serde_json::to_vec(&saved)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            File::from(self.root.open_at(&path, flags, Mode::from_raw_mode(0o600))?).write_all(&line)
        };
        save().context("save the attributes of the root in", self.root.show(&path))
    }

    /// None if it was the root of a tree already, or an older build began.
    pub(crate) fn saved_root(&self) -> Result<Option<Saved>> {
        let path = self.staged(TOP)?;
        let text = match self.root.read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.and_then(std::io::read_to_string).context("read", self.root.show(&path))?,
        };
        serde_json::from_str(&text).map(Some).map_err(io::Error::from).context("read", self.root.show(&path))
    }

    fn take_ballast(&self) -> Result<()> {
        let path = self.staged(BALLAST)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let file = self.root.open_at(&path, flags, Mode::from_raw_mode(0o600)).map(File::from);
        let taken = file.and_then(|file| snapsync_sys::preallocate(&file, 0, BALLAST_BYTES));
        taken.context("reserve space for the way back in", self.root.show(&path))
    }

    pub(crate) fn give_ballast(&self) -> Result<()> {
        let path = self.staged(BALLAST)?;
        self.remove_staged(&path).context("remove", self.root.show(&path))
    }

    fn save_row(&self, Row { change, known }: &Row) -> Result<Option<Vec<u8>>> {
        let path = change.old_path.clone().unwrap_or_default();
        let entry = self.entry_of(&path, known)?;
        let saved = fault::step("save.row").and_then(|()| self.save_entry(change, &entry));
        saved.context("save what is to change of", change.display_path())
    }

    fn save_entry(&self, change: &Change, entry: &Entry) -> io::Result<Option<Vec<u8>>> {
        let mut attributes = entry.stat()?.attributes;
        if let Some((flags, rare)) = self.all_flags(change, entry)? {
            attributes = Attributes { flags, rare, ..attributes };
        }
        // Changing the owner removes the capabilities too.
        let is_displaced = self.journal.displaces && change.flags.deleted && change.kind == Kind::File;
        let is_taken = change.old.is_some_and(|old| old.flags & PROTECTIVE != 0) || is_displaced;
        let is_set = change.survives() && change.flags.any() || is_taken;
        let xattrs = if is_set { Some(entry.xattrs()?) } else { None };
        let changes_data = change.survives() && change.kind == Kind::File && change.flags.data;
        let data = if changes_data {
            match self.save_data(change, entry, &attributes) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
                other => Some(other?),
            }
        } else {
            None
        };
        let mut line = serde_json::to_vec(&Saved { ino: change.ino, attributes, xattrs, data })?;
        line.push(b'\n');
        Ok(Some(line))
    }

    /// Flags, project and hints, which stat does not tell, if the commit may change any.
    fn all_flags(&self, change: &Change, entry: &Entry) -> io::Result<Option<(u32, Rare)>> {
        let told = change.old.iter().chain(&change.new).fold(0, |all, a| all | a.flags);
        let has_rare = change.old.iter().chain(&change.new).any(|a| a.rare != Rare::default());
        let has_flags = matches!(change.kind, Kind::File | Kind::Directory) && change.survives();
        if !has_flags || (told & !self.journal.limits.flags == 0 && !has_rare) {
            return Ok(None);
        }
        match open_for_flags(entry) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            file => {
                let file = file?;
                Ok(Some((snapsync_sys::flags_of(&file)?, snapsync_sys::rare_of(&file)?)))
            }
        }
    }

    fn save_data(&self, change: &Change, entry: &Entry, was: &Attributes) -> io::Result<SavedData> {
        let file = entry.read()?;
        let filesystem = filesystem(&file)?;
        let touched = touched(change, was.size, filesystem.block_size.max(BLOCK));
        let layout = layout_of_ranges(&file, was.size, filesystem, &touched)?;
        let data = common(&touched, &layout.ranges(SegmentKind::Data));
        let unwritten = common(&touched, &layout.ranges(SegmentKind::Unwritten));
        if !data.is_empty() {
            let to = self.create_saved(change, was)?;
            for range in &data {
                self.monitor.check().map_err(io::Error::other)?;
                self.move_range(&file, &to, *range, was.size)?;
            }
        }
        Ok(SavedData { touched, data, unwritten })
    }

    fn create_saved(&self, change: &Change, was: &Attributes) -> io::Result<File> {
        let path = self.saved(change).map_err(io::Error::other)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let file = File::from(self.root.open_at(&path, flags, Mode::from_raw_mode(0o600))?);
        if was.flags & NOCOW != 0 {
            // Files can share blocks only if this flag is equal; otherwise they are copied.
            let _ = set_flags_of(&file, NOCOW);
        }
        file.set_len(was.size)?;
        Ok(file)
    }

    /// The path of the saved bytes of a row.
    pub(crate) fn saved(&self, change: &Change) -> Result<RelPath> {
        self.staged(&format!("{DIR}/{}", change.ino))
    }

    /// Calls `act` in parallel for every row of which something was saved.
    pub(crate) fn each_saved(
        &self,
        wanted: impl Fn(&Change) -> bool + Sync,
        act: impl Fn(&Row, &Saved) -> Result<()> + Sync,
    ) -> Result<()> {
        let mut lines = Lines::open(self)?;
        let mut rows = self.known_rows_of_base(|_| true)?;
        loop {
            let chunk = next_chunk(&mut rows)?;
            if chunk.is_empty() {
                return Ok(());
            }
            let saved = chunk.into_iter().filter(|row| is_saved(&row.change)).map(|row| {
                let saved = lines.next(&row.change)?;
                Ok((row, saved))
            });
            let saved: Vec<(Row, Saved)> = saved.collect::<Result<_>>()?;
            saved
                .par_iter()
                .filter(|(row, _)| wanted(&row.change))
                .try_for_each(|(row, saved)| act(row, saved))?;
        }
    }
}

struct Lines {
    file: BufReader<File>,
    path: PathBuf,
}

impl Lines {
    fn open(incoming: &Incoming<'_>) -> Result<Lines> {
        let rel = incoming.staged(ROWS)?;
        let path = incoming.root.show(&rel);
        let file = BufReader::new(incoming.root.read(&rel).context("open", &path)?);
        Ok(Lines { file, path })
    }

    fn next(&mut self, change: &Change) -> Result<Saved> {
        let mut line = Vec::new();
        self.file.read_until(b'\n', &mut line).context("read", &self.path)?;
        let saved = serde_json::from_slice::<Saved>(&line).ok().filter(|saved| saved.ino == change.ino);
        saved.ok_or_else(|| {
            Error::integrity(
                format!("{} does not say what {} was", self.path.display(), change.display_path()),
                "`snapsync recover` without --back goes on with the commit instead",
            )
        })
    }
}

/// The bytes of a file that the commit may touch, in whole blocks and without overlap.
pub(crate) fn touched(change: &Change, size: u64, block: u64) -> Vec<Range> {
    let new_size = change.new.map_or(0, |a| a.size);
    let is_cut = new_size != size || change.loses_tail() || change.beyond_end().next().is_some();
    let tail = is_cut.then(|| (new_size.min(size) / block * block, u64::MAX));
    let extents = change.extents.iter().map(|e| {
        let end = e.offset.saturating_add(e.length);
        (e.offset / block * block, end.checked_next_multiple_of(block).unwrap_or(u64::MAX))
    });
    let mut all: Vec<(u64, u64)> = extents.chain(tail).collect();
    all.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in all {
        match joined.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined.into_iter().map(|(start, end)| Range { offset: start, length: end - start }).collect()
}

/// The intersection of two lists of ranges.
pub(crate) fn common(one: &[Range], other: &[Range]) -> Vec<Range> {
    let (mut found, mut at) = (Vec::new(), 0);
    for range in one {
        at += other[at..].partition_point(|r| r.end() <= range.offset);
        for inner in other[at..].iter().take_while(|r| r.offset < range.end()) {
            let (start, end) = (inner.offset.max(range.offset), inner.end().min(range.end()));
            found.push(Range { offset: start, length: end - start });
        }
    }
    found
}

/// The parts of `whole` outside all others, which are sorted.
pub(crate) fn gaps(whole: Range, others: &[&[Range]]) -> Vec<Range> {
    let mut taken: Vec<Range> = others.iter().flat_map(|ranges| common(&[whole], ranges)).collect();
    taken.sort_unstable();
    let (mut found, mut at) = (Vec::new(), whole.offset);
    for range in taken {
        if range.offset > at {
            found.push(Range { offset: at, length: range.offset - at });
        }
        at = at.max(range.end());
    }
    if at < whole.end() {
        found.push(Range { offset: at, length: whole.end() - at });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pairs: &[(u64, u64)]) -> Vec<Range> {
        pairs.iter().map(|(offset, length)| Range { offset: *offset, length: *length }).collect()
    }

    #[test]
    fn what_is_in_two_lists_and_what_is_in_neither() {
        let (one, other) = (ranges(&[(0, 10), (20, 10)]), ranges(&[(5, 20), (28, 1), (40, 2)]));
        assert_eq!(common(&one, &other), ranges(&[(5, 5), (20, 5), (28, 1)]));
        let whole = Range { offset: 2, length: u64::MAX - 2 };
        let left = ranges(&[(2, 3), (25, 3), (29, 11), (42, u64::MAX - 42)]);
        assert_eq!(gaps(whole, &[&other]), left);
    }
}
