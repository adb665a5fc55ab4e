//! The inodes that a commit touches: recorded during staging, and reported to the following snapshot.

use crate::check::unlisted::is_absent;
use crate::known::{FILE, Knowledge, Known, Row, What};
use crate::layout::{INCOMING, MANIFEST};
use crate::stage::fresh::is_bare;
use crate::stage::incoming::Incoming;
use crate::stage::rows::{CHUNK, SIDE_BY_SIDE, next_chunk};
use rayon::prelude::*;
use snapsync_manifest::Brief;
use snapsync_model::{Change, Context, Error, Kind, Op, Rare, RelPath, Result, Seen};
use snapsync_sys::{Entry, Parents, Root, Spot, Stat, stat_at};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use uuid::Uuid;

impl Incoming<'_> {
    /// Opens the recorded inodes, if the build that staged them recorded any.
    pub(crate) fn learn(&mut self) -> Result<()> {
        if self.journal.known && self.knowledge.is_none() {
            self.knowledge = Some(Knowledge::open(&self.root, &self.staged(FILE)?)?);
        }
        Ok(())
    }

    /// Records the inodes that were made in the stage, once all are there.
    pub(crate) fn note_staged(&self) -> Result<()> {
        let Some(knowledge) = &self.knowledge else { return Ok(()) };
        let mut rows = self.manifest_reader()?.only(|row| row.flags.created).numbered();
        loop {
            let chunk: Vec<(u64, Change)> = rows.by_ref().take(CHUNK).collect::<Result<_>>()?;
            if chunk.is_empty() {
                break;
            }
            chunk.par_chunks(SIDE_BY_SIDE).try_for_each(|rows| {
                let (mut parents, mut noted) = (Parents::new(&self.root), Vec::new());
                for (row, change) in rows {
                    if change.path.as_ref().is_some_and(RelPath::is_root) {
                        continue;
                    }
                    let path = self.staged_new(change, 0)?;
                    let stat = self.look_at_staged(&mut parents, &path, change);
                    let stat = stat.context_at("note what was staged of", || change.display_path())?;
                    noted.push((*row, Known::of(&stat, What::Staged)));
                }
                knowledge.set(&noted).context("note what was staged in", self.root.path())
            })?;
        }
        Ok(())
    }

    /// Keeps of each directory whether new files have nothing but data there.
    fn look_at_staged(
        &self,
        parents: &mut Parents<'_, bool>,
        path: &RelPath,
        change: &Change,
    ) -> io::Result<Stat> {
        let (dir, name) = parents.of(path)?;
        let stat = stat_at(dir, name)?;
        if !(self.is_own && self.is_plain(change, &stat)) {
            return Ok(stat);
        }
        let are_plain = match *parents.kept() {
            Some(are_plain) => are_plain,
            None => *parents.kept().insert(is_bare(&self.root.read(path)?)?),
        };
        if are_plain {
            self.plain.add(stat.ino, stat.generation, stat.ctime);
        }
        Ok(stat)
    }

    /// Whether a file was to have nothing but data, and takes no more blocks than that.
    fn is_plain(&self, change: &Change, stat: &Stat) -> bool {
        let (new, size) = (change.new.unwrap_or_default(), stat.attributes.size);
        let is_all_data =
            matches!(&change.extents[..], [all] if (all.op, all.offset, all.length) == (Op::Data, 0, size));
        change.kind == Kind::File
            && is_all_data
            && (new.flags, new.rare, stat.attributes.flags) == (0, Rare::default(), 0)
            && change.xattrs.as_ref().is_some_and(Vec::is_empty)
            && stat.nlink == 1
            && stat.blocks.saturating_mul(512) <= size.next_multiple_of(self.block)
    }

    pub(crate) fn known(&self, row: u64) -> Result<Known> {
        let Some(knowledge) = &self.knowledge else {
            return Ok(Known { what: What::Untold, ..Known::default() });
        };
        knowledge.at(row).context("read what was checked in", self.root.show(&self.staged(FILE)?))
    }

    /// Whether an entry is the inode that a row refers to.
    pub(crate) fn is_known(&self, known: &Known, stat: &Stat) -> bool {
        let Some(Knowledge { dev, is_exact, .. }) = &self.knowledge else { return true };
        if !is_exact {
            return known.kind.is_none_or(|kind| kind == stat.kind);
        }
        let is = (stat.dev, stat.ino, stat.generation, Some(stat.kind));
        known.what != What::Nothing && (*dev, known.ino, known.generation, known.kind) == is
    }

    /// The entry at `path`, if it is the one that the row refers to.
    pub(crate) fn look_for(&self, path: &RelPath, known: &Known) -> Result<Option<Entry>> {
        let found = self.root.entry(path).and_then(|entry| entry.stat().map(|stat| (entry, stat)));
        match found {
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e).context("read the attributes of", self.root.show(path)),
            Ok((entry, stat)) => Ok((path.is_root() || self.is_known(known, &stat)).then_some(entry)),
        }
    }

    /// The same, but fails for any other entry.
    pub(crate) fn entry_of(&self, path: &RelPath, known: &Known) -> Result<Entry> {
        self.look_for(path, known)?.ok_or_else(|| self.exchanged(path))
    }

    /// The error for an entry that is not the one that the check saw.
    pub(crate) fn exchanged(&self, path: &RelPath) -> Error {
        Error::refused(
            format!("{} was exchanged or removed since it was checked", self.root.show(path).display()),
            "run the command again: it says what was changed by hand, and how to go on",
        )
    }

    /// Calls `act` in parallel for these rows.
    pub(crate) fn each_known(
        &self,
        mut rows: impl Iterator<Item = Result<Row>>,
        act: impl Fn(&Row) -> Result<()> + Sync,
    ) -> Result<()> {
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
        wanted: impl Fn(&Brief<'_>) -> bool + Sync,
    ) -> Result<impl Iterator<Item = Result<Row>>> {
        let rows = self.manifest_reader()?.only(wanted).numbered();
        Ok(rows.map(|row| self.with_known(row)))
    }

    /// The same among inodes that the base has.
    pub(crate) fn known_rows_of_base(
        &self,
        wanted: impl Fn(&Brief<'_>) -> bool + Sync,
    ) -> Result<impl Iterator<Item = Result<Row>>> {
        let rows = self.manifest_reader()?.only_of_base(wanted)?.numbered();
        Ok(rows.map(|row| self.with_known(row)))
    }

    fn with_known(&self, row: Result<(u64, Change)>) -> Result<Row> {
        let (row, change) = row?;
        Ok(Row { change, known: self.known(row)? })
    }
}

/// The applied delta, as the stage still describes it.
pub struct Applied {
    pub manifest: Spot,
    /// One for each row of the manifest; None for created inodes.
    pub seen: Vec<Option<Seen>>,
}

/// None if the stage does not have it, or not completely.
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
