//! Bytes that have no object of their own, because the tree still has them: GPFS calls such an address in a
//! snapshot a ditto.
//!
//! A row of the newest table with the same object says which file that is. It has the bytes for as long as it
//! is the inode that the row was made of, with the change time that the row tells.

use crate::store::frozen::Frozen;
use crate::store::steady::{Seen, Steady};
use snapsync_manifest::{Finder, Table, identity};
use snapsync_model::{Context, Directories, Inode, Kind, RelPath, Result, UNSETTLED, locked};
use snapsync_sys::{Root, Spot, Stat, mounting, stat_of};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A volume's tree, as its newest table describes it.
pub(crate) struct InTree {
    root: Arc<Root>,
    newest: Finder,
    steady: Steady,
    directories: OnceLock<Directories>,
}

/// Where a volume's tree is, and how the table is found that describes it now.
pub(crate) struct TreeOf {
    pub(crate) root: Arc<Root>,
    /// What it is, if it is not the volume's own.
    pub(crate) frozen: Option<Arc<Frozen>>,
    /// The directory of the newest table, which a round may replace meanwhile.
    pub(crate) newest: Box<dyn Fn() -> Result<Option<Spot>> + Send + Sync>,
    pub(crate) steady: Steady,
    /// Nothing else keeps bytes.
    pub(crate) is_light: bool,
    /// Others than commits write there: what they wrote before a crash may have no time of its own.
    pub(crate) is_primary: bool,
}

impl TreeOf {
    /// Whether times prove nothing of the rows of a table, because the file system was mounted since.
    pub(crate) fn is_mounted_anew(&self, table: &Table) -> bool {
        let now = match &self.frozen {
            Some(frozen) => Some(frozen.mounting.clone()),
            None => mounting(self.root.in_own_mount()),
        };
        self.is_primary && now != table.info().mounting
    }
}

/// What was found of a tree when it was looked for.
pub(crate) struct Looked {
    pub(crate) tree: Option<Arc<InTree>>,
    /// The file that tells the newest table from others.
    of: Option<Stat>,
}

impl Looked {
    /// Looks for it, and reads the newest table unless it is that of `last`.
    pub(crate) fn at(tree: &TreeOf, last: Option<Looked>) -> Result<Looked> {
        let newest = (tree.newest)()?;
        // Before it is read: then a table that comes meanwhile is not taken for it the next time.
        let stat = |dir: &Spot| {
            let file = identity(dir);
            file.stat_if_there().context("read the attributes of", file.show())
        };
        let of = newest.as_ref().map_or(Ok(None), stat)?;
        match last.filter(|last| last.of == of) {
            Some(last) => Ok(last),
            None => Ok(Looked { tree: newest.map_or(Ok(None), |newest| InTree::of(tree, &newest))?, of }),
        }
    }
}

impl InTree {
    /// None where the table does not say what the tree is, or times prove nothing there.
    fn of(tree: &TreeOf, newest: &Spot) -> Result<Option<Arc<InTree>>> {
        let newest = Finder::new(Table::open(newest)?);
        if newest.table().info().mounting.is_none() || tree.is_mounted_anew(newest.table()) {
            return Ok(None);
        }
        // What lies under a mount is the snapshot's as well.
        let (root, steady) = (Arc::new(tree.root.underneath()?), tree.steady.clone());
        Ok(Some(Arc::new(InTree { root, newest, steady, directories: OnceLock::new() })))
    }

    /// The file that has the bytes of a row; None where they are gone. `own` is the path that its own table
    /// has for it, if that proves anything: the tree may be what that describes, as when a snapshot of what
    /// was changed by hand was kept aside.
    pub(crate) fn open(
        &self,
        inode: &Inode,
        own: Option<impl FnOnce() -> Result<RelPath>>,
    ) -> Result<Option<File>> {
        if let Some(row) = self.row(inode)?
            && let Some(path) = self.path_of(&row)?
            && let Some(file) = self.open_as(&path, &row)?
        {
            return Ok(Some(file));
        }
        own.map_or(Ok(None), |own| self.open_at(own, inode))
    }

    /// Whether only files with the bytes of their rows are opened.
    pub(crate) fn proves(&self) -> bool {
        !matches!(self.steady, Steady::AsItIs(..))
    }

    /// The file at the path of a row, if it has its bytes.
    pub(crate) fn open_at(
        &self,
        path: impl FnOnce() -> Result<RelPath>,
        row: &Inode,
    ) -> Result<Option<File>> {
        path().map_or(Ok(None), |path| self.open_as(&path, row))
    }

    fn open_as(&self, path: &RelPath, row: &Inode) -> Result<Option<File>> {
        let file = match self.root.read(path) {
            // Moved, removed or replaced.
            Err(e) if matches!(e.raw_os_error(), Some(2 | 6 | 18 | 20 | 21 | 40)) => return Ok(None),
            file => file.context_at("open", || self.root.show(path))?,
        };
        Ok(holds(&self.steady, &file, row)?.then_some(file))
    }

    /// Whether a file that was opened in the tree still has the bytes of a row. Its own table `proves` it, or
    /// the newest one.
    pub(crate) fn holds(&self, inode: &Inode, proves: bool, file: &File) -> Result<bool> {
        let steady = &self.steady;
        Ok((proves && holds(steady, file, inode)?)
            || self.row(inode)?.map_or(Ok(false), |row| holds(steady, file, &row))?)
    }

    /// Where that file is, for people.
    pub(crate) fn path(&self, inode: &Inode) -> Result<Option<PathBuf>> {
        let Some(row) = self.row(inode)? else { return Ok(None) };
        Ok(self.path_of(&row)?.map(|path| self.root.show(&path)))
    }

    fn path_of(&self, row: &Inode) -> Result<Option<RelPath>> {
        row.links.first().map(|link| self.directories()?.path(link)).transpose()
    }

    /// What the newest table says of the file with the same bytes.
    fn row(&self, inode: &Inode) -> Result<Option<Inode>> {
        Ok(self.newest.find(inode.ino)?.filter(|row| row.object == inode.object))
    }

    fn directories(&self) -> Result<&Directories> {
        if let Some(directories) = self.directories.get() {
            return Ok(directories);
        }
        let directories = self.newest.table().directories()?;
        Ok(self.directories.get_or_init(|| directories))
    }
}

/// Whether a file of the tree has the bytes of a row.
fn holds(steady: &Steady, file: &File, row: &Inode) -> Result<bool> {
    let stat = stat_of(file).context("read the attributes of", "a file of the tree")?;
    if stat.kind != Kind::File || (stat.ino, stat.generation) != (row.ino, row.generation) {
        return Ok(false);
    }
    let (now, was) = (stat.attributes, row.attributes);
    let is_settled = (stat.ctime, now.size) == (row.ctime, was.size);
    let is_fresh = |seen: &Seen| {
        row.ctime == UNSETTLED
            && (now.size, now.mtime) == (was.size, was.mtime)
            && *locked(seen).entry(row.ino).or_insert(stat.ctime) == stat.ctime
    };
    Ok(match steady {
        Steady::Settled => is_settled,
        Steady::Fresh(seen) => is_settled || is_fresh(seen),
        Steady::AsItIs(moved, seen) => {
            if !is_settled && !is_fresh(seen) {
                locked(moved).insert(row.ino);
            }
            now.size >= was.size
        }
    })
}
