//! The inode table of a snapshot on the disk: a whole table, which snapshots share while little changes, and
//! a patch with the rows that differ from it. So a round writes only what changed, and two snapshots with the
//! same whole table are compared by their patches alone.

use crate::file::damaged;
use crate::table::file::{
    ColumnsReader, NameRow, SomeColumns, TableBatch, TableInfo, TableReader, TableView, TableWriter, VERSION,
};
use crate::table::known::{Known, Names, ROWS};
use rayon::prelude::*;
use snapsync_model::{
    Attributes, Context, Directories, Error, Inode, Inodes, Kind, Link, Look, ROOT, Result,
};
use snapsync_sys::Spot;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::iter::Peekable;
use std::sync::Arc;
use uuid::Uuid;

pub(crate) const WHOLE: &str = "table.arrow";
pub(crate) const PATCH: &str = "patch.arrow";
/// A patch has at most this many rows, or this many for each batch of the whole table, which is a sixteenth
/// of all rows.
const LEAST: u64 = 256;
const FOR_BATCH: u64 = 512;

/// The files of a table, in the order in which they are replaced.
pub const FILES: [&str; 2] = [WHOLE, PATCH];

/// The file whose inode identifies this table.
pub fn identity(dir: &Spot) -> Spot {
    let patch = dir.join(PATCH);
    if patch.is_there() { patch } else { dir.join(WHOLE) }
}

pub(crate) fn patch_of_another(dir: &Spot) -> Error {
    Error::integrity(
        format!("{} is a patch of another table", dir.join(PATCH).show().display()),
        "delete that snapshot",
    )
}

pub(crate) fn no_such_kind(table: &Spot) -> Error {
    damaged(&table.show(), "a kind is unknown")
}

/// The names in a directory and the inode numbers they stand for.
pub type Entries = BTreeMap<Box<[u8]>, u64>;

pub struct Table {
    dir: Spot,
    info: TableInfo,
    /// Sorted by number. A row without names, except the root's, says that the inode is gone.
    patch: Vec<Inode>,
    known: Arc<Known>,
}

impl Table {
    pub fn open(dir: &Spot) -> Result<Table> {
        let mut info = TableReader::open(&dir.join(WHOLE))?.info()?;
        let mut patch = Vec::new();
        if info.whole.is_some() {
            let reader = TableReader::open(&dir.join(PATCH))?;
            let of = reader.info()?;
            if of.whole != info.whole {
                return Err(patch_of_another(dir));
            }
            info = of;
            patch = reader.collect::<Result<_>>()?;
        }
        let known = match info.whole {
            None => Arc::default(),
            Some(id) => {
                let whole = dir.join(WHOLE);
                let stat = whole.stat().context("read the attributes of", whole.show())?;
                Known::of((id, stat.dev, stat.ino))
            }
        };
        Ok(Table { dir: dir.clone(), info, patch, known })
    }

    pub fn info(&self) -> &TableInfo {
        &self.info
    }

    /// The rows that differ from the whole table.
    pub fn patch(&self) -> &[Inode] {
        &self.patch
    }

    /// The whole table.
    fn whole(&self) -> Result<TableReader> {
        TableReader::open(&self.dir.join(WHOLE))
    }

    /// Some rows of the whole table.
    pub fn batch_at(&self, at: usize) -> Result<TableBatch> {
        self.whole()?.batch_at(at)
    }

    /// The last number of each batch of the whole table.
    pub fn ends(&self) -> Result<Vec<u64>> {
        let path = self.dir.join(WHOLE);
        let ends = (0..self.whole()?.batches()).into_par_iter().map_init(Opened::default, |file, at| {
            let batch = file.get(|| ColumnsReader::numbers(&path))?.batch_at(at)?;
            Ok(batch.numbers().last().copied().unwrap_or(0))
        });
        ends.collect()
    }

    pub fn inode(&self, rows: &TableView<'_>, row: usize) -> Result<Inode> {
        rows.inode(row).ok_or_else(|| no_such_kind(&self.dir.join(WHOLE)))
    }

    /// Whether the two tables differ only in their patches.
    pub fn shares_whole_with(&self, other: &Table) -> bool {
        self.info.whole.is_some() && self.info.whole == other.info.whole
    }

