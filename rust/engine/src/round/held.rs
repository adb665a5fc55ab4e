//! The primary of a round. Its lock is held while the round works there, and never while waiting for the
//! standby, which may be slow or never answer.

use snapsync_model::{Error, Monitor, Result, VolumeInfo};
use snapsync_snapshot::{LockedVolume, Volume};
use std::ops::Deref;
use std::time::Duration;

/// How long a round waits for another command that works on its primary, for example an overlapping round.
pub(super) const SHORT: Duration = Duration::from_secs(60);
/// How long it waits for the lock that it released itself. Nobody holds it while waiting for another machine.
pub(super) const LONG: Duration = Duration::from_secs(12 * 3600);

pub(super) struct Primary {
    /// As it was when its lock was let go last.
    volume: Volume,
    locked: Option<LockedVolume>,
    /// The primary when the round met it.
    met: VolumeInfo,
}

impl Primary {
    pub(super) fn new(volume: Volume) -> Primary {
        let met = volume.info();
        Primary { volume, locked: None, met }
    }

    /// Locks the primary, and reads what others have changed.
    pub(super) fn hold(&mut self, patience: Duration, monitor: &Monitor) -> Result<&mut LockedVolume> {
        let locked = match self.locked.take() {
            Some(locked) => locked,
            None => {
                let locked = self.volume.lock_within(patience, monitor)?;
                self.expect_met(&locked.info())?;
                locked
            }
        };
        Ok(self.locked.insert(locked))
    }

    pub(super) fn let_go(&mut self) {
        if let Some(locked) = self.locked.take() {
            self.volume = locked.unlock();
        }
    }

    /// Checks whether the round may go on, as far as that is known without the lock.
    pub(super) fn expect_unchanged(&self) -> Result<()> {
        self.expect_met(&self.info_now()?)
    }

    fn expect_met(&self, now: &VolumeInfo) -> Result<()> {
        let what = |info: &VolumeInfo| (info.id, info.role, info.lineage, info.epoch);
        if what(now) == what(&self.met) {
            return Ok(());
        }
        Err(Error::refused(
            format!("{} changed its role while a round from it was under way", self.met.path.display()),
            "see `snapsync status` on both sides, then run this again",
        ))
    }
}

impl Deref for Primary {
    type Target = Volume;

    fn deref(&self) -> &Volume {
        self.locked.as_deref().unwrap_or(&self.volume)
    }
}
