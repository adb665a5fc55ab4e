//! A pool snapshot as a side: an inode table with its objects.

use crate::pool::objects::object_at;
use rustix::fs::makedev;
use snapsync_manifest::Table;
use snapsync_model::{
    Context, Details, Directories, Error, Inode, Inodes, Layout, Link, RelPath, Result, Side,
};
use snapsync_sys::{FileSystem, Spot, btrfs};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

/// A pool snapshot, open for reading.
pub struct PoolSnapshot {
    pub(crate) table: Table,
    pool: Spot,
    filesystem: FileSystem,
    space: Option<u128>,
    /// Read when a path is first asked for.
    directories: OnceLock<Directories>,
    /// The result of `inodes`, if that is not everything.
    pub(crate) listed: Option<Vec<Inode>>,
}

impl PoolSnapshot {
    /// Opens the snapshot in the store directory `dir`.
    pub(crate) fn open(dir: &Spot, pool: Spot, filesystem: FileSystem) -> Result<PoolSnapshot> {
        let space = if filesystem.shares_blocks() {
            let (major, minor) = pool.stat().context("read the attributes of", pool.show())?.dev;
            Some(u128::from(makedev(major, minor)))
        } else {
            None
        };
        let (table, directories) = (Table::open(dir)?, OnceLock::new());
        Ok(PoolSnapshot { table, pool, filesystem, space, directories, listed: None })
    }

    fn directories(&self) -> Result<&Directories> {
        if let Some(directories) = self.directories.get() {
            return Ok(directories);
        }
        let directories = self.table.directories()?;
        Ok(self.directories.get_or_init(|| directories))
    }
}

/// Also exact for compressed extents if the tree may be searched.
fn object_layout(object: &File, size: u64, filesystem: FileSystem) -> io::Result<Layout> {
    if filesystem.magic == FileSystem::BTRFS {
        match btrfs::layout(object, object.metadata()?.ino(), size, 0) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            other => return other,
        }
    }
    snapsync_sys::layout(object, size, filesystem)
}

impl Side for PoolSnapshot {
    fn inodes(&self) -> Result<Inodes<'_>> {
        match &self.listed {
            Some(listed) => Ok(Box::new(listed.iter().cloned().map(Ok))),
            None => self.everything(),
        }
    }

    fn everything(&self) -> Result<Inodes<'_>> {
        Ok(Box::new(self.table.rows()?))
    }

    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        self.table.pick(inos)
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        self.directories()?.path(link)
    }

    fn details(&self, inode: &Inode) -> Result<Details> {
        Ok(inode.details.as_deref().cloned().unwrap_or_default())
    }

    fn open(&self, inode: &Inode) -> Result<File> {
        // An empty file has no object.
        if inode.object == 0 {
            return File::open("/dev/null").context("open", "/dev/null");
        }
        let object = object_at(&self.pool, inode.object);
        let path = object.show();
        object.open().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::integrity(
                format!(
                    "{} is gone from the store: it was deleted by hand, or the file system was \
                    damaged",
                    path.display()
                ),
                "a file of each snapshot that had it is lost here: take it from the other side, and delete \
                 those \
                 snapshots",
            ),
            _ => Err::<(), _>(error).context("open", &path).unwrap_err(),
        })
    }

    fn layout(&self, inode: &Inode, file: &File) -> Result<Layout> {
        let size = inode.attributes.size;
        let unwritten = inode.details.as_ref().map_or(&[][..], |d| &d.unwritten);
        if inode.object == 0 {
            return Ok(Layout::new(size, &[], unwritten));
        }
        // Clones lose preallocation on some file systems; the table has the ranges.
        let stored = object_layout(file, size, self.filesystem)
            .context("read the extents of", object_at(&self.pool, inode.object).show())?;
        // An object shares everything with its file. What it shares with others was recorded when it was
        // made.
        Ok(stored.with(inode.shared, unwritten))
    }

    /// Objects are never rewritten, and both sides keep theirs.
    fn space(&self) -> Option<u128> {
        self.space
    }
}
