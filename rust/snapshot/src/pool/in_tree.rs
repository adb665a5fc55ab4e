//! Bytes that have no object of their own, because the tree still has them: GPFS calls such an address in a
//! snapshot a ditto.
//!
//! A row of the newest table with the same object says which file that is. It has the bytes for as long as it
//! is the inode that the row was made of, with the change time that the row tells.

use snapsync_manifest::{Finder, Table};
use snapsync_model::{Context, Directories, Inode, Kind, RelPath, Result};
use snapsync_sys::{Root, Spot, stat_of};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A volume's tree, as its newest table describes it.
pub(crate) struct InTree {
    root: Arc<Root>,
    newest: Finder,
    directories: OnceLock<Directories>,
}

/// Where a volume's tree is, and how the table is found that describes it now.
pub(crate) struct TreeOf {
    pub(crate) root: Arc<Root>,
    /// The directory of the newest table, which a round may replace meanwhile.
    pub(crate) newest: Box<dyn Fn() -> Result<Option<Spot>> + Send + Sync>,
}

impl InTree {
    /// None where no table says what the tree is, or times prove nothing there.
    pub(crate) fn of(tree: &TreeOf) -> Result<Option<InTree>> {
        let Some(newest) = (tree.newest)()? else { return Ok(None) };
        let newest = Finder::new(Table::open(&newest)?);
        if newest.table().info().mounting.is_none() {
            return Ok(None);
        }
        Ok(Some(InTree { root: tree.root.clone(), newest, directories: OnceLock::new() }))
    }

    /// The file that has the bytes of a row; None where they are gone. `own` is the path that its own table
    /// has for it: the tree may be what that describes, as when a snapshot of changes by hand was kept aside.
    pub(crate) fn open(&self, inode: &Inode, own: impl FnOnce() -> Result<RelPath>) -> Result<Option<File>> {
        if let Some(row) = self.row(inode)?
            && let Some(path) = self.path_of(&row)?
            && let Some(file) = self.open_as(&path, &row)?
        {
            return Ok(Some(file));
        }
        own().map_or(Ok(None), |path| self.open_as(&path, inode))
    }

    fn open_as(&self, path: &RelPath, row: &Inode) -> Result<Option<File>> {
        let file = match self.root.read(path) {
            // Moved, removed or replaced.
            Err(e) if matches!(e.raw_os_error(), Some(2 | 6 | 18 | 20 | 21 | 40)) => return Ok(None),
            file => file.context("open", self.root.show(path))?,
        };
        Ok(is_as(&file, row)?.then_some(file))
    }

    /// Whether a file that was opened in the tree still has the bytes of a row.
    pub(crate) fn holds(&self, inode: &Inode, file: &File) -> Result<bool> {
        Ok(is_as(file, inode)? || self.row(inode)?.map_or(Ok(false), |row| is_as(file, &row))?)
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

/// Whether a file is what its row was made of.
fn is_as(file: &File, row: &Inode) -> Result<bool> {
    let stat = stat_of(file).context("read the attributes of", "a file of the tree")?;
    Ok(stat.kind == Kind::File
        && (stat.ino, stat.generation) == (row.ino, row.generation)
        && (stat.ctime, stat.attributes.size) == (row.ctime, row.attributes.size))
}
