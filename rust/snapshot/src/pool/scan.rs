//! Makes the next table of a volume on XFS or ext4 without a walk: all inodes are read in bulk
//! (`inodes.rs`), and only those that differ from the last table are examined, and only directories that
//! differ are read.
//!
//! This is correct because every change of an inode changes its change time, and every change of a name
//! changes that of its directory: an inode with a new name is in a directory that differs, even if it does
//! not differ itself, as when two names are exchanged. It holds against a complete table whose directories
//! were read after their change times were taken, and only for one mounting: repairing the file system, or
//! mounting it elsewhere, may change it in other ways. In all other cases, and if anything does not fit, the
//! tree is walked.

use crate::pool::attempt::{Attempt, Stop, give_up, misfit};
use crate::pool::ground::Ground;
use crate::pool::inodes::{Differing, Inodes, look_of};
use crate::pool::merge::{Merge, Touched, Vanished, counts_of};
use crate::pool::objects::{self, Counts, Objects};
use crate::pool::remove::remove_round;
use crate::pool::store::PoolStore;
use snapsync_manifest::{Entries, NextTable, Table};
use snapsync_model::{
    Context, Counters, Directories, Inode, Kind, Link, Look, Monitor, ROOT, RelPath, Result, Seen,
    SnapshotInfo, Subset,
};
use snapsync_sys::{DirEntry, Root, Spot, Stat, read_dir, stat_at, stat_of, sync_filesystem};
use snapsync_walk::{Matcher, STORE, is_too_long, note_mounts, note_stores};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::take as taken;
use std::os::unix::ffi::OsStrExt;

/// At most one of this many rows may differ; otherwise a walk is no slower.
const FEW: u64 = 4;
/// Below a directory that comes to a longer path than this, there may be paths that are too long by now.
const DEEP: usize = 4096;

/// Writes the table of the volume's tree to `dir` from the last one; None if the tree must be walked.
pub(crate) fn take(
    store: &PoolStore,
    last: (&SnapshotInfo, &Table),
    root: &Root,
    round: u64,
    dir: &Spot,
    ground: &Ground,
    monitor: &Monitor,
) -> Result<Option<Counts>> {
    let attempted = Inodes::of(store, root, last.1, ground).and_then(|possible| {
        let Some((inodes, complete)) = possible else { return Ok(None) };
        let objects = Objects::new(store, root, round, ground, monitor);
        let next = NextTable::create(dir, Some(last.1), ground.info())?;
        attempt(&objects, &inodes, last, &store.doubted, next, &complete).map(Some)
    });
    match attempted {
        Ok(None) => Ok(None),
        Ok(Some(counts)) => {
            note_mounts(root.mounts(), &Matcher::new(&Subset::default())?, monitor)?;
            sync_filesystem(root.fd()).context("sync the file system of", store.path())?;
            Ok(Some(counts))
        }
        // A walk finds everything else that cannot be read.
        Err(Stop::Failed(error)) if error.is_unreadable() => {
            remove_round(&store.pool(), round)?;
            Ok(None)
        }
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Misfit(why)) => {
            give_up(why, store, round, monitor)?;
            Ok(None)
        }
    }
}

fn attempt(
    objects: &Objects<'_>,
    inodes: &Inodes,
    (base, last): (&SnapshotInfo, &Table),
    doubted: &BTreeSet<u64>,
    mut next: NextTable<'_>,
    complete: &str,
) -> Attempt<Counts> {
    let (root, counts) = (objects.root, counts_of(base, last)?);
    let top = stat_of(root.fd()).context("read the attributes of", root.path())?;
    let differing = inodes.differing(root, &top, last, doubted)?;
    if differing.is_unfit {
        return Err(Stop::Misfit(None));
    }
    objects.monitor.count(Counters { visited: counts.entries, ..Counters::default() });
    objects.monitor.advance(counts.entries);
    if differing.len() as u64 > 1000 + counts.entries / FEW {
        return misfit("much of it has changed");
    }
    let mut scan = Scan::new(root, top, last, differing, objects.monitor)?;
    scan.expect_same_root()?;
    scan.missing_are_gone()?;
    scan.read_directories(last)?;
    scan.directories_hold_still()?;
    note_stores(taken(&mut scan.stores), objects.monitor);
    let counts = scan.merge(last, inodes)?.write(objects, &mut next, counts)?;
    objects.finish()?;
    next.finish(Some(complete))?;
    Ok(counts)
}

