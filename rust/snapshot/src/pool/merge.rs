//! Makes the next table of a volume from its last one and the inodes that were touched since. If anything
//! does not fit, it says so and the tree is walked: a table is never a guess.

use crate::pool::attempt::{Attempt, Stop, misfit};
use crate::pool::inodes::Inodes;
use crate::pool::objects::{Counts, Objects, Old, is_absent, is_held};
use rayon::prelude::*;
use snapsync_manifest::{NextTable, Table, gone};
use snapsync_model::{Inode, Kind, Link, RelPath, Result, Seen, SnapshotInfo, UNSETTLED};
use std::collections::{BTreeSet, HashMap, HashSet};

const CHUNK: usize = 4096;

pub(crate) fn counts_of(base: &SnapshotInfo, table: &Table) -> Result<Counts> {
    if let (Some(entries), Some(bytes)) = (base.entries, base.bytes) {
        return Ok(Counts { entries, bytes });
    }
    let mut counts = Counts::default();
    table.rows()?.try_for_each(|row| row.map(|inode| counts.add(&inode)))?;
    Ok(counts)
}

/// An inode that was examined, with the names that were added and removed.
pub(crate) struct Touched {
    pub(crate) path: RelPath,
    /// Without names.
    pub(crate) inode: Inode,
    /// The inode when the last table was made; None for a new one.
    pub(crate) was: Option<Seen>,
    pub(crate) same_data: bool,
    pub(crate) nlink: usize,
    pub(crate) added: Vec<Link>,
    /// Sorted by directory and name.
    pub(crate) removed: Vec<Link>,
}

impl Touched {
    /// The names of the old row, without removed names and with added ones.
    fn links(&self, old: Option<&Inode>, deleted: &HashSet<u64>) -> Attempt<Vec<Link>> {
        let mut links = old.map_or_else(Vec::new, |old| old.links.clone());
        links.retain(|link| self.removed.binary_search(link).is_err());
        // Added names are in present directories, which may have the number of a removed one.
        let is_lost = links.iter().any(|link| deleted.contains(&link.parent));
        links.extend(self.added.iter().cloned());
        links.sort_unstable();
        if is_lost || links.len() != self.nlink {
            return misfit(format!("the names of {} are others", self.path.display()));
        }
        Ok(links)
    }
}

/// A row of the next patch.
enum Next<'a> {
    /// The row stays as it is in the last table.
    Stays(&'a Inode),
    Gone(u64),
    Touched(Box<Touched>),
}

impl Next<'_> {
    fn ino(&self) -> u64 {
        match self {
            Next::Stays(row) => row.ino,
            Next::Gone(ino) => *ino,
            Next::Touched(touched) => touched.inode.ino,
        }
    }
}

/// What it means if a touched inode does not exist any more when it is read.
#[derive(Clone, Copy)]
pub(crate) enum Vanished<'a> {
    Misfit,
    /// It is gone, if these know no name of it in a place that nobody has examined.
    Gone(&'a Inodes),
}

