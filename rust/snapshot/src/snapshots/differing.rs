//! Two pool snapshots of a volume, each reduced to the inodes that may differ: snapshots that share their
//! whole table differ only in their patches.

use crate::pool::snapshot::PoolSnapshot;
use crate::volume::handle::Volume;
use snapsync_manifest::Table;
use snapsync_model::{Inode, Kind, Link, Provider, ROOT, Result, SnapshotInfo};
use std::cmp::Ordering;
use std::collections::BTreeSet;

type Lists = (Vec<Inode>, Vec<Inode>);

impl Volume {
    /// None if only complete lists show the differences.
    pub fn differing(
        &self,
        base: &SnapshotInfo,
        target: &SnapshotInfo,
    ) -> Result<Option<(PoolSnapshot, PoolSnapshot)>> {
        if [base, target].iter().any(|info| info.provider != Provider::Pool) {
            return Ok(None);
        }
        let (mut base, mut target) = (self.open_pool(base)?, self.open_pool(target)?);
        let Some((old, new)) = lists(&base.table, &target.table)? else { return Ok(None) };
        (base.listed, target.listed) = (Some(old), Some(new));
        Ok(Some((base, target)))
    }

    /// Reads at once what the whole table says of all inodes that differ among snapshots, up to the first
    /// with another whole table, and returns how many these are. One after the other, each pair of them
    /// would decode the same batches for a few inodes of its own.
    pub fn read_ahead(&self, snapshots: &[SnapshotInfo]) -> Result<usize> {
        let mut tables: Vec<Table> = Vec::new();
        for info in snapshots.iter().filter(|info| info.provider == Provider::Pool) {
            let table = Table::open(&self.dir_of(info.id))?;
            if tables.first().is_some_and(|first| !first.shares_whole_with(&table)) {
                break;
            }
            tables.push(table);
        }
        // For one pair it is done anyway.
        if let [first, _, _, ..] = &tables[..] {
            let patched = tables.iter().flat_map(|table| table.patch()).map(|row| row.ino);
            let inos: BTreeSet<u64> = patched.collect();
            first.read_ahead(&inos.into_iter().collect::<Vec<_>>())?;
        }
        Ok(tables.len())
    }

    /// Those that differ of two that share their whole table, if all others have the same paths in both.
    pub fn differing_alone(
        &self,
        base: &SnapshotInfo,
        target: &SnapshotInfo,
    ) -> Result<Option<(PoolSnapshot, PoolSnapshot)>> {
        let open = |info: &SnapshotInfo| Table::open(&self.dir_of(info.id));
        if base.provider != Provider::Pool || !open(base)?.shares_whole_with(&open(target)?) {
            return Ok(None);
        }
        let has_moved = |(was, is): (Option<&Inode>, Option<&Inode>)| {
            was.zip(is).is_some_and(|(was, is)| was.kind == Kind::Directory && was.links != is.links)
        };
        let listed = |side: &PoolSnapshot| side.listed.clone().unwrap_or_default();
        let differing = self.differing(base, target)?;
        Ok(differing.filter(|(a, b)| !pairs(&listed(a), &listed(b)).into_iter().any(has_moved)))
    }
}

/// The rows of two tables that differ.
fn differing_rows(base: &Table, target: &Table) -> Result<Lists> {
    if !base.shares_whole_with(target) {
        return merged(base, target);
    }
    let rows = base.patch().iter().chain(target.patch()).map(|row| row.ino);
    let differ: BTreeSet<u64> = rows.filter(|ino| base.patched(*ino) != target.patched(*ino)).collect();
    Ok((base.pick(&differ)?, target.pick(&differ)?))
}

/// The files that two tables do not know by the same bytes.
pub(super) fn files_that_differ(base: &Table, target: &Table) -> Result<BTreeSet<u64>> {
    let (old, new) = differing_rows(base, target)?;
    let bytes = |row: Option<&Inode>| {
        row.filter(|row| row.kind == Kind::File).map(|row| (row.generation, row.object))
    };
    let differ = pairs(&old, &new).into_iter().filter(|(was, is)| bytes(*was) != bytes(*is));
    Ok(differ.filter_map(|(was, is)| was.or(is)).map(|row| row.ino).collect())
}

fn lists(base: &Table, target: &Table) -> Result<Option<Lists>> {
    let (mut old, mut new) = differing_rows(base, target)?;
    let mut parents = BTreeSet::new();
    for (was, is) in pairs(&old, &new) {
        if let (Some(was), Some(is)) = (was, is)
            && was.kind == Kind::Directory
            && is.kind == Kind::Directory
            && was.ino != ROOT
            && was.generation != is.generation
        {
            // Entries of such a directory have other paths under the same names.
            return Ok(None);
        }
        let is_replaced = |was: &Inode, is: &Inode| (was.generation, was.kind) != (is.generation, is.kind);
        // A name that another inode has taken over is both removed and added, though the list of names is the
        // same.
        if links(was) != links(is) || was.zip(is).is_some_and(|(was, is)| is_replaced(was, is)) {
            parents.extend(links(was).iter().chain(links(is)).map(|link| link.parent));
        }
    }
    add(&mut old, base.pick(&parents)?);
    add(&mut new, target.pick(&parents)?);
    Ok(Some((old, new)))
}

fn merged(base: &Table, target: &Table) -> Result<Lists> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    let (mut from, mut to) = (base.rows()?, target.rows()?);
    let (mut was, mut is) = (from.next().transpose()?, to.next().transpose()?);
    loop {
        let order = match (&was, &is) {
            (None, None) => return Ok((old, new)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.ino.cmp(&is.ino),
        };
        let differ = was != is;
        if order.is_le() {
            old.extend(was.take().filter(|_| differ));
            was = from.next().transpose()?;
        }
        if order.is_ge() {
            new.extend(is.take().filter(|_| differ));
            is = to.next().transpose()?;
        }
    }
}

/// Both lists by number.
fn pairs<'a>(old: &'a [Inode], new: &'a [Inode]) -> Vec<(Option<&'a Inode>, Option<&'a Inode>)> {
    let find = |list: &'a [Inode], ino: u64| {
        list.binary_search_by_key(&ino, |inode| inode.ino).ok().map(|at| &list[at])
    };
    let inos: BTreeSet<u64> = old.iter().chain(new).map(|inode| inode.ino).collect();
    inos.into_iter().map(|ino| (find(old, ino), find(new, ino))).collect()
}

fn links(inode: Option<&Inode>) -> &[Link] {
    inode.map_or(&[], |inode| &inode.links)
}

fn add(list: &mut Vec<Inode>, more: Vec<Inode>) {
    list.extend(more);
    list.sort_by_key(|inode| inode.ino);
    list.dedup_by_key(|inode| inode.ino);
}
