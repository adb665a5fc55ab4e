//! What the pool is told of a volume whose tree it takes.

use snapsync_manifest::FILES;
use snapsync_model::SnapshotInfo;
use snapsync_sys::{FileSystem, Root, Spot};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// A store with its tree.
pub(crate) struct PoolStore {
    /// Of the tree.
    pub(crate) root: Arc<Root>,
    pub(crate) dir: Spot,
    pub(crate) filesystem: FileSystem,
    /// Only commits write to the tree.
    pub(crate) is_standby: bool,
    /// Inodes that are to be read, whatever their times say.
    pub(crate) doubted: BTreeSet<u64>,
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
}