    /// Every inode, in order.
    pub fn rows(&self) -> Result<TableRows<'_>> {
        Ok(TableRows::of(self.whole()?, Box::new(self.patch.iter().cloned().map(Ok))))
    }

    /// The patch's row for an inode: either its current row, or one that says it is gone.
    pub fn patched(&self, ino: u64) -> Option<&Inode> {
        self.patch.binary_search_by_key(&ino, |row| row.ino).ok().map(|at| &self.patch[at])
    }

    /// Those of these inodes that exist, sorted.
    pub fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        let (patched, others): (Vec<u64>, Vec<u64>) =
            inos.iter().partition(|ino| self.patched(**ino).is_some());
        let rows = patched.into_iter().filter_map(|ino| self.patched(ino)).filter(|row| !is_gone(row));
        let mut found: Vec<Inode> = rows.cloned().collect();
        if !others.is_empty() {
            found.append(&mut self.pick_whole(&others)?);
            found.sort_unstable_by_key(|inode| inode.ino);
        }
        Ok(found)
    }

    /// Reads what the whole table says of these inodes, in order, if it can be kept for who asks next.
    pub fn read_ahead(&self, inos: &[u64]) -> Result<()> {
        if inos.len() <= ROWS { self.pick_whole(inos).map(drop) } else { Ok(()) }
    }

    fn pick_whole(&self, inos: &[u64]) -> Result<Vec<Inode>> {
        let (mut rows, unknown) = self.known.rows(inos);
        if !unknown.is_empty() {
            let mut found = self.read_rows(&unknown)?;
            self.known.keep_rows(&unknown, &found);
            rows.append(&mut found);
        }
        Ok(rows)
    }

    /// The rows of these inodes in the whole table.
    fn read_rows(&self, inos: &[u64]) -> Result<Vec<Inode>> {
        let path = self.dir.join(WHOLE);
        let picked = (0..self.whole()?.batches()).into_par_iter().map_init(Opened::default, |file, at| {
            let numbers = file.get(|| ColumnsReader::numbers(&path))?.batch_at(at)?;
            let numbers = numbers.numbers();
            let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Ok(Vec::new()) };
            let here = inos.iter().skip_while(|ino| *ino < first).take_while(|ino| *ino <= last);
            let rows: Vec<usize> = here.filter_map(|ino| numbers.binary_search(ino).ok()).collect();
            if rows.is_empty() {
                return Ok(Vec::new());
            }
            let batch = self.batch_at(at)?;
            let view = batch.view();
            rows.into_iter().map(|row| self.inode(&view, row)).collect()
        });
        let picked: Vec<Vec<Inode>> = picked.collect::<Result<_>>()?;
        Ok(picked.into_iter().flatten().collect())
    }

    /// Finds an inode by one of its names and the directory of that name.
    pub fn find_link(&self, wanted: impl Fn(u64, u64, &[u8]) -> bool + Sync) -> Result<Option<u64>> {
        let has = |row: &&Inode| row.links.iter().any(|link| wanted(row.ino, link.parent, &link.name));
        if let Some(row) = self.patch.iter().find(has) {
            return Ok(Some(row.ino));
        }
        let found: Vec<Option<u64>> = self.each_batch_of_names(|names| {
            let mut found = None;
            names.each(|NameRow { ino, parent, name, .. }| {
                if found.is_none() && wanted(ino, parent, name) && self.patched(ino).is_none() {
                    found = Some(ino);
                }
            });
            found
        })?;
        Ok(found.into_iter().flatten().next())
    }

    /// The number of names of all inodes, with the root's.
    pub fn names(&self) -> Result<u64> {
        let of_whole: Vec<u64> = self.each_batch_of_names(|names| {
            let mut count = 0;
            names.each(|name| count += u64::from(self.patched(name.ino).is_none()));
            count
        })?;
        let of_patch: usize = self.patch.iter().map(|row| row.links.len()).sum();
        Ok(1 + of_patch as u64 + of_whole.iter().sum::<u64>())
    }

    pub fn directories(&self) -> Result<Directories> {
        Ok(self.directories_and_entries(&HashSet::new())?.0)
    }

    /// All directories, and the entries of those in `of`.
    pub fn directories_and_entries(&self, of: &HashSet<u64>) -> Result<(Directories, HashMap<u64, Entries>)> {
        let (of_whole, mut entries) = self.names_of_whole(of)?;
        let mut directories = Directories::default();
        for (ino, link) in of_whole.iter().filter(|(ino, _)| self.patched(*ino).is_none()) {
            directories.insert(*ino, link.clone());
        }
        for row in &self.patch {
            for link in &row.links {
                if of.contains(&link.parent) {
                    entries.entry(link.parent).or_default().insert(link.name.clone(), row.ino);
                }
                if row.kind == Kind::Directory {
                    directories.insert(row.ino, link.clone());
                }
            }
        }
        Ok((directories, entries))
    }

    /// All directories of the whole table, and those entries of the ones in `of` that are not in the patch.
    fn names_of_whole(&self, of: &HashSet<u64>) -> Result<(Names, HashMap<u64, Entries>)> {
        if of.is_empty()
            && let Some(known) = self.known.directories()
        {
            return Ok((known, HashMap::new()));
        }
        let found: Vec<Vec<(u64, Link, bool)>> = self.each_batch_of_names(|names| {
            let mut found = Vec::new();
            names.each(|NameRow { ino, kind, parent, name, .. }| {
                let is_directory = kind == Kind::Directory.name();
                if is_directory || of.contains(&parent) {
                    found.push((ino, Link { parent, name: name.into() }, is_directory));
                }
            });
            found
        })?;
        let (mut directories, mut entries) = (Vec::new(), HashMap::<u64, Entries>::new());
        for (ino, link, is_directory) in found.into_iter().flatten() {
            if of.contains(&link.parent) && self.patched(ino).is_none() {
                entries.entry(link.parent).or_default().insert(link.name.clone(), ino);
            }
            if is_directory {
                directories.push((ino, link));
            }
        }
        let directories = directories.into();
        self.known.keep_directories(&directories);
        Ok((directories, entries))
    }

    /// The looks at the inodes of one batch of the whole table, by which their rows can be checked. Leaves
    /// out the inodes of the patch.
    pub fn looks_at(&self, at: usize) -> Result<Vec<Look>> {
        let path = self.dir.join(WHOLE);
        let looks = ColumnsReader::looks(&path)?.batch_at(at)?.looks();
        let mut looks = looks.ok_or_else(|| no_such_kind(&path))?;
        looks.retain(|look| self.patched(look.ino).is_none());
        Ok(looks)
    }

    /// The number of batches of the whole table.
    pub fn batches(&self) -> Result<usize> {
        Ok(self.whole()?.batches())
    }

    fn each_batch_of_names<T: Send>(&self, act: impl Fn(&SomeColumns) -> T + Sync) -> Result<Vec<T>> {
        let path = self.dir.join(WHOLE);
        let batches = (0..ColumnsReader::names(&path)?.batches()).into_par_iter();
        let act = |file: &mut Opened, at| {
            file.get(|| ColumnsReader::names(&path))?.batch_at(at).map(|names| act(&names))
        };
        batches.map_init(Opened::default, act).collect()
    }
}

