//! A copy of a primary that a standby had before its first snapshot. It is kept as a snapshot of its own
//! while that is made from it, and afterwards if anything of it was changed or is gone.

use crate::volume::{drift, kept};
use snapsync_apply::Journal;
use snapsync_manifest::ManifestReader;
use snapsync_model::{Monitor, Provider, RelPath, Result, SnapshotInfo, Stage, Subset};
use snapsync_snapshot::LockedVolume;
use snapsync_sys::Named;

pub(crate) struct Adopted {
    pub(crate) probe: SnapshotInfo,
    /// Whether it is listed as a snapshot.
    is_kept: bool,
}

impl Adopted {
    /// What is in the tree of a volume without a snapshot, as far as it is replicated.
    pub(crate) fn of(volume: &mut LockedVolume, subset: &Subset, monitor: &Monitor) -> Result<Adopted> {
        volume.restore_subset(subset.clone())?;
        monitor.start(Stage::Snapshot, 0);
        Ok(Adopted { probe: volume.probe("adopted-", subset.clone(), monitor)?, is_kept: false })
    }

    /// Lists it before a commit, which may have to go back to it.
    pub(crate) fn keep(&mut self, volume: &mut LockedVolume, monitor: &Monitor) -> Result<()> {
        if self.is_kept {
            return Ok(());
        }
        // On Btrfs the first snapshot would have what others have written since; elsewhere it is told later,
        // as it is of any standby.
        if volume.info().provider == Provider::Btrfs
            && let Some(drift) = drift::find(volume, &self.probe, "drift-", monitor)?
        {
            return drift.refuse(volume, "nobody may write to a copy while it is adopted: run this again");
        }
        volume.keep(&self.probe)?;
        self.is_kept = true;
        Ok(())
    }

    /// After the commit of a delta; `is_needed` says whether that took anything away, so that it stays.
    pub(crate) fn settle(
        self,
        volume: &mut LockedVolume,
        is_needed: bool,
        monitor: &Monitor,
    ) -> Result<Option<SnapshotInfo>> {
        if !is_needed {
            kept::delete_all(volume, std::slice::from_ref(&self.probe), monitor)?;
        }
        Ok(Some(self.probe).filter(|_| is_needed))
    }

    /// After a failure. If a commit is to be finished, it is needed.
    pub(crate) fn give_up(&self, volume: &mut LockedVolume) {
        if !self.is_kept {
            // The next command does it otherwise.
            let _ = volume.drop_probe(&self.probe);
        } else if let Ok(None) = Journal::load(&volume.store())
            && volume.line().is_ok_and(|line| line.is_empty())
        {
            let _ = kept::delete_all(volume, std::slice::from_ref(&self.probe), &Monitor::default());
        }
    }
}

/// Whether these changes take something away that was there. Programs that copy a tree seldom leave the times
/// of directories as they were.
pub(crate) fn takes_away(manifest: &dyn Named) -> Result<bool> {
    for row in ManifestReader::open(manifest)? {
        let row = row?;
        let is_made_by_mkfs = row.flags.deleted && row.old_path.as_ref().is_some_and(is_lost_and_found);
        if !row.flags.created && !row.only_lends() && !drift::is_only_dated(&row) && !is_made_by_mkfs {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is in it has rows of its own.
fn is_lost_and_found(path: &RelPath) -> bool {
    path.as_bytes() == b"lost+found"
}