/// The inodes that differ, and their present places.
struct Scan<'a> {
    root: &'a Root,
    top: Stat,
    monitor: &'a Monitor,
    /// Their rows in the last table.
    old: HashMap<u64, Inode>,
    /// The present state of those that exist; for a directory, its state before it was read.
    looks: HashMap<u64, (Look, u32)>,
    missing: HashSet<u64>,
    /// Directories that differ but are the same inodes, and their old entries.
    changed: HashSet<u64>,
    had: HashMap<u64, Entries>,
    /// Stores in directories that were read.
    stores: Vec<RelPath>,
    /// Those of them that were not read: their old entries may be elsewhere.
    unread: HashSet<u64>,
    /// Those of them that were read.
    read: Vec<u64>,
    /// Directories that are not in the tree any more.
    lost: HashSet<u64>,
    directories: Directories,
    added: HashMap<u64, Vec<Link>>,
    removed: HashMap<u64, Vec<Link>>,
}

impl<'a> Scan<'a> {
    fn new(
        root: &'a Root,
        top: Stat,
        last: &Table,
        differing: Differing,
        monitor: &'a Monitor,
    ) -> Attempt<Scan<'a>> {
        let looks: HashMap<u64, (Look, u32)> =
            differing.looks.into_iter().map(|found| (found.0.ino, found)).collect();
        let missing: HashSet<u64> = differing.missing.into_iter().collect();
        let numbers: BTreeSet<u64> = looks.keys().chain(&missing).copied().collect();
        let old: HashMap<u64, Inode> = last.pick(&numbers)?.into_iter().map(|row| (row.ino, row)).collect();
        let is_changed = |(look, _): &&(Look, u32)| {
            look.kind == Kind::Directory && old.get(&look.ino).is_some_and(|old| is_same(old, look))
        };
        let changed: HashSet<u64> = looks.values().filter(is_changed).map(|(look, _)| look.ino).collect();
        let (mut directories, had) = last.directories_and_entries(&changed)?;
        directories.remove_in(&old.keys().filter(|ino| !changed.contains(ino)).copied().collect());
        let unread = changed.clone();
        let (lost, added, removed) = (HashSet::new(), HashMap::new(), HashMap::new());
        let scan = Scan {
            root,
            top,
            monitor,
            old,
            looks,
            missing,
            changed,
            had,
            stores: Vec::new(),
            unread,
            read: Vec::new(),
            lost,
            directories,
            added,
            removed,
        };
        Ok(scan)
    }

    /// A store can be adopted by another directory: the places in the last table are not below that one.
    fn expect_same_root(&self) -> Attempt<()> {
        let (row, found) = (self.old.get(&ROOT), self.looks.get(&ROOT));
        if row.zip(found).is_some_and(|(row, (look, _))| !is_same(row, look)) {
            return misfit("it is another directory than before");
        }
        Ok(())
    }

    /// Inodes that were not reported may have been missed: none may still be at its old place.
    fn missing_are_gone(&self) -> Attempt<()> {
        for ino in &self.missing {
            let link = self.old.get(ino).and_then(|old| old.links.first());
            // The entries of a removed directory are gone too.
            let Some(Ok(path)) = link.map(|link| self.directories.path(link)) else { continue };
            if self.root.entry(&path).and_then(|entry| entry.stat()).is_ok_and(|stat| stat.ino == *ino) {
                return misfit(format!("{} was passed over", path.display()));
            }
        }
        Ok(())
    }

    /// Reads all directories that differ or are new, each once its place is known.
    fn read_directories(&mut self, last: &Table) -> Attempt<()> {
        let mut waiting: Vec<u64> = self.changed.iter().copied().collect();
        while !waiting.is_empty() {
            let (ready, others): (Vec<u64>, Vec<u64>) =
                waiting.into_iter().partition(|ino| self.is_placed(*ino));
            waiting = others;
            if ready.is_empty() {
                self.lost.extend(taken(&mut waiting));
            }
            let mut came = Vec::new();
            for ino in ready {
                self.monitor.check()?;
                came.append(&mut self.read_directory(ino)?);
            }
            waiting.append(&mut self.unread_among(came, last)?);
        }
        Ok(())
    }

    /// A name that moved from an unread directory into one that was read is found in neither.
    fn directories_hold_still(&self) -> Attempt<()> {
        for ino in self.read.iter().filter(|ino| !self.lost.contains(ino)) {
            let (Ok(path), Some((look, _))) = (self.directories.path_of(*ino), self.looks.get(ino)) else {
                continue;
            };
            let now = self.root.entry(&path).and_then(|entry| entry.stat());
            if !now.is_ok_and(|now| now.ctime == look.ctime) {
                return misfit(format!("{} changed while directories were read", path.display()));
            }
        }
        Ok(())
    }

    /// The directories to read among those that have moved: all but existing ones that did not change.
    fn unread_among(&mut self, mut came: Vec<u64>, last: &Table) -> Attempt<Vec<u64>> {
        let unknown: BTreeSet<u64> = came.iter().filter(|ino| !self.old.contains_key(ino)).copied().collect();
        for row in last.pick(&unknown)? {
            let look = self.looks.get(&row.ino).map(|(look, _)| *look);
            if look != Some(Look::from(&row)) {
                return misfit(format!("inode {} changed while the directories were read", row.ino));
            }
            came.retain(|ino| *ino != row.ino);
            self.old.insert(row.ino, row);
        }
        Ok(came)
    }

    /// Whether its place is known, and that of each directory on the way to it.
    fn is_placed(&self, mut ino: u64) -> bool {
        let mut seen = HashSet::new();
        while ino != ROOT {
            match self.directories.link(ino) {
                Some(link) if !self.unread.contains(&link.parent) && seen.insert(ino) => ino = link.parent,
                _ => return false,
            }
        }
        true
    }

    /// Returns the new directories in it.
    fn read_directory(&mut self, ino: u64) -> Attempt<Vec<u64>> {
        let path = self.directories.path_of(ino)?;
        let dir = match self.root.read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let link = self.directories.link(ino);
                if !link.is_some_and(|link| objects::is_removed(self.root, &path, link, ino)) {
                    return misfit(format!("{} vanished meanwhile", path.display()));
                }
                self.lost.insert(ino);
                return Ok(Vec::new());
            }
            // ENOTDIR, ELOOP, EXDEV, ENXIO
            Err(e) if matches!(e.raw_os_error(), Some(20 | 40 | 18 | 6)) => {
                return misfit(format!("{} is something else", path.display()));
            }
            other => other.context("open the directory", self.root.show(&path))?,
        };
        let stat = stat_of(&dir).context("read the attributes of", self.root.show(&path))?;
        let look = look_of(&stat, ino);
        let is_it = ino == ROOT || stat.ino == ino;
        let known = self.looks.insert(ino, (look, stat.nlink));
        if !is_it || known.is_none_or(|(known, _)| identity(&known) != identity(&look)) {
            return misfit(format!("{} is another directory", path.display()));
        }
        if stat.encrypted {
            return Err(Stop::Misfit(None));
        }
        let entries = read_dir(&dir).context("read the directory", self.root.show(&path))?;
        self.monitor.count(Counters { visited: entries.len() as u64, ..Counters::default() });
        self.unread.remove(&ino);
        self.read.push(ino);
        self.entries(ino, &dir, entries)
    }

    fn entries(&mut self, parent: u64, dir: &File, entries: Vec<DirEntry>) -> Attempt<Vec<u64>> {
        let (mut had, mut new) = (self.had.remove(&parent).unwrap_or_default(), Vec::new());
        let held = self.root.held().map(|(_, held)| held);
        for DirEntry { name, ino, .. } in entries {
            // It may also have another name, if the owner of the root has renamed it meanwhile.
            if *name == *STORE.as_bytes() || held == Some(ino) {
                if had.contains_key(&name) {
                    return misfit("the last table has a store in it");
                }
                if parent != ROOT {
                    self.stores.push(self.directories.path_of(parent)?.join(&name)?);
                }
                continue;
            }
            match had.remove(&name) {
                Some(was) if was == ino && !self.is_another(ino) => {}
                was => {
                    let link = Link { parent, name };
                    if let Some(was) = was {
                        self.goes(was, link.clone());
                    }
                    new.extend(self.comes(dir, link)?);
                }
            }
        }
        for (name, ino) in had {
            self.goes(ino, Link { parent, name });
        }
        Ok(new)
    }

    /// Whether a number belongs to another inode than in the last table.
    fn is_another(&self, ino: u64) -> bool {
        match (self.old.get(&ino), self.looks.get(&ino)) {
            (Some(old), Some((look, _))) => !is_same(old, look),
            (old, _) => old.is_some(),
        }
    }

    fn goes(&mut self, ino: u64, link: Link) {
        if self.directories.link(ino) == Some(&link) {
            self.directories.remove(ino);
        }
        self.removed.entry(ino).or_default().push(link);
    }

    /// Adds a name that is new or belongs to another inode now. Returns the number of a new directory.
    fn comes(&mut self, dir: &File, link: Link) -> Attempt<Option<u64>> {
        let stat = match stat_at(dir, OsStr::from_bytes(&link.name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.context("read the attributes of an entry in", self.root.path())?,
        };
        if stat.dev != self.top.dev || stat.mount != self.top.mount {
            return misfit("something was mounted in it meanwhile");
        }
        self.looks.entry(stat.ino).or_insert((look_of(&stat, stat.ino), stat.nlink));
        self.added.entry(stat.ino).or_default().push(link.clone());
        let above = self.directories.path_of(link.parent).map_or(0, |path| path.as_bytes().len());
        let is_deep = stat.kind == Kind::Directory && above > DEEP;
        if is_deep || is_too_long(above, &link.name) {
            return misfit("the path of an entry, or of one below it, may have become too long");
        }
        if stat.kind != Kind::Directory {
            return Ok(None);
        }
        self.directories.insert(stat.ino, link);
        Ok(Some(stat.ino).filter(|ino| !self.changed.contains(ino)))
    }

    fn merge<'t>(mut self, last: &'t Table, inodes: &'t Inodes) -> Attempt<Merge<'t>> {
        self.take_in_late(last)?;
        let (old, mut touched, mut deleted) = (taken(&mut self.old), Vec::new(), HashSet::new());
        let is_there = |ino: &u64, row: &Inode| {
            self.looks.get(ino).is_some_and(|(look, _)| is_same(row, look)) && !self.lost.contains(ino)
        };
        let gone: HashSet<u64> = old
            .iter()
            .filter(|(ino, row)| row.kind == Kind::Directory && !is_there(ino, row))
            .map(|(ino, _)| *ino)
            .collect();
        for (ino, row) in &old {
            let stays = if is_there(ino, row) { self.touched(*ino, Some(row), &gone)? } else { None };
            match stays {
                Some(stays) => touched.push(stays),
                None => _ = deleted.insert(*ino),
            }
        }
        for ino in self.added.keys() {
            if !self.lost.contains(ino) && old.get(ino).is_none_or(|row| !is_there(ino, row)) {
                touched.extend(self.touched(*ino, None, &gone)?);
            }
        }
        Merge::new(last, touched, old, deleted, Vanished::Gone(inodes))
    }

    /// Adds what changed after the file system reported its inodes.
    fn take_in_late(&mut self, last: &Table) -> Attempt<()> {
        let named = self.added.keys().chain(self.removed.keys());
        let late: BTreeSet<u64> = named.filter(|ino| !self.old.contains_key(ino)).copied().collect();
        for row in last.pick(&late)? {
            let is_read = row.kind != Kind::Directory;
            let is_whole = |links: &Vec<Link>| row.links.iter().all(|link| links.contains(link));
            let is_told =
                self.looks.contains_key(&row.ino) || self.removed.get(&row.ino).is_some_and(is_whole);
            if !is_read || !is_told {
                return misfit(format!("inode {} changed while the directories were read", row.ino));
            }
            self.old.insert(row.ino, row);
        }
        Ok(())
    }

    /// None if it has no name any more.
    fn touched(&self, ino: u64, old: Option<&Inode>, gone: &HashSet<u64>) -> Attempt<Option<Touched>> {
        let Some((look, nlink)) = self.looks.get(&ino) else { return Ok(None) };
        let had = old.map_or(&[][..], |old| &old.links);
        let went = self.removed.get(&ino).filter(|_| old.is_some());
        let is_removed =
            |link: &&Link| gone.contains(&link.parent) || went.is_some_and(|went| went.contains(link));
        let removed: Vec<Link> = had.iter().filter(is_removed).cloned().collect();
        let added = self.added.get(&ino).cloned().unwrap_or_default();
        let first = had.iter().find(|link| !removed.contains(link)).or(added.first());
        let (path, names) = match (first, look.kind) {
            _ if ino == ROOT => (RelPath::root(), 0),
            (None, _) => return Ok(None),
            (Some(link), Kind::Directory) => (self.path(link)?, 1),
            (Some(link), _) => (self.path(link)?, *nlink as usize),
        };
        Ok(Some(Touched {
            path,
            inode: inode_of(look),
            was: old.map(|old| Seen { ino, ctime: old.ctime }),
            same_data: false,
            nlink: names,
            added,
            removed,
        }))
    }

    fn path(&self, link: &Link) -> Attempt<RelPath> {
        match self.directories.path(link) {
            Ok(path) => Ok(path),
            Err(_) => misfit(format!("directory {} has no place any more", link.parent)),
        }
    }
}

fn identity(look: &Look) -> (u64, Kind) {
    (look.generation, look.kind)
}

fn is_same(row: &Inode, look: &Look) -> bool {
    (row.generation, row.kind) == identity(look)
}

fn inode_of(look: &Look) -> Inode {
    Inode {
        ino: look.ino,
        generation: look.generation,
        kind: look.kind,
        attributes: look.attributes,
        ctime: look.ctime,
        blocks: look.blocks,
        links: Vec::new(),
        details: None,
        object: 0,
        shared: false,
    }
}
