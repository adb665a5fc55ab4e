//! Which objects tables name, without the rest of their rows: what is asked of many tables one after another.

use crate::table::file::ColumnsReader;
use crate::table::layers::{PATCH, WHOLE, patch_of_another};
use snapsync_model::Result;
use snapsync_sys::Spot;
use std::collections::{BTreeSet, HashMap, HashSet};
use uuid::Uuid;

/// The objects of a table.
pub struct ObjectTable {
    dir: Spot,
    whole: Option<Uuid>,
    /// Number and object of each row of the patch, sorted. The object is 0 where the inode has none, or is
    /// gone.
    patch: Vec<(u64, u64)>,
}

/// What becomes of objects from one table to the next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// The next one does not name them any more.
    pub ended: HashSet<u64>,
    /// The one before did not name them.
    pub begun: HashSet<u64>,
}

/// An inode that two tables may have otherwise: the object in each; None where its row is the whole table's.
type Unequal = (u64, Option<u64>, Option<u64>);

impl ObjectTable {
    pub fn open(dir: &Spot) -> Result<ObjectTable> {
        let whole = ColumnsReader::objects(&dir.join(WHOLE))?.whole()?;
        let mut patch = Vec::new();
        if whole.is_some() {
            let mut reader = ColumnsReader::objects(&dir.join(PATCH))?;
            if reader.whole()? != whole {
                return Err(patch_of_another(dir));
            }
            for at in 0..reader.batches() {
                let batch = reader.batch_at(at)?;
                patch.extend(batch.numbers().iter().copied().zip(batch.objects().iter().copied()));
            }
        }
        Ok(ObjectTable { dir: dir.clone(), whole, patch })
    }

    /// Whether the two tables differ only in their patches.
    pub fn shares_whole_with(&self, other: &ObjectTable) -> bool {
        self.whole.is_some() && self.whole == other.whole
    }

    /// Calls `act` with the object of every inode that has one.
    pub fn each(&self, mut act: impl FnMut(u64)) -> Result<()> {
        let mut rows = self.rows()?;
        while let Some((_, object)) = rows.next()? {
            if object != 0 {
                act(object);
            }
        }
        Ok(())
    }

    fn rows(&self) -> Result<Rows<'_>> {
        let whole = ColumnsReader::objects(&self.dir.join(WHOLE))?;
        Ok(Rows { whole, at: 0, batch: Vec::new().into_iter(), patch: &self.patch })
    }

    /// The objects of some inodes in the whole table.
    fn of_whole(&self, inos: &BTreeSet<u64>) -> Result<HashMap<u64, u64>> {
        let mut found = HashMap::new();
        if inos.is_empty() {
            return Ok(found);
        }
        let mut whole = ColumnsReader::objects(&self.dir.join(WHOLE))?;
        for at in 0..whole.batches() {
            let batch = whole.batch_at(at)?;
            let numbers = batch.numbers();
            let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { continue };
            for ino in inos.range(first..=last) {
                if let Ok(row) = numbers.binary_search(ino) {
                    found.insert(*ino, batch.objects()[row]);
                }
            }
        }
        Ok(found)
    }
}

/// Number and object of each row, sorted by number.
struct Rows<'a> {
    whole: ColumnsReader,
    at: usize,
    batch: std::vec::IntoIter<(u64, u64)>,
    patch: &'a [(u64, u64)],
}

impl Rows<'_> {
    fn next(&mut self) -> Result<Option<(u64, u64)>> {
        while self.batch.as_slice().is_empty() && self.at < self.whole.batches() {
            let batch = self.whole.batch_at(self.at)?;
            self.at += 1;
            let rows = batch.numbers().iter().copied().zip(batch.objects().iter().copied());
            self.batch = rows.collect::<Vec<_>>().into_iter();
        }
        let whole = self.batch.as_slice().first().map(|row| row.0);
        let Some((row, rest)) = self.patch.split_first() else { return Ok(self.batch.next()) };
        if whole.is_some_and(|whole| whole < row.0) {
            return Ok(self.batch.next());
        }
        if whole == Some(row.0) {
            self.batch.next();
        }
        self.patch = rest;
        Ok(Some(*row))
    }
}

/// What becomes of objects from each table of a line to the next. Each patch is read once, and a whole table
/// once for all tables in a row that share it.
pub fn turnovers(line: impl IntoIterator<Item = Result<ObjectTable>>) -> Result<Vec<Turnover>> {
    let (mut turns, mut open) = (Vec::new(), Vec::new());
    let mut last: Option<ObjectTable> = None;
    for table in line {
        let table = table?;
        if let Some(last) = &last {
            if last.shares_whole_with(&table) {
                open.push(unequal(&last.patch, &table.patch));
            } else {
                settle(last, &mut open, &mut turns)?;
                turns.push(apart(last, &table)?);
            }
        }
        last = Some(table);
    }
    if let Some(last) = &last {
        settle(last, &mut open, &mut turns)?;
    }
    Ok(turns)
}

/// The rows of two patches that are not the same in both.
fn unequal(mut old: &[(u64, u64)], mut new: &[(u64, u64)]) -> Vec<Unequal> {
    let mut unequal = Vec::new();
    loop {
        let (was, is) = (old.first().copied(), new.first().copied());
        let ino = match (was, is) {
            (None, None) => return unequal,
            (Some(was), None) => was.0,
            (None, Some(is)) => is.0,
            (Some(was), Some(is)) => was.0.min(is.0),
        };
        let (was, is) = (was.filter(|was| was.0 == ino), is.filter(|is| is.0 == ino));
        if was != is {
            unequal.push((ino, was.map(|was| was.1), is.map(|is| is.1)));
        }
        (old, new) = (&old[usize::from(was.is_some())..], &new[usize::from(is.is_some())..]);
    }
}

