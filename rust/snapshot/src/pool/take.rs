//! The pool provider: a snapshot is an inode table, and one object (`objects.rs`) for the data of each file
//! that changed since the table before. A row that did not change points at the object it had.

use crate::pool::ground::Ground;
use crate::pool::objects::{Counts, Objects, Old, TRIES, is_absent, is_held};
use crate::pool::snapshot::PoolSnapshot;
use crate::pool::store::PoolStore;
use crate::pool::{hidden, scan};
use rayon::prelude::*;
use snapsync_manifest::{NextTable, Table, TableView, gone, is_gone};
use snapsync_model::{
    Context, Directories, Error, Inode, Kind, Monitor, RelPath, Result, Subset, UNSETTLED, locked, unlocked,
};
use snapsync_sys::{Root, Spot, sync_filesystem};
use snapsync_walk::{Hidden, Listing, Moves, Tree, relabel_by_path};
use std::collections::{BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The number of batches of a table that are in memory at a time.
const SIDE_BY_SIDE: usize = 8;

/// Writes the table of `subset` of the volume's tree as it is now to `dir`, and the objects it needs: where
/// the tree is a standby's, and others leave it alone, only for what is not settled yet.
pub(crate) fn take(
    store: &PoolStore,
    subset: &Subset,
    round: u64,
    dir: &Spot,
    monitor: &Monitor,
) -> Result<Counts> {
    take_on(store, Ground::of, subset, (round, dir), monitor)
}

/// The same with an object for whatever differs from the snapshot before.
pub(crate) fn take_whole(
    store: &PoolStore,
    subset: &Subset,
    round: u64,
    dir: &Spot,
    monitor: &Monitor,
) -> Result<Counts> {
    take_on(store, Ground::of_all, subset, (round, dir), monitor)
}

fn take_on(
    store: &PoolStore,
    ground: impl FnOnce(&PoolStore, &Root) -> Result<Ground>,
    subset: &Subset,
    (round, dir): (u64, &Spot),
    monitor: &Monitor,
) -> Result<Counts> {
    let root = store.root.underneath()?.knowing_ways();
    let ground = &ground(store, &root)?;
    // A write through a memory map sets no new change time until its pages are written out.
    sync_filesystem(root.fd()).context("sync the file system of", store.path())?;
    let newest = store.newest();
    let last = newest.map(|(_, dir)| Table::open(dir)).transpose()?;
    if let (Some((base, _)), Some(last)) = (newest, &last)
        && subset.is_everything()
        && base.subset.is_everything()
        && !ground.is_frozen
        && let Some(counts) = scan::take(store, (base, last), &root, round, dir, ground, monitor)?
    {
        return Ok(counts);
    }
    let assumed = Mutex::new(Assumed::default());
    let remembered = |hidden: &Hidden, met: &Directories| {
        let rows = hidden::rows(last.as_ref(), hidden, met)?;
        let mut assumed = locked(&assumed);
        assumed.directories.extend(hidden.directories.keys());
        assumed.rows.extend(rows.iter().map(|row| row.ino));
        Ok(rows)
    };
    // Where numbers say nothing, what is in such a directory is not known again.
    let may_skip = monitor.passes_over() && ground.is_numbered;
    let mut tree = Tree::walk_in(root, subset, may_skip, monitor, &remembered)?;
    if let Some((_, dir)) = newest.filter(|_| !ground.is_numbered) {
        relabel_by_path(&PoolSnapshot::open(dir, store.pool(), store.filesystem, None)?, &mut tree)?;
    }
    let complete = ground.mounting.as_deref().filter(|_| tree.is_whole() && !ground.is_frozen);
    let (root, inodes, directories, moves) = tree.into_inodes();
    let take = Take {
        objects: Objects::new(store, &root, round, ground, monitor),
        directories: &directories,
        moves: moves.as_ref(),
        kept: AtomicU64::new(0),
        assumed: unlocked(assumed),
        has_skipped: AtomicBool::new(false),
        settled_before: last
            .as_ref()
            .map_or(i64::MAX, |last| ground.settled_before(last.info(), store, monitor)),
        doubted: &store.doubted,
    };
    let mut next = NextTable::create(dir, last.as_ref(), ground.info())?;
    let counts = take.write(&inodes, last.as_ref(), &mut next)?;
    take.objects.unread.finish()?;
    take.objects.finish()?;
    take.note_kept();
    let is_sure = !take.objects.has_lost_way.load(Relaxed) && !take.has_skipped.load(Relaxed);
    next.finish(complete.filter(|_| is_sure))?;
    sync_filesystem(root.fd()).context("sync the file system of", store.path())?;
    Ok(counts)
}

/// What the walk could not look at, by number.
#[derive(Default)]
struct Assumed {
    /// Inodes with names that are assumed to be as they were.
    rows: HashSet<u64>,
    /// Directories that it could not read.
    directories: HashSet<u64>,
}

struct Take<'a> {
    objects: Objects<'a>,
    directories: &'a Directories,
    moves: Option<&'a Moves>,
    /// Entries that moved each time they were looked up.
    kept: AtomicU64,
    assumed: Assumed,
    /// Whether some could not be read.
    has_skipped: AtomicBool,
    settled_before: i64,
    doubted: &'a BTreeSet<u64>,
}

