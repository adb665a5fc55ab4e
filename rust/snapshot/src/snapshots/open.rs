//! Snapshots, opened as sides.

use crate::volume::handle::Volume;
use snapsync_model::{Monitor, Provider, Result, Side, SnapshotInfo};
use snapsync_walk::Tree;

impl Volume {
    /// Opens a snapshot to be compared or read.
    pub fn open_snapshot(&self, info: &SnapshotInfo, monitor: &Monitor) -> Result<Box<dyn Side>> {
        self.expect_there(info)?;
        let dir = self.dir_of(info.id);
        Ok(match info.provider {
            Provider::Btrfs => {
                Box::new(Tree::of(dir.join("tree").tree()?.underneath()?, &info.subset, monitor)?)
            }
            Provider::Pool => Box::new(self.open_pool(info)?),
        })
    }

    pub(crate) fn open_pool(&self, info: &SnapshotInfo) -> Result<crate::pool::snapshot::PoolSnapshot> {
        self.expect_there(info)?;
        crate::pool::snapshot::PoolSnapshot::open(&self.dir_of(info.id), self)
    }
}
