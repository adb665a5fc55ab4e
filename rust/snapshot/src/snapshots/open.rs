//! Opens snapshots as sides of a comparison.

use crate::pool::elusive::Elusive;
use crate::pool::in_tree::TreeOf;
use crate::pool::snapshot::PoolSnapshot;
use crate::pool::store::PoolStore;
use crate::store::steady::Steady;
use crate::volume::handle::Volume;
use snapsync_model::{Monitor, Provider, Result, Role, Side, SnapshotInfo};
use snapsync_walk::Tree;
use std::collections::HashMap;

impl Volume {
    /// Opens a snapshot to be compared or read.
    pub fn open_snapshot(&self, info: &SnapshotInfo, monitor: &Monitor) -> Result<Box<dyn Side>> {
        self.expect_there(info)?;
        let dir = self.dir_of(info.id);
        Ok(match info.provider {
            Provider::Btrfs => {
                Box::new(Tree::of_snapshot(dir.join("tree").tree()?.underneath()?, &info.subset, monitor)?)
            }
            Provider::Pool => Box::new(self.open_pool(info)?),
        })
    }

    /// What the pool is to know of it.
    pub(super) fn as_pool_store(&self) -> Result<PoolStore> {
        let with_dir = |info: SnapshotInfo| {
            let dir = self.dir_of(info.id);
            (info, dir)
        };
        Ok(PoolStore {
            root: self.tree().clone(),
            frozen: self.frozen.clone(),
            dir: self.store(),
            filesystem: self.filesystem(),
            is_standby: self.info().role == Role::Standby || self.has_just_been_promoted,
            stays_standby: self.info().role == Role::Standby,
            is_light: self.is_light(),
            absent: self.absent().map(|absent| (absent.snapshot, absent.objects.clone())),
            doubted: self.doubted().clone(),
            plain: self.plain.clone(),
            successors: HashMap::new(),
            is_repaired: false,
            elusive: Elusive::default(),
            snapshots: self.snapshots()?.into_iter().map(with_dir).collect(),
        })
    }

    pub(crate) fn open_pool(&self, info: &SnapshotInfo) -> Result<PoolSnapshot> {
        self.expect_there(info)?;
        let tree = self.is_partly_in_tree().then(|| {
            let volume = self.clone();
            let newest = move || {
                let newest = volume.line()?.pop().filter(|info| volume.missing(info).is_none());
                Ok(newest.map(|info| volume.dir_of(info.id)))
            };
            let now = self.taken_now.as_ref().filter(|now| now.snapshot == info.id);
            let steady = now.map_or(Steady::Settled, |now| now.steady.clone());
            TreeOf {
                root: self.tree().clone(),
                frozen: self.frozen.clone(),
                newest: Box::new(newest),
                steady,
                is_light: self.is_light(),
                is_primary: self.info().role == Role::Primary,
            }
        });
        let pool = self.store().join("pool");
        let mut snapshot = PoolSnapshot::open(&self.dir_of(info.id), pool, self.filesystem, tree)?;
        snapshot.plain = self.plain.clone();
        if self.frozen.is_some() {
            // Its addresses may be those of another device.
            snapshot.space = None;
        }
        Ok(snapshot)
    }
}