/// A reader for the batches that one thread takes in turn.
#[derive(Default)]
struct Opened(Option<ColumnsReader>);

impl Opened {
    fn get(&mut self, open: impl FnOnce() -> Result<ColumnsReader>) -> Result<&mut ColumnsReader> {
        match self.0 {
            Some(ref mut file) => Ok(file),
            None => Ok(self.0.insert(open()?)),
        }
    }
}

/// The rows of a whole table with its patch applied.
pub struct TableRows<'a> {
    whole: Peekable<TableReader>,
    patch: Peekable<Inodes<'a>>,
}

impl<'a> TableRows<'a> {
    fn of(whole: TableReader, patch: Inodes<'a>) -> TableRows<'a> {
        TableRows { whole: whole.peekable(), patch: patch.peekable() }
    }
}

impl Iterator for TableRows<'_> {
    type Item = Result<Inode>;

    fn next(&mut self) -> Option<Result<Inode>> {
        loop {
            let whole = match self.whole.peek() {
                Some(Err(_)) => return self.whole.next(),
                Some(Ok(inode)) => Some(inode.ino),
                None => None,
            };
            let comes = |row: &Result<Inode>| {
                row.as_ref().map_or(true, |row| whole.is_none_or(|whole| row.ino <= whole))
            };
            let row = match self.patch.next_if(comes) {
                None => return self.whole.next(),
                Some(Err(e)) => return Some(Err(e)),
                Some(Ok(row)) => row,
            };
            if whole == Some(row.ino) {
                self.whole.next();
            }
            if !is_gone(&row) {
                return Some(Ok(row));
            }
        }
    }
}

/// A row of a patch that says that an inode is gone.
pub fn gone(ino: u64) -> Inode {
    Inode {
        ino,
        generation: 0,
        kind: Kind::File,
        attributes: Attributes::default(),
        ctime: 0,
        blocks: 0,
        links: Vec::new(),
        details: None,
        object: 0,
        shared: false,
    }
}

