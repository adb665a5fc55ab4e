//! Some files of a table once more: those that were changed, cut or removed before anybody has read them.

use crate::pool::ground::Ground;
use crate::pool::merge::counts_of;
use crate::pool::objects::{Counts, Objects, Old, is_absent, is_removed};
use crate::pool::store::PoolStore;
use crate::store::steady::UNSETTLED;
use snapsync_manifest::{NextTable, Table, gone};
use snapsync_model::{Context, Directories, Inode, Link, Monitor, Result, SnapshotInfo};
use snapsync_sys::{Root, Spot, stat_at, stat_of, sync_filesystem};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Writes a table like the last one but for these files; None where a directory above one has moved, so that
/// only a walk finds it.
pub(crate) fn take(
    store: &PoolStore,
    (info, last): (&SnapshotInfo, &Table),
    files: &BTreeSet<u64>,
    round: u64,
    dir: &Spot,
    monitor: &Monitor,
) -> Result<Option<Counts>> {
    let root = store.root.underneath()?.knowing_ways();
    let ground = Ground::of(store, &root)?;
    sync_filesystem(root.fd()).context("sync the file system of", store.path())?;
    let directories = last.directories()?;
    let objects = Objects::new(store, &root, round, &ground, monitor);
    let (mut counts, mut rows) = (counts_of(info, last)?, Rows::of(last));
    for row in last.pick(files)? {
        monitor.check()?;
        let Some(now) = again(&objects, &root, &directories, &row)? else { return Ok(None) };
        rows.put(&row, now, &mut counts);
    }
    objects.unread.finish()?;
    rows.write(dir, last)?;
    Ok(Some(counts))
}

/// Writes a table like the last one, in which these files are as another snapshot has them. Those that it
/// does not have are left out.
pub(crate) fn keep(
    (info, last): (&SnapshotInfo, &Table),
    files: &BTreeSet<u64>,
    before: Option<&Table>,
    dir: &Spot,
) -> Result<Counts> {
    let (mut counts, mut rows) = (counts_of(info, last)?, Rows::of(last));
    let kept = before.map(|before| before.pick(files)).transpose()?.unwrap_or_default();
    for row in last.pick(files)? {
        let is_it = |old: &&Inode| (old.ino, old.generation, old.kind) == (row.ino, row.generation, row.kind);
        let links = row.links.clone();
        let now = kept.iter().find(is_it).map(|old| Inode { links, ctime: UNSETTLED, ..old.clone() });
        rows.put(&row, now, &mut counts);
    }
    rows.write(dir, last)?;
    Ok(counts)
}

/// The rows of a table that differ from its whole one.
struct Rows(BTreeMap<u64, Inode>);

impl Rows {
    fn of(last: &Table) -> Rows {
        Rows(last.patch().iter().map(|row| (row.ino, row.clone())).collect())
    }

    /// None for a file that is gone.
    fn put(&mut self, row: &Inode, now: Option<Inode>, counts: &mut Counts) {
        counts.remove(row);
        now.iter().for_each(|now| counts.add(now));
        self.0.insert(row.ino, now.unwrap_or_else(|| gone(row.ino)));
    }

    fn write(&self, dir: &Spot, last: &Table) -> Result<()> {
        let mut next = NextTable::create(dir, Some(last), last.info().clone())?;
        self.0.values().try_for_each(|row| next.write(row))?;
        next.finish(None)
    }
}

/// The row of a file as it is now, None in it if the file is gone; None where that is not known.
fn again(
    objects: &Objects<'_>,
    root: &Root,
    directories: &Directories,
    row: &Inode,
) -> Result<Option<Option<Inode>>> {
    let mut links = Vec::new();
    for link in &row.links {
        let path = directories.path(link)?;
        if is_there(root, directories, link, row.ino) {
            links.push(link.clone());
        } else if !is_removed(root, &path, link, row.ino) {
            return Ok(None);
        }
    }
    let Some(first) = links.first() else { return Ok(Some(None)) };
    let path = directories.path(first)?;
    let walked = Inode { links, ..row.clone() };
    match objects.read(&path, &walked, Old::Perhaps(Some(row))) {
        // Its number went to another file, or it was removed just now: the next pass sees which.
        Err(e) if is_absent(&e) => Ok(Some(None)),
        now => now.map(|now| Some(Some(objects.dated(now)))),
    }
}

/// Whether a name still is that of the inode, in the directory where it was.
fn is_there(root: &Root, directories: &Directories, link: &Link, ino: u64) -> bool {
    let Ok(above) = directories.path_of(link.parent) else { return false };
    let Ok(dir) = root.directory(&above) else { return false };
    let is_parent = above.is_root() || stat_of(&dir).is_ok_and(|stat| stat.ino == link.parent);
    is_parent && stat_at(&dir, OsStr::from_bytes(&link.name)).is_ok_and(|stat| stat.ino == ino)
}
