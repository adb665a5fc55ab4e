//! The primary of a round. Its lock is held while the round works there, and never while the standby is
//! waited for, which may be slow or never answer.

use snapsync_model::{Error, Monitor, Result, VolumeInfo};
use snapsync_snapshot::Volume;
use snapsync_sys::Lock;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// How long a round waits for another command that works on its primary: one whose period meets its own, say.
pub(super) const SHORT: Duration = Duration::from_secs(60);
/// And for the lock that it let go itself. Nobody has it who waits for another machine.
pub(super) const LONG: Duration = Duration::from_secs(12 * 3600);

pub(super) struct Primary {
    volume: Volume,
    lock: Option<Lock>,
    /// As the round met it.
    met: VolumeInfo,
}

impl Primary {
    pub(super) fn new(volume: Volume) -> Primary {
        let met = volume.info();
        Primary { volume, lock: None, met }
    }

    /// Keeps others from it, and knows what they have changed.
    pub(super) fn hold(&mut self, patience: Duration, monitor: &Monitor) -> Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        let lock = self.volume.lock_within(patience, monitor)?;
        self.volume.reload()?;
        self.expect_met(&self.volume.info())?;
        self.lock = Some(lock);
        Ok(())
    }

    pub(super) fn let_go(&mut self) {
        self.lock = None;
    }

    /// Whether the round may go on, for all that is known without the lock.
    pub(super) fn expect_unchanged(&self) -> Result<()> {
        self.expect_met(&self.volume.info_now()?)
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
        &self.volume
    }
}

impl DerefMut for Primary {
    fn deref_mut(&mut self) -> &mut Volume {
        &mut self.volume
    }
}
