//! A standby's snapshot after an apply: the last table and the manifest make the next one. Only what the
//! manifest names is looked at, so that the cost of file-system access follows the change. Where anything
//! does not fit, the tree is walked instead: a table is never a guess.

use crate::pool::attempt::{Attempt, Stop, give_up, misfit};
use crate::pool::ground::{Ground, is_numbered};
use crate::pool::merge::{Merge, Touched, Vanished, counts_of};
use crate::pool::objects::{Counts, Objects};
use crate::pool::store::PoolStore;
use crate::pool::take;
use rayon::prelude::*;
use snapsync_manifest::{FILES, ManifestReader, NextTable, Table, TableInfo, same_table};
use snapsync_model::{Change, Context, Inode, Kind, Link, Monitor, ROOT, RelPath, Result, Seen, Subset};
use snapsync_sys::{Root, Spot, Stat, stat_at, sync_filesystem};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use uuid::Uuid;

/// How the tree came to its present state.
pub struct Delta {
    /// The snapshot of this volume that the tree held before.
    pub base: Uuid,
    /// The manifest that was applied since. Its inode numbers are those of another volume.
    pub manifest: Spot,
    /// The inodes of this volume that the rows of the manifest referred to, in their order; None for a new
    /// one.
    pub seen: Vec<Option<Seen>>,
}

const CHUNK: usize = 4096;

/// Writes the table of the volume's tree to `dir`, from the table before if possible.
pub(crate) fn take(
    store: &PoolStore,
    subset: &Subset,
    round: u64,
    dir: &Spot,
    delta: Result<Delta, &str>,
    monitor: &Monitor,
) -> Result<Counts> {
    if !is_numbered(&store.root, store.filesystem)? {
        // The numbers in the table are not those of the tree.
        return take::take(store, subset, round, dir, monitor);
    }
    let attempt = match delta {
        Ok(delta) => attempt(store, round, dir, delta, monitor),
        Err(why) => misfit(why),
    };
    match attempt {
        Ok(counts) => Ok(counts),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Misfit(why)) => {
            give_up(why, store, round, monitor)?;
            take::take(store, subset, round, dir, monitor)
        }
    }
}

fn attempt(store: &PoolStore, round: u64, dir: &Spot, delta: Delta, monitor: &Monitor) -> Attempt<Counts> {
    let listed = store.snapshots.iter().find(|(info, _)| info.id == delta.base);
    let Some((base, last)) = listed.filter(|(_, dir)| dir.join(FILES[0]).is_there()) else {
        return misfit("the table to start from is gone");
    };
    let table = Table::open(last)?;
    let absent = store.absent_rows(delta.base, &table)?;
    if absent.is_empty()
        && delta.seen.is_empty()
        && ManifestReader::open(&delta.manifest)?.counts()?.rows == 0
    {
        same_table(last, dir)?;
        return Ok(counts_of(base, &table)?);
    }
    if !table.info().is_current() {
        return misfit("the table to start from is of an older version");
    }
    let root = store.root.underneath()?.knowing_ways();
    let ground = Ground::of(store, &root)?;
    let rows = look(&root, delta, monitor)?;
    let merge = merge_of(&table, rows, &absent)?;
    let objects = Objects::new(store, &root, round, &ground, monitor);
    // The rows that the manifest does not name were checked against their files then, and are not now.
    let info = TableInfo { mounting: table.info().mounting.clone(), ..ground.info() };
    let mut next = NextTable::create(dir, Some(&table), info)?;
    let counts = merge.write(&objects, &mut next, counts_of(base, &table)?)?;
    objects.finish()?;
    // Directories were examined without being read.
    next.finish(None)?;
    sync_filesystem(root.fd()).context("sync the file system of", store.path())?;
    Ok(counts)
}

/// A row of the manifest as this volume has it.
struct Row {
    change: Change,
    was: Option<Seen>,
    /// Without links yet; None if the inode is gone.
    is: Option<Inode>,
}

/// Finds the inode that every row of the manifest refers to.
fn look(root: &Root, delta: Delta, monitor: &Monitor) -> Attempt<Vec<Row>> {
    let top = stat_at(root.fd(), OsStr::new(".")).context("read the attributes of", root.path())?;
    let mut changes = ManifestReader::open(&delta.manifest)?;
    let mut seen = delta.seen.into_iter();
    let mut rows = Vec::new();
    loop {
        monitor.check()?;
        // The rest is not needed and may be large.
        let bare =
            |change: Change| Change { extents: Vec::new(), xattrs: None, symlink_target: None, ..change };
        let chunk: Vec<Change> =
            changes.by_ref().take(CHUNK).map(|change| change.map(bare)).collect::<Result<_>>()?;
        let were: Vec<Option<Seen>> = seen.by_ref().take(chunk.len()).collect();
        if were.len() != chunk.len() || (chunk.is_empty() && seen.next().is_some()) {
            return misfit("what was there before the commit is not known");
        }
        if chunk.is_empty() {
            return Ok(rows);
        }
        let pairs = chunk.into_par_iter().zip(were);
        let found: Vec<Attempt<Row>> = pairs.map(|(change, was)| look_at(root, &top, change, was)).collect();
        for row in found {
            rows.push(row?);
        }
    }
}

