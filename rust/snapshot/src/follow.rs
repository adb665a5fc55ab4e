//! A standby's snapshot after an apply: the last table and the manifest make the next one. Only what the manifest
//! names is looked at, so that the cost of file-system access follows the change. Where anything does not fit, the
//! tree is walked instead: a table is never a guess.

use crate::Volume;
use crate::pool::{self, Counts, Objects, Old, settled_before};
use rayon::prelude::*;
use snapsync_manifest::{ManifestReader, TableInfo, TableReader, TableWriter};
use snapsync_model::{
    Change, Context, Error, Inode, Kind, Link, Monitor, ROOT, RelPath, Result, Seen, SnapshotInfo, Subset,
};
use snapsync_sys::{Root, Stat, stat_at, sync_filesystem};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// How the tree came to be what it is.
pub struct Delta {
    /// The snapshot of this volume that it was before.
    pub base: Uuid,
    /// What was applied since. Its inode numbers are those of another volume.
    pub manifest: PathBuf,
    /// Which inodes of this volume the rows of the manifest spoke of, in their order; None for a new one.
    pub seen: Vec<Option<Seen>>,
}

const CHUNK: usize = 4096;
/// No file has this change time, so that the next walk looks at the file itself.
const UNSETTLED: i64 = i64::MIN;

/// Why there is no table from the last one.
enum Stop {
    /// Something is not what the manifest or the last table says.
    Misfit(String),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

type Attempt<T> = Result<T, Stop>;

fn misfit<T>(why: impl Into<String>) -> Attempt<T> {
    Err(Stop::Misfit(why.into()))
}

/// Writes the table of the volume's tree to `dir`, from the table before where that can be.
pub(crate) fn take(
    volume: &Volume,
    subset: &Subset,
    round: u64,
    dir: &Path,
    delta: Result<Delta, &str>,
    monitor: &Monitor,
) -> Result<Counts> {
    let attempt = match delta {
        Ok(delta) => attempt(volume, round, dir, delta, monitor),
        Err(why) => misfit(why),
    };
    match attempt {
        Ok(counts) => Ok(counts),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Misfit(why)) => {
            monitor.note(format!("{} was walked for its snapshot: {why}", volume.path().display()));
            pool::remove_round(&volume.store().join("pool"), round)?;
            pool::take(volume, subset, round, dir, monitor)
        }
    }
}

fn attempt(volume: &Volume, round: u64, dir: &Path, delta: Delta, monitor: &Monitor) -> Attempt<Counts> {
    let snapshots = volume.snapshots()?;
    let last = volume.dir_of(delta.base).join("table.arrow");
    let Some(base) = snapshots.iter().find(|s| s.id == delta.base).filter(|_| last.exists()) else {
        return misfit("the table to start from is gone");
    };
    let path = dir.join("table.arrow");
    if delta.seen.is_empty() && ManifestReader::open(&delta.manifest)?.counts()?.rows == 0 {
        same_table(&last, &path)?;
        return Ok(counts_of(base, &last)?);
    }
    // Before anything is looked at.
    let walk_started = jiff::Timestamp::now().as_nanosecond() as i64;
    let root = Root::open(volume.path())?;
    let table = TableReader::open(&last)?;
    let settled = settled_before(volume.filesystem(), table.info()?.walk_started);
    let rows = look(&root, delta, monitor)?;
    let merge = Merge::new(table, rows, settled)?;
    let objects = Objects::new(volume, &root, round, monitor);
    let counts = merge.write(&objects, &path, TableInfo { walk_started }, monitor)?;
    sync_filesystem(root.fd()).context("sync the file system of", volume.path())?;
    Ok(counts)
}

/// Nothing changed. The file is the same one, which also says how much of it is settled.
fn same_table(last: &Path, path: &Path) -> Result<()> {
    match std::fs::hard_link(last, path) {
        Ok(()) => Ok(()),
        // A file has no end of names.
        Err(_) => {
            std::fs::copy(last, path).context("copy the table to", path)?;
            std::fs::File::open(path).and_then(|file| file.sync_all()).context("sync", path)
        }
    }
}