/// An inode whose row in the last whole table is not enough.
enum Found {
    Gone(u64),
    /// It is unchanged, and a new whole table is written.
    Same(Inode),
    /// The walked inode, and its row in the last table.
    Walked(Inode, Option<Inode>),
}

/// The result for a walked inode.
enum Row {
    Done(Inode),
    /// Somebody holds a lease on it.
    Held(Box<Inode>, Option<Box<Inode>>),
}

impl Take<'_> {
    fn write(&self, inodes: &Listing, last: Option<&Table>, next: &mut NextTable<'_>) -> Result<Counts> {
        let mut counts = Counts::default();
        let ends = last.map_or_else(|| Ok(Vec::new()), Table::ends)?;
        let after = |at: usize| at.checked_sub(1).map(|before| ends[before]);
        if let Some(last) = last {
            for window in (0..ends.len()).step_by(SIDE_BY_SIDE) {
                let batches = window..ends.len().min(window + SIDE_BY_SIDE);
                let joined = batches.into_par_iter().map(|at| {
                    let batch = last.batch_at(at)?;
                    self.join(&batch.view(), last, inodes.between(after(at), ends[at])?)
                });
                for joined in joined.collect::<Vec<_>>() {
                    let (found, same) = joined?;
                    counts.entries += same.entries;
                    counts.bytes = counts.bytes.saturating_add(same.bytes);
                    self.put(found, next, &mut counts)?;
                }
            }
        }
        let mut done = ends.last().copied();
        for cut in inodes.cuts() {
            if done.is_none_or(|done| done < cut) {
                let rest = inodes.between(done, cut)?;
                self.put(
                    rest.into_iter().map(|inode| beside_patch(inode, last)).collect(),
                    next,
                    &mut counts,
                )?;
                done = Some(cut);
            }
        }
        Ok(counts)
    }

    /// Compares walked inodes with rows of the last whole table. Most are equal and only counted.
    fn join(&self, rows: &TableView<'_>, last: &Table, inodes: Vec<Inode>) -> Result<(Vec<Found>, Counts)> {
        let stands = last.info().is_current();
        let (mut found, mut counts) = (Vec::new(), Counts::default());
        let mut inodes = inodes.into_iter().peekable();
        for (row, ino) in rows.numbers().iter().enumerate() {
            while let Some(inode) = inodes.next_if(|inode| inode.ino < *ino) {
                found.push(beside_patch(inode, Some(last)));
            }
            let is_settled = |inode: &Inode| {
                rows.says(row, inode)
                    && inode.ctime < self.settled_before
                    && !self.doubted.contains(&inode.ino)
            };
            match inodes.next_if(|inode| inode.ino == *ino) {
                None => found.push(Found::Gone(*ino)),
                Some(inode) if last.patched(*ino).is_some() => found.push(beside_patch(inode, Some(last))),
                Some(inode) if stands && is_settled(&inode) => counts.add(&inode),
                Some(inode) if is_settled(&inode) => found.push(Found::Same(last.inode(rows, row)?)),
                Some(inode) => found.push(Found::Walked(inode, Some(last.inode(rows, row)?))),
            }
        }
        Ok((found, counts))
    }

    fn put(&self, found: Vec<Found>, next: &mut NextTable<'_>, counts: &mut Counts) -> Result<()> {
        self.objects.monitor.check()?;
        let row = |found| match found {
            Found::Gone(ino) => Ok(Row::Done(gone(ino))),
            Found::Same(row) => Ok(Row::Done(row)),
            Found::Walked(inode, old) => self.row(inode, old),
        };
        let rows: Vec<Result<Row>> = found.into_par_iter().map(row).collect();
        let again = |row: Result<Row>| match row? {
            Row::Held(inode, old) => self.row(*inode, old.map(|old| *old)),
            done => Ok(done),
        };
        let is_held = |row: &Result<Row>| matches!(row, Ok(Row::Held(..)));
        let rows = if rows.iter().any(is_held) {
            self.objects.patiently(|| rows.into_par_iter().map(again).collect())
        } else {
            rows
        };
        for row in rows {
            // What had to wait is done by now, or has failed.
            let Some(Row::Done(row)) = self.objects.unread.take(row)? else { continue };
            if !is_gone(&row) {
                counts.add(&row);
            }
            next.write(&row)?;
        }
        Ok(())
    }

    /// The walked inode with its details and object, or the fact that it is gone.
    fn row(&self, inode: Inode, old: Option<Inode>) -> Result<Row> {
        let ino = inode.ino;
        let done =
            |row: Option<Inode>| Row::Done(row.map_or_else(|| gone(ino), |row| self.objects.dated(row)));
        let old = old.filter(|old| (old.generation, old.kind) == (inode.generation, inode.kind));
        if let Some(old) = &old
            && self.is_settled(&inode, old)
        {
            let details = old.details.clone();
            let attributes = details.as_ref().map_or(inode.attributes, |d| inode.attributes.with(d));
            let (object, shared) = (old.object, old.shared);
            return Ok(done(Some(Inode { attributes, details, object, shared, ..inode })));
        }
        let path = match inode.links.first() {
            Some(link) => self.directories.path(link)?,
            None => RelPath::root(),
        };
        match self.read(&path, &inode, old.as_ref()) {
            Err(e) if is_held(&e) && !self.objects.is_patient() => {
                Ok(Row::Held(Box::new(inode), old.map(Box::new)))
            }
            Ok(None) => Ok(done(self.not_found(&path, inode, old))),
            Err(error) => self.unread(&path, inode, old, error).map(done),
            Ok(row) => Ok(done(row)),
        }
    }

    /// The row of an inode that cannot be read: as it was, so that a later snapshot reads it. One that is
    /// new is left out, but for a directory that has names in it.
    fn unread(
        &self,
        path: &RelPath,
        inode: Inode,
        old: Option<Inode>,
        error: Error,
    ) -> Result<Option<Inode>> {
        let is_told = old.is_some() && self.assumed.rows.contains(&inode.ino);
        let is_told = is_told || self.assumed.directories.contains(&inode.ino);
        if !(is_told && error.is_unreadable() && self.objects.monitor.passes_over()) {
            self.objects.monitor.skip(path, error)?;
        }
        self.has_skipped.store(true, Relaxed);
        let is_listed = inode.kind == Kind::Directory && !self.assumed.directories.contains(&inode.ino);
        let links = inode.links.clone();
        let bare = is_listed.then(|| Inode { details: Some(Box::default()), ..inode });
        Ok(old.or(bare).map(|row| Inode { links, ctime: UNSETTLED, ..row }))
    }

    /// Reads it where it was found, or where it has moved to since.
    fn read(&self, path: &RelPath, inode: &Inode, old: Option<&Inode>) -> Result<Option<Inode>> {
        let mut path = path.clone();
        for _ in 0..TRIES {
            match self.objects.read(&path, inode, Old::Perhaps(old)) {
                Err(e) if is_absent(&e) => {}
                other => return other.map(Some),
            }
            let Some(found) = self.moves.and_then(|moves| moves.find(self.objects.root, inode)) else {
                break;
            };
            path = found;
        }
        Ok(None)
    }

    /// The row of an inode that is not where it was found; None if it is gone.
    fn not_found(&self, path: &RelPath, inode: Inode, old: Option<Inode>) -> Option<Inode> {
        let is_directory = inode.kind == Kind::Directory;
        let is_removed = self.objects.is_removed(path, &inode);
        if !is_removed {
            self.objects.has_lost_way.store(true, Relaxed);
        }
        let may_be_there = !is_removed || self.moves.is_some_and(Moves::is_restless);
        if may_be_there && (old.is_some() || is_directory) {
            self.kept.fetch_add(1, Relaxed);
        } else {
            self.objects.monitor.note(format!("{} vanished while the snapshot was taken", path.display()));
            if !is_directory {
                return None;
            }
        }
        let links = inode.links.clone();
        let bare = Inode { details: Some(Box::default()), ..inode };
        Some(Inode { links, ctime: UNSETTLED, ..old.unwrap_or(bare) })
    }

    fn note_kept(&self) {
        let kept = self.kept.load(Relaxed);
        if kept > 0 {
            self.objects.monitor.note(format!(
                "{kept} entries moved each time they were looked for: the snapshot has them as the one \
                 before it"
            ));
        }
    }

    fn is_settled(&self, inode: &Inode, old: &Inode) -> bool {
        inode.attributes.bare() == old.attributes.bare()
            && inode.ctime == old.ctime
            && inode.ctime < self.settled_before
            && !self.doubted.contains(&inode.ino)
    }
}

/// For an inode that is not in the last whole table, or has another row in its patch.
fn beside_patch(inode: Inode, last: Option<&Table>) -> Found {
    let row = last.and_then(|last| last.patched(inode.ino)).filter(|row| !is_gone(row));
    Found::Walked(inode, row.cloned())
}
