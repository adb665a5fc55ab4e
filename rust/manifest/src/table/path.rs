//! The row at one path in many tables. What a whole table has of the path is read once, however many tables
//! share it; of each table only its patch is read anew.

use crate::table::file::{ColumnsReader, NameRow, TableReader};
use crate::table::layers::{PATCH, WHOLE, identity, no_such_kind, patch_of_another};
use rayon::prelude::*;
use snapsync_model::{Context, Inode, Kind, ROOT, RelPath, Result};
use snapsync_sys::Spot;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Device and inode of a file that tables may share by links.
type Shared = ((u32, u32), u64);

/// Looks for one path in one table after another.
pub struct PathFinder {
    names: Vec<Box<[u8]>>,
    wholes: HashMap<Shared, Whole>,
    found: HashMap<Shared, Option<Inode>>,
}

/// What of a whole table can be part of the path.
struct Whole {
    id: Option<Uuid>,
    parts: Vec<Part>,
    /// Rows that were read.
    rows: HashMap<u64, Inode>,
}

/// A name of an inode that the path has, too.
struct Part {
    ino: u64,
    parent: u64,
    /// Where the path has it first.
    name: usize,
    is_directory: bool,
    /// Where its row is.
    batch: usize,
    row: usize,
}

impl PathFinder {
    pub fn new(path: &RelPath) -> PathFinder {
        let names = path.as_bytes().split(|byte| *byte == b'/').map(Box::from).collect();
        PathFinder { names, wholes: HashMap::new(), found: HashMap::new() }
    }

    /// The row of the path in the table in `dir`; None if there is none.
    pub fn find(&mut self, dir: &Spot) -> Result<Option<Inode>> {
        let table = shared(&identity(dir))?;
        if let Some(found) = self.found.get(&table) {
            return Ok(found.clone());
        }
        let found = self.look(dir)?;
        self.found.insert(table, found.clone());
        Ok(found)
    }

    fn look(&mut self, dir: &Spot) -> Result<Option<Inode>> {
        let file = shared(&dir.join(WHOLE))?;
        if !self.wholes.contains_key(&file) {
            let whole = self.read_whole(&dir.join(WHOLE))?;
            self.wholes.insert(file, whole);
        }
        let (patched, patch) = self.read_patch(dir, self.wholes[&file].id)?;
        let left = |part: &&Part| !patched.contains(&part.ino);
        let whole = &self.wholes[&file];
        let parts: Vec<&Part> = whole.parts.iter().filter(left).chain(&patch).collect();
        let Some(part) = self.resolve(&parts) else { return Ok(None) };
        if patched.contains(&part.ino) {
            return row_of(&dir.join(PATCH), part).map(Some);
        }
        if let Some(row) = whole.rows.get(&part.ino) {
            return Ok(Some(row.clone()));
        }
        let row = row_of(&dir.join(WHOLE), part)?;
        self.wholes.entry(file).and_modify(|whole| _ = whole.rows.insert(row.ino, row.clone()));
        Ok(Some(row))
    }

    fn read_whole(&self, path: &Spot) -> Result<Whole> {
        let reader = ColumnsReader::names(path)?;
        let parts = (0..reader.batches()).into_par_iter().map(|batch| {
            let mut parts = Vec::new();
            ColumnsReader::names(path)?.batch_at(batch)?.each(|name| parts.extend(self.part(batch, &name)));
            Ok(parts)
        });
        let parts: Vec<Vec<Part>> = parts.collect::<Result<_>>()?;
        let parts = parts.into_iter().flatten().collect();
        Ok(Whole { id: reader.whole()?, parts, rows: HashMap::new() })
    }

    /// The inodes that the patch of the whole table `id` speaks of, and those of its names that the path has.
    fn read_patch(&self, dir: &Spot, id: Option<Uuid>) -> Result<(HashSet<u64>, Vec<Part>)> {
        let (mut patched, mut parts) = (HashSet::new(), Vec::new());
        if id.is_none() {
            return Ok((patched, parts));
        }
        let mut reader = ColumnsReader::names(&dir.join(PATCH))?;
        if reader.whole()? != id {
            return Err(patch_of_another(dir));
        }
        for batch in 0..reader.batches() {
            let rows = reader.batch_at(batch)?;
            patched.extend(rows.numbers());
            rows.each(|name| parts.extend(self.part(batch, &name)));
        }
        Ok((patched, parts))
    }

    /// None where the path has no such name.
    fn part(&self, batch: usize, it: &NameRow<'_>) -> Option<Part> {
        let name = self.names.iter().position(|name| **name == *it.name)?;
        let is_directory = it.kind == Kind::Directory.name();
        Some(Part { ino: it.ino, parent: it.parent, name, is_directory, batch, row: it.row })
    }

    fn resolve<'p>(&self, parts: &[&'p Part]) -> Option<&'p Part> {
        let last = self.names.len() - 1;
        let mut above = ROOT;
        for (at, name) in self.names.iter().enumerate() {
            let is_next = |part: &&&Part| {
                part.parent == above && self.names[part.name] == *name && (at == last || part.is_directory)
            };
            let part: &Part = parts.iter().find(is_next)?;
            if at == last {
                return Some(part);
            }
            above = part.ino;
        }
        None
    }
}

fn row_of(file: &Spot, part: &Part) -> Result<Inode> {
    let batch = TableReader::open(file)?.batch_at(part.batch)?;
    batch.view().inode(part.row).ok_or_else(|| no_such_kind(file))
}

fn shared(file: &Spot) -> Result<Shared> {
    let stat = file.stat().context("read the attributes of", file.show())?;
    Ok((stat.dev, stat.ino))
}
