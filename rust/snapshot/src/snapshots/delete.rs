//! Deleting snapshots. However many go, they go in one step: what they alone hold is found in one pass, they
//! are taken off the list and that is synced once, then their objects are removed, and their tables last.
//! Until then these tell what an interrupted command had still to remove.

use crate::pool::remove::remove_objects;
use crate::snapshots::garbage::Doomed;
use crate::volume::locked::LockedVolume;
use snapsync_manifest::{FILES, ObjectTable};
use snapsync_model::{Context, Error, Monitor, Provider, Result, SnapshotInfo};
use snapsync_sys::{Spot, fault};
use std::collections::BTreeSet;
use std::io;

/// The ending of a snapshot's directory until it is deleted completely.
pub(super) const DELETING: &str = "deleting";

impl LockedVolume {
    /// Deletes a snapshot and frees what no other uses.
    pub fn delete(&mut self, info: &SnapshotInfo, monitor: &Monitor) -> Result<()> {
        self.delete_all(std::slice::from_ref(info), monitor)
    }

    /// The same of several.
    pub fn delete_all(&mut self, going: &[SnapshotInfo], monitor: &Monitor) -> Result<()> {
        going.iter().try_for_each(|info| self.expect_unread(info))?;
        let newest = if self.is_partly_in_tree() && !self.is_light() { self.line()?.pop() } else { None };
        let is_newest = |info: &&SnapshotInfo| newest.as_ref().is_some_and(|newest| newest.id == info.id);
        // What says where the bytes of others are goes by itself, and last.
        let (last, others): (Vec<_>, Vec<_>) = going.iter().partition(is_newest);
        self.delete_together(&others, monitor)?;
        for newest in &last {
            if self.missing(newest).is_none() {
                self.keep_before_newest_goes(newest, monitor)?;
            }
        }
        self.delete_together(&last, monitor)
    }

    fn delete_together(&mut self, going: &[&SnapshotInfo], monitor: &Monitor) -> Result<()> {
        if going.is_empty() {
            return Ok(());
        }
        fault::point("delete.begin");
        let doomed = |info: &SnapshotInfo| Doomed { info: Some(info.clone()), dir: self.dir_of(info.id) };
        let doomed: Vec<Doomed> = going.iter().map(|info| doomed(info)).collect();
        let objects = self.objects_of_only(&doomed, monitor)?;
        let mut dirs = Vec::new();
        for info in going {
            dirs.push(self.unlist(info)?);
            fault::point("delete.marked");
        }
        let snapshots = self.store().join("snapshots");
        snapshots.sync().context("sync", snapshots.show())?;
        fault::point("delete.unlisted");
        self.remove_deleted(objects, &dirs)?;
        self.forget_taken(going)?;
        match self.point_latest() {
            // It names the newest snapshot, which is hardly ever deleted; the next snapshot writes it.
            Err(error) if error.is_full() => Ok(()),
            other => other,
        }
    }

    /// Takes a snapshot off the list. Returns where what is left of it lies.
    fn unlist(&self, info: &SnapshotInfo) -> Result<Spot> {
        let unlisted = self.rename_unlisted(info);
        self.listed.forget();
        unlisted
    }

    fn rename_unlisted(&self, info: &SnapshotInfo) -> Result<Spot> {
        let dir = self.dir_of(info.id);
        let doomed = self.store().join("snapshots").join(format!("{}.{DELETING}", info.id));
        let record = dir.join("snapshot.json");
        match record.rename(&dir.join("deleted.json")).context("unlist", dir.show()) {
            // A subvolume has no objects: it is removed like one that was never finished.
            Err(error) if error.is_full() && info.provider == Provider::Btrfs => {
                record.remove_file().context("unlist", dir.show())?;
            }
            other => other?,
        }
        match dir.rename(&doomed).context("unlist", dir.show()) {
            // Its record is moved away, which is enough.
            Err(error) if error.is_full() => {
                dir.sync().context("sync", dir.show())?;
                Ok(dir)
            }
            other => other.map(|()| doomed),
        }
    }

    /// Removes what interrupted deletions left in these directories.
    pub(super) fn finish_deletions(&self, dirs: &[Spot]) -> Result<()> {
        if dirs.is_empty() {
            return Ok(());
        }
        // Objects go before tables: where half of one is gone, they are.
        let has_table = |dir: &&Spot| match ObjectTable::open(dir) {
            Err(Error::Integrity { .. }) => Ok(false),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|_| true),
        };
        let mut doomed = Vec::new();
        for dir in dirs.iter().filter(|dir| dir.join(FILES[0]).is_there()) {
            if has_table(&dir)? {
                doomed.push(Doomed::in_dir(dir));
            }
        }
        let objects = match self.objects_of_only(&doomed, &Monitor::default()) {
            // A listed snapshot that is damaged may need them.
            Err(Error::Integrity { .. }) => BTreeSet::new(),
            other => other?,
        };
        self.remove_deleted(objects, dirs)
    }

    fn remove_deleted(&self, objects: BTreeSet<u64>, dirs: &[Spot]) -> Result<()> {
        remove_objects(&self.store().join("pool"), objects.into_iter())?;
        fault::point("delete.freed");
        for dir in dirs {
            self.remove_snapshot_dir(dir)?;
            fault::point("delete.removed");
        }
        Ok(())
    }
}