/// The touched inodes, to be merged into the last table.
pub(crate) struct Merge<'a> {
    last: &'a Table,
    touched: Vec<Touched>,
    /// The last table's rows of the touched inodes.
    old: HashMap<u64, Inode>,
    deleted: HashSet<u64>,
    vanished: Vanished<'a>,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(
        last: &'a Table,
        mut touched: Vec<Touched>,
        old: HashMap<u64, Inode>,
        deleted: HashSet<u64>,
        vanished: Vanished<'a>,
    ) -> Attempt<Merge<'a>> {
        touched.sort_unstable_by_key(|t| t.inode.ino);
        if let Some(twice) = touched.windows(2).find(|two| two[0].inode.ino == two[1].inode.ino) {
            return misfit(format!("{} is named twice", twice[1].path.display()));
        }
        let merge = Merge { last, touched, old, deleted, vanished };
        merge.others_can_be_there()?;
        Ok(merge)
    }

    /// Checks that no untouched row is in a removed directory, or has a name that was added.
    fn others_can_be_there(&self) -> Attempt<()> {
        let added: HashSet<(u64, &[u8])> =
            self.touched.iter().flat_map(|t| &t.added).map(|link| (link.parent, &*link.name)).collect();
        if self.deleted.is_empty() && added.is_empty() {
            return Ok(());
        }
        // Nearly all names are in other directories, which this tells fastest.
        let concerned = self.deleted.iter().copied().chain(added.iter().map(|(parent, _)| *parent));
        let concerned: Vec<u64> = concerned.collect::<BTreeSet<u64>>().into_iter().collect();
        let is_lost = |ino: u64, parent: u64, name: &[u8]| {
            concerned.binary_search(&parent).is_ok()
                && (self.deleted.contains(&parent) || added.contains(&(parent, name)))
                && !self.old.contains_key(&ino)
        };
        match self.last.find_link(is_lost)? {
            Some(ino) => misfit(format!("inode {ino} is gone, and nothing says so")),
            None => Ok(()),
        }
    }

    pub(crate) fn write(
        mut self,
        objects: &Objects<'_>,
        next: &mut NextTable<'_>,
        mut counts: Counts,
    ) -> Attempt<Counts> {
        for old in self.old.values() {
            counts.remove(old);
        }
        let touched = std::mem::take(&mut self.touched);
        let mut rows = self.next_rows(touched).into_iter();
        loop {
            objects.monitor.check()?;
            let chunk: Vec<Next<'_>> = rows.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            objects.monitor.advance(chunk.len() as u64);
            let write = |row: &Next<'_>| match row {
                Next::Stays(row) => Ok(((*row).clone(), false)),
                Next::Gone(ino) => Ok((gone(*ino), false)),
                Next::Touched(touched) => {
                    let row = self.read(objects, touched)?;
                    let gone = || (gone(touched.inode.ino), false);
                    Ok(row.map_or_else(gone, |row| (objects.dated(row), true)))
                }
            };
            let mut written: Vec<Attempt<(Inode, bool)>> = chunk.par_iter().map(write).collect();
            let is_late = |row: &Attempt<_>| matches!(row, Err(Stop::Failed(error)) if is_held(error));
            if written.iter().any(is_late) {
                let late = chunk.par_iter().zip(&mut written).filter(|(_, row)| is_late(row));
                objects.patiently(|| late.for_each(|(next, row)| *row = write(next)));
            }
            for row in written {
                let (row, is_read) = row?;
                if is_read {
                    counts.add(&row);
                }
                next.write(&row)?;
            }
        }
        Ok(counts)
    }

    /// In order.
    fn next_rows(&self, touched: Vec<Touched>) -> Vec<Next<'_>> {
        let is: HashSet<u64> = touched.iter().map(|t| t.inode.ino).collect();
        let stays = |row: &&Inode| !is.contains(&row.ino) && !self.old.contains_key(&row.ino);
        let mut rows: Vec<Next<'_>> = self.last.patch().iter().filter(stays).map(Next::Stays).collect();
        rows.extend(self.old.keys().filter(|ino| !is.contains(ino)).map(|ino| Next::Gone(*ino)));
        rows.extend(touched.into_iter().map(|touched| Next::Touched(Box::new(touched))));
        rows.sort_unstable_by_key(Next::ino);
        rows
    }

    /// None if the inode is gone.
    fn read(&self, objects: &Objects<'_>, touched: &Touched) -> Attempt<Option<Inode>> {
        // The number may have been reused for a new inode since.
        let is_old = touched.was.is_some_and(|was| was.ino == touched.inode.ino);
        let old = self.old.get(&touched.inode.ino).filter(|_| is_old);
        let identity = |inode: &Inode| (inode.generation, inode.kind);
        if old.is_some_and(|old| identity(old) != identity(&touched.inode)) {
            return misfit(format!("{} is another inode", touched.path.display()));
        }
        let links = touched.links(old, &self.deleted)?;
        let size = touched.inode.attributes.size;
        let was = touched.was.map(|was| was.ctime);
        let is_same = |old: &&Inode| touched.same_data || objects.is_repaired(old, was);
        let same = old.filter(|old| old.attributes.size == size).filter(is_same);
        let data = same.map_or(Old::Perhaps(old), Old::Same);
        let walked = Inode { links, ..touched.inode.clone() };
        let mut inode = match objects.read(&touched.path, &walked, data) {
            Err(e) if is_absent(&e) => return self.vanished(objects, &touched.path, &walked),
            other => other?,
        };
        // The file that the commit found may differ from the one in the last table.
        if same.is_some_and(|old| was != Some(old.ctime)) {
            inode.ctime = UNSETTLED;
            objects.note_if_lost(&touched.path, &inode);
        }
        Ok(Some(inode))
    }

    fn vanished(&self, objects: &Objects<'_>, path: &RelPath, walked: &Inode) -> Attempt<Option<Inode>> {
        let may_go = match self.vanished {
            // The content of a directory is removed with it, or moved.
            Vanished::Gone(inodes) if walked.kind != Kind::Directory => {
                !inodes.has_name(objects.root, walked)?
            }
            _ => false,
        };
        if !may_go || !objects.is_removed(path, walked) {
            return misfit(format!("{} vanished meanwhile", path.display()));
        }
        objects.monitor.note(format!("{} vanished while the snapshot was taken", path.display()));
        Ok(None)
    }
}
