//! Files of a snapshot whose bytes neither the pool has nor the tree: somebody else changed them where they
//! lay. A volume that goes back to such a snapshot does so without them. It remembers that they are absent
//! from its tree, and its table keeps their rows, until they are brought.

use crate::pool::snapshot::PoolSnapshot;
use crate::pool::store::rows_with;
use crate::volume::handle::Volume;
use crate::volume::locked::LockedVolume;
use crate::volume::record::Absent;
use snapsync_manifest::{FILES, NextTable, Table};
use snapsync_model::{
    Context, Directories, Inode, Kind, Link, Monitor, Provider, RelPath, Result, Side, SnapshotInfo,
};
use snapsync_sys::{Spot, Stat};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use uuid::Uuid;

/// In a table's directory, where one is made that has rows of another.
const TOGETHER: &str = "together";
/// In a snapshot's directory, where its table is made anew.
pub(crate) const AGAIN: &str = "again";
/// Rows whose numbers went to other files get numbers from here downwards, which no file system uses.
const LAST: u64 = u64::MAX - 2;

impl LockedVolume {
    /// Gives rows of a snapshot the change times that their files have now, if they are as the rows say
    /// otherwise: a commit that went back has touched them.
    pub fn correct_times(
        &mut self,
        info: &SnapshotInfo,
        files: &HashMap<u64, Stat>,
        monitor: &Monitor,
    ) -> Result<()> {
        let (dir, again) = (self.dir_of(info.id), self.dir_of(info.id).join(AGAIN));
        let table = Table::open(&dir)?;
        if !table.info().is_current() {
            return Ok(());
        }
        let mut rows: BTreeMap<u64, Inode> = table.patch().iter().map(|row| (row.ino, row.clone())).collect();
        for row in table.pick(&files.keys().copied().collect())? {
            monitor.check()?;
            let is_as = |now: &&Stat| {
                (now.generation, now.kind, now.attributes.bare())
                    == (row.generation, row.kind, row.attributes.bare())
            };
            if let Some(now) = files.get(&row.ino).filter(is_as) {
                rows.insert(row.ino, Inode { ctime: now.ctime, blocks: now.blocks, ..row });
            }
        }
        again.create_dir().context("create the directory", again.show())?;
        let mut next = NextTable::create(&again, Some(&table), table.info().clone())?;
        rows.values().try_for_each(|row| next.write(row))?;
        next.finish(None)?;
        self.replace_with_again(&dir, &BTreeSet::new())
    }

    /// The tree is about to go back to a snapshot without some of its files, which are `lost`.
    pub fn remember_absent(&mut self, info: &SnapshotInfo, lost: &[Inode]) -> Result<()> {
        let objects: BTreeSet<u64> = lost.iter().map(|row| row.object).collect();
        self.set_absent(
            Some(Absent { snapshot: info.id, objects }).filter(|absent| !absent.objects.is_empty()),
        )
    }

    /// The tree has all files of its newest snapshot.
    pub fn forget_absent(&mut self) -> Result<()> {
        self.set_absent(None)
    }
}

impl Volume {
    /// The files of `info` that have neither an object nor their bytes in the tree, which holds what `now`
    /// says.
    pub fn lost_in(&self, info: &SnapshotInfo, now: &SnapshotInfo) -> Result<Vec<Inode>> {
        if info.provider != Provider::Pool {
            return Ok(Vec::new());
        }
        match self.differing(info, now)? {
            Some((was, is)) => lost(&was, &is),
            None => lost(&self.open_pool(info)?, &self.open_pool(now)?),
        }
    }

    /// Whether the tree lacks files of its newest snapshot, which the next round brings.
    pub fn has_absent(&self) -> bool {
        self.absent().is_some()
    }

    /// The files of a snapshot that the tree does not have, though it is the one that it holds.
    pub fn absent_files(&self, info: &SnapshotInfo) -> Result<Vec<Inode>> {
        if self.absent().is_none_or(|absent| absent.snapshot != info.id) {
            return Ok(Vec::new());
        }
        self.absent_rows(info.id, &Table::open(&self.dir_of(info.id))?)
    }

    fn absent_rows(&self, id: Uuid, table: &Table) -> Result<Vec<Inode>> {
        let absent = self.absent().filter(|absent| absent.snapshot == id);
        absent.map_or(Ok(Vec::new()), |absent| rows_with(&absent.objects, table))
    }

