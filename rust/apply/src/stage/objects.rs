//! Notes which objects must hold bytes that a commit destroys in the tree and that older snapshots find
//! nowhere else.
//!
//! `objects` in the stage has 8 bytes for each row of the manifest, in its order, little endian: the number
//! of the object, or 0 if nothing has to be kept.

use crate::check::space::WORTH;
use crate::check::untouched::{self, FindObjects, HasBytesOf};
use crate::known::{Row, What};
use crate::stage::incoming::Incoming;
use crate::stage::rows::{CHUNK, next_chunk};
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags};
use snapsync_manifest::Brief;
use snapsync_model::{Change, Context, Kind, RelPath, Result, object_path};
use snapsync_sys::{Entry, supports_reflinks};
use std::borrow::Borrow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const FILE: &str = "objects";
const POOL: &str = ".snapsync/store/pool";
const BYTES: usize = size_of::<u64>();
/// The most rows whose inodes are asked for before they are needed.
const AHEAD: u64 = 4096;

/// A file whose bytes will be destroyed.
pub(crate) struct Displaced {
    /// The number of its row in the manifest.
    pub(crate) at: u64,
    pub(crate) row: Row,
    pub(crate) number: u64,
    /// The path of its object.
    pub(crate) object: RelPath,
}

impl Borrow<Change> for Displaced {
    fn borrow(&self) -> &Change {
        &self.row.change
    }
}

impl Incoming<'_> {
    /// Says before `prepare` that older snapshots find bytes in the tree, so that their objects count as
    /// needed space. `by_range`: only what is overwritten, where that is less.
    pub fn will_displace(&mut self, by_range: bool) {
        (self.need.displaces, self.need.by_range) = (true, by_range);
    }

    /// Notes which objects the commit must make, once all data has arrived. A file that differs from the
    /// table gets none: its bytes must not be stored under the old number. Returns whether some of them
    /// change in place and are large: `number_after` then saves space.
    pub fn displaces(&mut self, find: &mut FindObjects<'_>) -> Result<bool> {
        self.journal.known = true;
        self.learn()?;
        // Otherwise nothing distinguishes the table's file from another one.
        if !self.knowledge.as_ref().is_some_and(|knowledge| knowledge.is_exact) {
            return Ok(false);
        }
        let path = self.staged(FILE)?;
        let show = self.root.show(&path);
        self.remove_staged(&path).context("remove", &show)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let file = self.root.open_at(&path, flags, Mode::from_raw_mode(0o600)).map(File::from);
        let file = file.context("create", &show)?;
        let rows = self.manifest_reader()?.counts()?.rows;
        file.set_len(rows * BYTES as u64).context("write", &show)?;
        let is_large = |change: &Change| change.survives() && change.old.is_some_and(|old| old.size >= WORTH);
        let mut has_large = false;
        let mut rows = self.manifest_reader()?.only_of_base(loses_bytes)?.numbered();
        loop {
            self.monitor.check()?;
            let number = |row: Result<(u64, Change)>| {
                let (row, change) = row?;
                has_large |= is_large(&change);
                Ok(row)
            };
            let chunk: Vec<u64> = rows.by_ref().take(CHUNK).map(number).collect::<Result<_>>()?;
            if chunk.is_empty() {
                break;
            }
            for (at, object) in self.to_be_kept(&chunk, find)? {
                file.write_all_at(&object.to_le_bytes(), at * BYTES as u64).context("write", &show)?;
            }
        }
        self.journal.displaces = true;
        Ok(has_large && !supports_reflinks(self.root.fd()))
    }

    /// Gives a round of its own for the numbers of files after they have changed in place.
    pub fn number_after(&mut self, round: u64) {
        self.journal.round = Some(round);
    }

    /// Refuses files whose bytes the rows build on or take away, and that may have others than the base.
    /// Called when the tree has been checked.
    pub fn expect_untouched(&mut self, base: (&mut FindObjects<'_>, &HasBytesOf<'_>)) -> Result<()> {
        self.journal.known = true;
        self.learn()?;
        if !self.knowledge.as_ref().is_some_and(|knowledge| knowledge.is_exact) {
            return Ok(());
        }
        let seen = |at| {
            let known = self.known(at)?;
            Ok((known.what == What::Checked).then_some((known.ino, known.ctime)))
        };
        let rows = self.manifest_reader()?.counts()?.rows;
        if rows <= AHEAD {
            // The commit asks for all of them: so the table is read once for both.
            let all = (0..rows).filter_map(|at| seen(at).transpose());
            base.0(&all.map(|row| Ok(row?.0)).collect::<Result<_>>()?)?;
        }
        let seen = |at, _: &Change| seen(at);
        untouched::expect(&self.root, self.manifest_reader()?, base, &seen, self.monitor)
    }

    /// Returns those of the rows whose object is missing, with its number.
    fn to_be_kept(&self, rows: &[u64], find: &mut FindObjects<'_>) -> Result<Vec<(u64, u64)>> {
        let known = rows.iter().map(|row| Ok((*row, self.known(*row)?))).collect::<Result<Vec<_>>>()?;
        let checked: Vec<_> = known.into_iter().filter(|(_, known)| known.what == What::Checked).collect();
        let found = find(&checked.iter().map(|(_, known)| known.ino).collect())?;
        let mut kept = Vec::new();
        for (row, known) in checked {
            let Some((object, ctime)) = found.get(&known.ino).copied() else { continue };
            if object == 0 || ctime != known.ctime {
                continue;
            }
            let path = in_pool(&object_path(object))?;
            if self.object(&path).context("open", self.root.show(&path))?.is_none() {
                kept.push((row, object));
            }
        }
        Ok(kept)
    }

    /// Looks up the file of an object.
    pub(crate) fn object(&self, object: &RelPath) -> io::Result<Option<Entry>> {
        match self.root.entry(object) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Calls `act` in parallel for each file whose bytes have to be kept.
    pub(crate) fn each_displaced(&self, act: impl Fn(&Displaced) -> Result<()> + Sync) -> Result<()> {
        if !self.journal.displaces {
            return Ok(());
        }
        let path = self.staged(FILE)?;
        let numbers = self.root.read(&path).context("open", self.root.show(&path))?;
        let number = |row: u64| -> io::Result<u64> {
            let mut bytes = [0; BYTES];
            numbers.read_exact_at(&mut bytes, row * BYTES as u64)?;
            Ok(u64::from_le_bytes(bytes))
        };
        let rows = self.manifest_reader()?.only_of_base(loses_bytes)?.numbered();
        let displaced = |row: Result<(u64, Change)>| {
            let (at, change) = row?;
            match number(at).context("read", self.root.show(&path))? {
                0 => Ok(None),
                object => {
                    let known = self.known(at)?;
                    let (row, number) = (Row { change, known }, object);
                    Ok(Some(Displaced { at, row, number, object: in_pool(&object_path(object))? }))
                }
            }
        };
        let mut rows = rows.filter_map(|row| displaced(row).transpose());
        loop {
            let chunk = next_chunk(&mut rows)?;
            if chunk.is_empty() {
                return Ok(());
            }
            chunk.par_iter().try_for_each(&act)?;
        }
    }
}

fn loses_bytes(row: &Brief<'_>) -> bool {
    row.kind == Kind::File && (row.flags.deleted || row.flags.data)
}

/// A path in the volume's pool.
pub(crate) fn in_pool(path: &str) -> Result<RelPath> {
    RelPath::new(format!("{POOL}/{path}").as_bytes())
}