/// Looks up in the whole table that `of` shares with the tables before it what their patches leave out.
fn settle(of: &ObjectTable, open: &mut Vec<Vec<Unequal>>, turns: &mut Vec<Turnover>) -> Result<()> {
    let half = open.iter().flatten().filter(|(_, was, is)| was.is_none() || is.is_none());
    let whole = of.of_whole(&half.map(|(ino, ..)| *ino).collect())?;
    for unequal in open.drain(..) {
        let object = |ino: u64, object: Option<u64>| object.or_else(|| whole.get(&ino).copied());
        let pairs = unequal.into_iter().map(|(ino, was, is)| (object(ino, was), object(ino, is)));
        turns.push(Turnover::of(pairs));
    }
    Ok(())
}

/// The same of two tables that have little in common.
fn apart(old: &ObjectTable, new: &ObjectTable) -> Result<Turnover> {
    let (mut from, mut to, mut pairs) = (old.rows()?, new.rows()?, Vec::new());
    let (mut was, mut is) = (from.next()?, to.next()?);
    while let Some(ino) = [was, is].into_iter().flatten().map(|row| row.0).min() {
        let (left, right) = (was.filter(|row| row.0 == ino), is.filter(|row| row.0 == ino));
        if left != right {
            pairs.push((left.map(|row| row.1), right.map(|row| row.1)));
        }
        was = if left.is_some() { from.next()? } else { was };
        is = if right.is_some() { to.next()? } else { is };
    }
    Ok(Turnover::of(pairs))
}

impl Turnover {
    /// Of the objects that inodes had and have.
    fn of(pairs: impl IntoIterator<Item = (Option<u64>, Option<u64>)>) -> Turnover {
        let mut turn = Turnover::default();
        for (was, is) in pairs {
            turn.ended.extend(was.filter(|object| *object != 0));
            turn.begun.extend(is.filter(|object| *object != 0));
        }
        // An inode that has another number takes its object along.
        let both: Vec<u64> = turn.ended.intersection(&turn.begun).copied().collect();
        for object in both {
            turn.ended.remove(&object);
            turn.begun.remove(&object);
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::file::TableInfo;
    use crate::table::layers::{NextTable, Table, gone};
    use snapsync_model::{Inode, Link};
    use std::collections::BTreeMap;

    type Model = BTreeMap<u64, u64>;

    fn row((ino, object): (&u64, &u64)) -> Inode {
        let links = vec![Link { parent: 0, name: ino.to_string().into_bytes().into() }];
        Inode { links, object: *object, ..gone(*ino) }
    }

    fn write(dir: &Spot, last: Option<(&Table, &Model)>, rows: &Model) -> Table {
        dir.create_dir().unwrap();
        let mut next = NextTable::create(dir, last.map(|last| last.0), TableInfo::default()).unwrap();
        match last {
            None => rows.iter().for_each(|pair| next.write(&row(pair)).unwrap()),
            Some((_, whole)) => {
                let inos: BTreeSet<u64> = whole.keys().chain(rows.keys()).copied().collect();
                for ino in inos.into_iter().filter(|ino| whole.get(ino) != rows.get(ino)) {
                    let there = rows.get_key_value(&ino);
                    next.write(&there.map_or_else(|| gone(ino), row)).unwrap();
                }
            }
        }
        next.finish(None).unwrap();
        Table::open(dir).unwrap()
    }

    fn objects(rows: &Model) -> HashSet<u64> {
        rows.values().copied().filter(|object| *object != 0).collect()
    }

    #[test]
    fn objects_begin_and_end_where_the_rows_say_whichever_tables_share_their_whole() {
        let home = tempfile::tempdir().unwrap();
        let spot = Spot::top(std::sync::Arc::new(snapsync_sys::Root::open(home.path()).unwrap()));
        let mut rows: Model = (1..9_000).map(|ino| (ino, if ino % 7 == 0 { 0 } else { ino })).collect();
        let mut last = write(&spot.join("0"), None, &rows);
        let (mut whole, mut models, mut wholes) = (rows.clone(), vec![rows.clone()], 1);
        for round in 1..12_u64 {
            for turn in 0..[30, 0, 300, 900][round as usize % 4] {
                let ino = 1 + (turn * 2_654_435_761 + round * 97) % 10_000;
                match turn % 4 {
                    0 => drop(rows.remove(&ino)),
                    // It has another number, and keeps its object.
                    1 => drop(rows.remove(&ino).and_then(|object| rows.insert(20_000 + ino, object))),
                    _ => drop(rows.insert(ino, 100_000 * round + ino)),
                }
            }
            let next = write(&spot.join(round.to_string()), Some((&last, &whole)), &rows);
            if !next.shares_whole_with(&last) {
                (whole, wholes) = (rows.clone(), wholes + 1);
            }
            models.push(rows.clone());
            last = next;
        }
        assert!((2..9).contains(&wholes), "{wholes}");
        let open = |at: usize| ObjectTable::open(&spot.join(at.to_string()));
        let turns = turnovers((0..models.len()).map(open)).unwrap();
        for (at, (turn, pair)) in turns.iter().zip(models.windows(2)).enumerate() {
            let (old, new) = (objects(&pair[0]), objects(&pair[1]));
            assert_eq!(turn.ended, old.difference(&new).copied().collect(), "{at}");
            assert_eq!(turn.begun, new.difference(&old).copied().collect(), "{at}");
            let mut named = HashSet::new();
            open(at).unwrap().each(|object| assert!(named.insert(object))).unwrap();
            assert_eq!(named, old, "{at}");
        }
        assert_eq!(turns.len(), models.len() - 1);
    }
}