    /// Gives a table of `info` that was made from the tree the rows of what is absent, as the table of before
    /// in `dir` has them.
    pub(crate) fn put_absent(&self, info: &SnapshotInfo, dir: &Spot, again: &Spot) -> Result<()> {
        if self.absent().is_none() || !dir.join(FILES[0]).is_there() {
            return Ok(());
        }
        let (old, new) = (Table::open(dir)?, Table::open(again)?);
        let rows = elsewhere(self.absent_rows(info.id, &old)?, &old, &new)?;
        if rows.is_empty() {
            return Ok(());
        }
        let together = again.join(TOGETHER);
        together.create_dir().context("create the directory", together.show())?;
        let mut next = NextTable::create(&together, Some(&new), new.info().clone())?;
        let mut all: BTreeMap<u64, Inode> = if new.info().is_current() {
            new.patch().iter().map(|row| (row.ino, row.clone())).collect()
        } else {
            new.rows()?.map(|row| row.map(|row| (row.ino, row))).collect::<Result<_>>()?
        };
        all.extend(rows.into_iter().map(|row| (row.ino, row)));
        all.values().try_for_each(|row| next.write(row))?;
        next.finish(None)?;
        replace_files(&together, again)?;
        together.remove_tree().context("remove", together.show())
    }
}

fn lost(was: &PoolSnapshot, is: &PoolSnapshot) -> Result<Vec<Inode>> {
    let held: HashSet<u64> = is.inodes()?.map(|row| row.map(|row| row.object)).collect::<Result<_>>()?;
    let is_lost = |row: &Inode| !held.contains(&row.object) && was.is_without_object(row);
    was.inodes()?.filter(|row| row.as_ref().map_or(true, is_lost)).collect()
}

/// Rows of an old table as they fit into a new one: its directories may have been made anew, and its files
/// may have the numbers of old ones. Those whose names are taken are not absent.
fn elsewhere(mut rows: Vec<Inode>, old: &Table, new: &Table) -> Result<Vec<Inode>> {
    if rows.is_empty() {
        return Ok(rows);
    }
    let were = old.directories()?;
    let mut paths = HashMap::new();
    for link in rows.iter().flat_map(|row| &row.links) {
        paths.insert(link.parent, were.path_of(link.parent)?);
    }
    let parents = parents(&paths, new)?;
    let (_, entries) = new.directories_and_entries(&parents.values().copied().collect())?;
    let is_free =
        |link: &Link| entries.get(&link.parent).is_none_or(|entries| !entries.contains_key(&link.name));
    for row in &mut rows {
        let is = |link: &Link| Some(Link { parent: *parents.get(&link.parent)?, name: link.name.clone() });
        row.links = row.links.iter().filter_map(is).filter(is_free).collect();
        row.links.sort_unstable();
    }
    rows.retain(|row| !row.links.is_empty());
    let taken: BTreeSet<u64> =
        new.pick(&rows.iter().map(|row| row.ino).collect())?.into_iter().map(|row| row.ino).collect();
    let mut numbers = LAST;
    for row in rows.iter_mut().filter(|row| taken.contains(&row.ino)) {
        while !new.pick(&BTreeSet::from([numbers]))?.is_empty() {
            numbers -= 1;
        }
        row.ino = numbers;
        numbers -= 1;
    }
    Ok(rows)
}

/// The numbers that directories have in a new table, by those that they had.
fn parents(paths: &HashMap<u64, RelPath>, new: &Table) -> Result<HashMap<u64, u64>> {
    let mut found = HashMap::from([(snapsync_model::ROOT, snapsync_model::ROOT)]);
    let mut wanted: HashMap<&RelPath, u64> = paths.iter().map(|(ino, path)| (path, *ino)).collect();
    wanted.remove(&RelPath::root());
    if wanted.is_empty() {
        return Ok(found);
    }
    let directories: Directories = new.directories()?;
    for row in new.rows()? {
        let row = row?;
        if row.kind == Kind::Directory
            && let Some(link) = row.links.first()
            && let Some(was) = wanted.remove(&directories.path(link)?)
        {
            found.insert(was, row.ino);
        }
    }
    Ok(found)
}

/// Puts the files of a table in the place of others. The first is the last step back: once it is away from
/// `again`, the rest follows, now or after a crash.
pub(crate) fn replace_files(again: &Spot, dir: &Spot) -> Result<()> {
    for file in FILES {
        let (from, to) = (again.join(file), dir.join(file));
        let ino = |spot: &Spot| spot.stat().map(|stat| stat.ino);
        match (ino(&from), ino(&to)) {
            (Err(e), _) if e.kind() == io::ErrorKind::NotFound => continue,
            // To rename one name of a file to another of its names does nothing.
            (Ok(one), Ok(other)) if one == other => {
                from.remove_file().context("remove", from.show())?;
            }
            _ => from.rename(&to).context("replace", to.show())?,
        }
        again.sync().context("sync", again.show())?;
        dir.sync().context("sync", dir.show())?;
    }
    Ok(())
}