fn counts_of(base: &SnapshotInfo, table: &Path) -> Result<Counts> {
    if let (Some(entries), Some(bytes)) = (base.entries, base.bytes) {
        return Ok(Counts { entries, bytes });
    }
    let mut counts = Counts::default();
    TableReader::open(table)?.try_for_each(|row| row.map(|inode| counts.add(&inode)))?;
    Ok(counts)
}

/// A row of the manifest as this volume has it.
struct Row {
    change: Change,
    was: Option<Seen>,
    /// Without links yet; None where it is gone.
    is: Option<Inode>,
}

/// Finds what every row of the manifest speaks of.
fn look(root: &Root, delta: Delta, monitor: &Monitor) -> Attempt<Vec<Row>> {
    let top = stat_at(root.fd(), OsStr::new(".")).context("read the attributes of", root.path())?;
    let mut changes = ManifestReader::open(&delta.manifest)?;
    let mut seen = delta.seen.into_iter();
    let mut rows = Vec::new();
    loop {
        monitor.check()?;
        // The rest is not needed, and may be large.
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
    // Numbers of another device mean something else.
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

/// What a number of the other volume is here, for directories.
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

/// An inode that was looked at, with the names that came and went.
struct Touched {
    path: RelPath,
    inode: Inode,
    /// What it was before the commit; None for a new one.
    was: Option<Seen>,
    same_data: bool,
    nlink: usize,
    added: Vec<Link>,
    /// Sorted.
    removed: Vec<Link>,
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

    /// The names of the old row, and what came and went of them.
    fn links(&self, old: Option<&Inode>, deleted: &HashSet<u64>) -> Attempt<Vec<Link>> {
        let mut links = old.map_or_else(Vec::new, |old| old.links.clone());
        links.retain(|link| self.removed.binary_search(link).is_err());
        let is_lost = links.iter().any(|link| deleted.contains(&link.parent));
        links.extend(self.added.iter().cloned());
        links.sort_unstable();
        if is_lost || links.len() != self.nlink {
            return misfit(format!("the names of {} are others", self.path.display()));
        }
        Ok(links)
    }
}

/// One row of the next table.
enum Next {
    Untouched(Inode),
    Touched(Box<Touched>, Option<Inode>),
}

/// The last table with what was touched taken out and put in again, in order.
struct Merge {
    last: Peekable<TableReader>,
    touched: Peekable<std::vec::IntoIter<Touched>>,
    /// Numbers that the manifest speaks of as they were; of these, those not met in the last table yet.
    old: HashSet<u64>,
    unmet: usize,
    deleted: HashSet<u64>,
    added: HashSet<Link>,
    settled_before: i64,
}

impl Merge {
    fn new(last: TableReader, rows: Vec<Row>, settled_before: i64) -> Attempt<Merge> {
        let directories = Directories::of(&rows);
        let (mut old, mut deleted, mut touched) = (HashSet::new(), HashSet::new(), Vec::new());
        for row in rows {
            if let Some(was) = row.was {
                if !old.insert(was.ino) {
                    return misfit(format!("{} is named twice", row.change.display_path()));
                }
                deleted.extend(row.is.is_none().then_some(was.ino));
            }
            touched.extend(Touched::of(row, &directories)?);
        }
        touched.sort_unstable_by_key(|t| t.inode.ino);
        if let Some(twice) = touched.windows(2).find(|two| two[0].inode.ino == two[1].inode.ino) {
            return misfit(format!("{} is named twice", twice[1].path.display()));
        }
        let added = touched.iter().flat_map(|t| t.added.iter().cloned()).collect();
        let (unmet, touched) = (old.len(), touched.into_iter().peekable());
        Ok(Merge { last: last.peekable(), touched, unmet, old, deleted, added, settled_before })
    }

    fn write(
        mut self,
        objects: &Objects<'_>,
        path: &Path,
        info: TableInfo,
        monitor: &Monitor,
    ) -> Attempt<Counts> {
        let mut table = TableWriter::create(path, info)?;
        let mut counts = Counts::default();
        loop {
            monitor.check()?;
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                break;
            }
            monitor.advance(chunk.len() as u64);
            let rows: Vec<Attempt<Inode>> =
                chunk.into_par_iter().map(|next| self.row(objects, next)).collect();
            for row in rows {
                let row = row?;
                counts.add(&row);
                table.write(&row)?;
            }
        }
        if self.unmet > 0 {
            return misfit("inodes that went are not in the last table");
        }
        table.finish(path)?;
        Ok(counts)
    }

    fn chunk(&mut self) -> Attempt<Vec<Next>> {
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            match self.next()? {
                Some(next) => chunk.push(next),
                None => break,
            }
        }
        Ok(chunk)
    }

    fn next(&mut self) -> Attempt<Option<Next>> {
        loop {
            let touched = self.touched.peek().map(|t| t.inode.ino);
            let last = self.last.peek().map(|row| row.as_ref().map_or(ROOT, |inode| inode.ino));
            let is_new = touched.is_some_and(|t| last.is_none_or(|last| t < last));
            if is_new || last.is_none() {
                return self.touched.next().map(|t| self.created(t)).transpose();
            }
            let Some(row) = self.last.next().transpose()? else { return Ok(None) };
            if !self.old.contains(&row.ino) {
                return self.untouched(row, touched).map(Some);
            }
            // Dropped first: the number may have been given to a new inode since.
            self.unmet -= 1;
            if let Some(t) = self.touched.next_if(|t| t.inode.ino == row.ino) {
                let old = t.was.is_some_and(|was| was.ino == row.ino).then_some(row);
                return Ok(Some(Next::Touched(Box::new(t), old)));
            }
        }
    }

    fn created(&self, touched: Touched) -> Attempt<Next> {
        if touched.was.is_some() {
            return misfit(format!("{} is not in the last table", touched.path.display()));
        }
        Ok(Next::Touched(Box::new(touched), None))
    }

    /// A row that no row of the manifest speaks of: copied, if the tree can still be what it says.
    fn untouched(&self, mut row: Inode, touched: Option<u64>) -> Attempt<Next> {
        let is_lost = |link: &Link| self.deleted.contains(&link.parent) || self.added.contains(link);
        if touched == Some(row.ino) || row.links.iter().any(is_lost) {
            return misfit(format!("inode {} is gone, though the manifest does not say so", row.ino));
        }
        if row.ctime >= self.settled_before {
            // It may have changed in the same tick after it was last looked at, and this table's walk is a later one.
            row.ctime = UNSETTLED;
        }
        Ok(Next::Untouched(row))
    }

    fn row(&self, objects: &Objects<'_>, next: Next) -> Attempt<Inode> {
        match next {
            Next::Untouched(inode) => Ok(inode),
            Next::Touched(touched, old) => self.read(objects, *touched, old.as_ref()),
        }
    }

    fn read(&self, objects: &Objects<'_>, touched: Touched, old: Option<&Inode>) -> Attempt<Inode> {
        let identity = |inode: &Inode| (inode.generation, inode.kind);
        if old.is_some_and(|old| identity(old) != identity(&touched.inode)) {
            return misfit(format!("{} is another inode", touched.path.display()));
        }
        let links = touched.links(old, &self.deleted)?;
        let size = touched.inode.attributes.size;
        let same = old.filter(|old| touched.same_data && old.attributes.size == size);
        let data = same.map_or(Old::Perhaps(old), Old::Same);
        let mut inode = match objects.read(&touched.path, &Inode { links, ..touched.inode }, data) {
            Err(e) if e.errno() == Some(2) => {
                return misfit(format!("{} vanished meanwhile", touched.path.display()));
            }
            other => other?,
        };
        if same.is_some_and(|old| !self.was_unchanged(old, touched.was)) {
            inode.ctime = UNSETTLED;
        }
        Ok(inode)
    }

    /// The file that the commit found was surely the one that the last table describes.
    fn was_unchanged(&self, old: &Inode, was: Option<Seen>) -> bool {
        was.is_some_and(|was| was.ctime == old.ctime) && old.ctime < self.settled_before
    }
}