pub fn is_gone(row: &Inode) -> bool {
    row.ino != ROOT && row.links.is_empty()
}

/// The next table of a volume, while it is being written.
pub struct NextTable<'a> {
    dir: &'a Spot,
    last: Option<&'a Table>,
    writer: TableWriter,
    info: TableInfo,
    rows: u64,
}

impl<'a> NextTable<'a> {
    /// With a last table, only the rows that differ from its whole table, and those that are gone, need to be
    /// written. `info` is the table's metadata, except which whole table it is.
    pub fn create(dir: &'a Spot, last: Option<&'a Table>, info: TableInfo) -> Result<NextTable<'a>> {
        let last = last.filter(|last| last.info.is_current());
        let whole = last.and_then(|last| last.info.whole).unwrap_or_else(Uuid::new_v4);
        let info = TableInfo { whole: Some(whole), complete: None, version: VERSION, ..info };
        // Existing files are never overwritten, because other snapshots may share them.
        let writer = TableWriter::create(&dir.join(if last.is_some() { PATCH } else { WHOLE }), &info)?;
        Ok(NextTable { dir, last, writer, info, rows: 0 })
    }

    /// Rows must come sorted.
    pub fn write(&mut self, row: &Inode) -> Result<()> {
        if self.last.is_none() && is_gone(row) {
            return Ok(());
        }
        self.rows += 1;
        self.writer.write(row)
    }

    /// Finishes the table, which is on the disk when this returns. `complete` goes into its metadata.
    pub fn finish(self, complete: Option<&str>) -> Result<()> {
        let (whole, patch) = (self.dir.join(WHOLE), self.dir.join(PATCH));
        let Some(last) = self.last else {
            self.writer.finish(None)?;
            return TableWriter::create(&patch, &self.info)?.finish(complete);
        };
        self.writer.finish(complete)?;
        let most = LEAST.max(last.whole()?.batches() as u64 * FOR_BATCH);
        // The number of links of a file is limited.
        if self.rows <= most && last.dir.join(WHOLE).link(&whole).is_ok() {
            return Ok(());
        }
        merge(last, self.dir, self.info, complete)
    }
}

/// Writes `last` with a patch that grew too large as a new whole table.
fn merge(last: &Table, dir: &Spot, info: TableInfo, complete: Option<&str>) -> Result<()> {
    let patch = TableReader::open(&dir.join(PATCH))?;
    let mut next = NextTable::create(dir, None, info)?;
    for row in TableRows::of(last.whole()?, Box::new(patch)) {
        next.write(&row?)?;
    }
    next.finish(complete)
}

/// Makes the same table again by linking its files, because nothing changed.
pub fn same_table(last: &Spot, dir: &Spot) -> Result<()> {
    for file in FILES.iter().filter(|file| last.join(file).is_there()) {
        let (from, to) = (last.join(file), dir.join(file));
        // The number of links of a file is limited.
        if from.link(&to).is_err() {
            copy(&from, &to).context("copy the table to", to.show())?;
        }
    }
    Ok(())
}

