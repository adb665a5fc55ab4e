//! What the pool is told of a volume whose tree it takes.

use crate::pool::elusive::Elusive;
use crate::store::frozen::Frozen;
use snapsync_manifest::{FILES, Table};
use snapsync_model::{Inode, PlainFiles, Result, SnapshotInfo, Successor};
use snapsync_sys::{FileSystem, Root, Spot};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// A store with its tree.
pub(crate) struct PoolStore {
    /// Of the tree.
    pub(crate) root: Arc<Root>,
    /// What the tree is, if it is not the volume's own.
    pub(crate) frozen: Option<Arc<Frozen>>,
    pub(crate) dir: Spot,
    pub(crate) filesystem: FileSystem,
    /// Only commits have written to the tree since the last snapshot.
    pub(crate) is_standby: bool,
    /// And only commits will.
    pub(crate) stays_standby: bool,
    /// It keeps no bytes but those of its tree.
    pub(crate) is_light: bool,
    /// A snapshot, and the objects of its files that the tree does not have.
    pub(crate) absent: Option<(Uuid, BTreeSet<u64>)>,
    /// Inodes that are to be read, whatever their times say.
    pub(crate) doubted: BTreeSet<u64>,
    /// Files with nothing but data: those that a commit has just made, and then those that were read.
    pub(crate) plain: Arc<PlainFiles>,
    /// Files that the last commit changed in place, by their inodes.
    pub(crate) successors: HashMap<u64, Successor>,
    /// The commit has brought the tree back to the snapshot that its table was made of.
    pub(crate) is_repaired: bool,
    /// Files whose bytes are kept though it is light.
    pub(crate) elusive: Elusive,
    /// Those that are listed, oldest first, each with the directory of its table.
    pub(crate) snapshots: Vec<(SnapshotInfo, Spot)>,
}

impl PoolStore {
    /// The path of the tree: for messages.
    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// Where the objects are.
    pub(crate) fn pool(&self) -> Spot {
        self.dir.join("pool")
    }

    /// The newest of the line, unless somebody has deleted its table by hand.
    pub(crate) fn newest(&self) -> Option<&(SnapshotInfo, Spot)> {
        let newest = self.snapshots.iter().rfind(|(info, _)| !info.aside);
        newest.filter(|(_, dir)| !dir.join(FILES[0]).stat_if_there().is_ok_and(|found| found.is_none()))
    }

    /// The rows of files of a snapshot that its tree does not have.
    pub(crate) fn absent_rows(&self, id: Uuid, table: &Table) -> Result<Vec<Inode>> {
        let absent = self.absent.as_ref().filter(|(snapshot, _)| *snapshot == id);
        absent.map_or(Ok(Vec::new()), |(_, objects)| rows_with(objects, table))
    }
}

/// The rows of a table that name any of these objects.
pub(crate) fn rows_with(objects: &BTreeSet<u64>, table: &Table) -> Result<Vec<Inode>> {
    table.rows()?.filter(|row| row.as_ref().map_or(true, |row| objects.contains(&row.object))).collect()
}