fn look_at(root: &Root, top: &Stat, change: Change, was: Option<Seen>) -> Attempt<Row> {
    if was.is_some() != change.old_path.is_some() {
        return misfit(format!("which inode {} was is not known", change.display_path()));
    }
    let is = match &change.path {
        Some(path) => Some(inode_at(root, top, path, change.kind)?),
        None => None,
    };
    if change.survives() && was.map(|w| w.ino) != is.as_ref().map(|i| i.ino) {
        return misfit(format!("{} is another inode", change.display_path()));
    }
    Ok(Row { change, was, is })
}

fn inode_at(root: &Root, top: &Stat, path: &RelPath, kind: Kind) -> Attempt<Inode> {
    let stat = match root.entry(path).and_then(|entry| entry.stat()) {
        // ENOENT, ENOTDIR, ELOOP, EXDEV
        Err(e) if matches!(e.raw_os_error(), Some(2 | 20 | 40 | 18)) => {
            return misfit(format!("{} is missing", path.display()));
        }
        other => other.context("read the attributes of", root.show(path))?,
    };
    // Numbers on another device mean something else.
    if stat.kind != kind || stat.dev != top.dev {
        return misfit(format!("{} is something else", path.display()));
    }
    Ok(Inode {
        ino: if path.is_root() { ROOT } else { stat.ino },
        generation: stat.generation,
        kind,
        attributes: stat.attributes,
        ctime: stat.ctime,
        blocks: stat.blocks,
        links: Vec::new(),
        details: None,
        object: 0,
        shared: false,
    })
}

/// The directories of this volume for the numbers of the other volume.
#[derive(Default)]
struct Directories {
    was: HashMap<u64, u64>,
    is: HashMap<u64, u64>,
}

impl Directories {
    fn of(rows: &[Row]) -> Directories {
        let mut directories = Directories::default();
        for row in rows.iter().filter(|row| row.change.kind == Kind::Directory) {
            directories.was.extend(row.was.map(|was| (row.change.ino, was.ino)));
            directories.is.extend(row.is.as_ref().map(|is| (row.change.ino, is.ino)));
        }
        directories
    }
}

fn here(links: &[Link], numbers: &HashMap<u64, u64>) -> Attempt<Vec<Link>> {
    let link = |link: &Link| match numbers.get(&link.parent) {
        Some(parent) => Ok(Link { parent: *parent, name: link.name.clone() }),
        None => misfit(format!("the manifest has no row for directory {}", link.parent)),
    };
    links.iter().map(link).collect()
}

impl Touched {
    fn of(row: Row, directories: &Directories) -> Attempt<Option<Touched>> {
        let (Some(inode), Some(path)) = (row.is, row.change.path) else { return Ok(None) };
        let mut removed = here(&row.change.links_removed, &directories.was)?;
        removed.sort_unstable();
        Ok(Some(Touched {
            path,
            same_data: inode.kind == Kind::File && row.was.is_some() && !row.change.flags.data,
            inode,
            was: row.was,
            nlink: row.change.nlink as usize,
            added: here(&row.change.links_added, &directories.is)?,
            removed,
        }))
    }
}

/// Puts what the manifest speaks of into the last table, without rows of what was absent from the tree.
fn merge_of<'a>(last: &'a Table, rows: Vec<Row>, absent: &[Inode]) -> Attempt<Merge<'a>> {
    let directories = Directories::of(&rows);
    let (mut were, mut deleted, mut touched) = (BTreeSet::new(), HashSet::new(), Vec::new());
    for row in rows {
        if let Some(was) = row.was {
            if !were.insert(was.ino) {
                return misfit(format!("{} is named twice", row.change.display_path()));
            }
            deleted.extend(row.is.is_none().then_some(was.ino));
        }
        touched.extend(Touched::of(row, &directories)?);
    }
    were.extend(absent.iter().map(|row| row.ino));
    let mut asked = were.clone();
    asked.extend(touched.iter().map(|t| t.inode.ino));
    let mut old: HashMap<u64, Inode> =
        last.pick(&asked)?.into_iter().map(|inode| (inode.ino, inode)).collect();
    if let Some(ino) = old.keys().find(|ino| !were.contains(ino)) {
        return misfit(format!("inode {ino} is gone, though the manifest does not say so"));
    }
    if old.len() < were.len() {
        return misfit("inodes that went are not in the last table");
    }
    old.retain(|ino, _| were.contains(ino));
    Merge::new(last, touched, old, deleted, Vanished::Misfit)
}