fn copy(from: &Spot, to: &Spot) -> std::io::Result<()> {
    let mut copy = to.create()?;
    std::io::copy(&mut from.open()?, &mut copy)?;
    copy.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::Details;
    use std::collections::BTreeMap;

    type Model = BTreeMap<u64, Inode>;

    fn spot(home: &tempfile::TempDir) -> Spot {
        Spot::top(std::sync::Arc::new(snapsync_sys::Root::open(home.path()).unwrap()))
    }

    /// Pseudo-random numbers from a seed.
    fn scramble(seed: u64) -> u64 {
        let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn inode(ino: u64, seed: u64) -> Inode {
        let is_dir = ino.is_multiple_of(10);
        let link = Link { parent: ino / 100 * 10, name: format!("{ino}-{}", seed % 3).into_bytes().into() };
        Inode {
            generation: seed,
            kind: if is_dir { Kind::Directory } else { Kind::File },
            ctime: seed as i64,
            links: if ino == ROOT { Vec::new() } else { vec![link] },
            details: Some(Box::new(Details::default())),
            object: if is_dir { 0 } else { seed },
            ..gone(ino)
        }
    }

    fn write(dir: &Spot, last: Option<(&Table, &Model)>, rows: &Model) -> Table {
        let mut next = NextTable::create(dir, last.map(|(table, _)| table), TableInfo::default()).unwrap();
        let nothing = Model::new();
        let whole = last.map_or(&nothing, |(_, whole)| whole);
        for ino in whole.keys().chain(rows.keys()).copied().collect::<BTreeSet<u64>>() {
            if whole.get(&ino) != rows.get(&ino) {
                next.write(rows.get(&ino).unwrap_or(&gone(ino))).unwrap();
            }
        }
        next.finish(None).unwrap();
        Table::open(dir).unwrap()
    }

    #[test]
    fn every_table_says_what_it_was_told_whichever_rows_its_patch_has() {
        let home = tempfile::tempdir().unwrap();
        let mut rows: Model = (0..9_000).map(|ino| (ino, inode(ino, ino))).collect();
        let dir = |round: u64| {
            let dir = spot(&home).join(round.to_string());
            dir.create_dir().unwrap();
            dir
        };
        let mut last = write(&dir(0), None, &rows);
        let (mut whole, mut wholes) = (rows.clone(), 1);
        for round in 1..9 {
            for turn in 0..[3, 0, 350, 900][round as usize % 4] {
                let ino = 1 + scramble(round * 1_000 + turn) % 10_000;
                match turn % 3 {
                    0 => drop(rows.remove(&ino)),
                    _ => drop(rows.insert(ino, inode(ino, round))),
                }
            }
            let next = write(&dir(round), Some((&last, &whole)), &rows);
            if !next.shares_whole_with(&last) {
                (whole, wholes) = (rows.clone(), wholes + 1);
            }
            assert!(next.patch().len() as u64 <= 3 * FOR_BATCH);
            assert_eq!(
                next.rows().unwrap().collect::<Result<Vec<_>>>().unwrap(),
                rows.values().cloned().collect::<Vec<_>>()
            );
            let asked: BTreeSet<u64> = (0..30).map(|turn| scramble(round * 77 + turn) % 11_000).collect();
            let there: Vec<Inode> = asked.iter().filter_map(|ino| rows.get(ino).cloned()).collect();
            assert_eq!(next.pick(&asked).unwrap(), there);
            let directories = next.directories().unwrap();
            for ino in (0..11_000).step_by(10) {
                assert_eq!(directories.contains(ino), ino == ROOT || rows.contains_key(&ino), "{ino}");
            }
            for ino in asked {
                let found = next.find_link(|number, _, _| number == ino).unwrap();
                assert_eq!(found, rows.contains_key(&ino).then_some(ino).filter(|ino| *ino != ROOT));
            }
            last = next;
        }
        assert!((2..6).contains(&wholes), "{wholes}");
    }

    #[test]
    fn a_table_without_its_own_patch_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (spot(&home).join("one"), spot(&home).join("other"));
        for dir in [&one, &other] {
            dir.create_dir().unwrap();
            write(dir, None, &(0..10).map(|ino| (ino, inode(ino, 1))).collect());
        }
        copy(&other.join(PATCH), &one.join(PATCH)).unwrap();
        assert_eq!(Table::open(&one).err().map(|e| e.exit_code()), Some(4));
        one.join(PATCH).remove_file().unwrap();
        assert!(Table::open(&one).is_err());
    }

    #[test]
    fn what_a_whole_table_was_found_to_say_is_not_read_again() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (spot(&home).join("one"), spot(&home).join("other"));
        one.create_dir().unwrap();
        other.create_dir().unwrap();
        let mut rows: Model = (0..9_000).map(|ino| (ino, inode(ino, ino))).collect();
        let first = write(&one, None, &rows);
        let asked = BTreeSet::from([2, 30, 8_999, 20_000]);
        let (found, whole) = (first.pick(&asked).unwrap(), rows.clone());
        first.directories().unwrap();
        drop(first);
        rows.remove(&30);
        let next = write(&other, Some((&Table::open(&one).unwrap(), &whole)), &rows);
        other.join(WHOLE).remove_file().unwrap();
        let left: Vec<Inode> = found.into_iter().filter(|row| row.ino != 30).collect();
        assert_eq!(left.len(), 2);
        assert_eq!(next.pick(&asked).unwrap(), left);
        let directories = next.directories().unwrap();
        assert!(directories.contains(40) && !directories.contains(30));
        assert!(next.pick(&BTreeSet::from([5])).is_err(), "nobody has asked for it before");
        let twin = spot(&home).join("twin");
        twin.create_dir().unwrap();
        FILES.iter().for_each(|file| copy(&one.join(file), &twin.join(file)).unwrap());
        let claims = Table::open(&twin).unwrap();
        twin.join(WHOLE).remove_file().unwrap();
        assert!(claims.pick(&asked).is_err(), "it is another file with the same id");
    }
}
