//! What a primary records about its standbys, and what a standby shows to be recognised.

use crate::volume::handle::Volume;
use crate::volume::locked::LockedVolume;
use crate::volume::record::{FollowedLog, Standby, TakenFor};
use snapsync_model::{Result, SnapshotInfo};
use std::collections::BTreeMap;
use uuid::Uuid;

impl Volume {
    pub fn standbys(&self) -> &BTreeMap<Uuid, Standby> {
        &self.record.standbys
    }

    /// The standby for which a round took a snapshot that it does not have yet, or that is lent.
    pub fn taken_for(&self, snapshot: Uuid) -> Option<TakenFor> {
        self.record.taken_for.get(&snapshot).copied()
    }

    /// The log that this standby follows.
    pub fn follows(&self) -> Option<&FollowedLog> {
        self.record.follows.as_ref()
    }

    /// The secret by which this standby's primary recognises it.
    pub fn secret(&self) -> Option<&str> {
        self.record.secret.as_deref()
    }
}

impl LockedVolume {
    pub fn remember_standby(&mut self, id: Uuid, standby: Standby) -> Result<()> {
        let record = self.record_mut();
        record.taken_for.retain(|taken, by| by.lent || *taken != standby.snapshot);
        record.standbys.insert(id, standby);
        self.save()
    }

    /// Returns the record of that standby.
    pub fn forget_standby(&mut self, id: Uuid) -> Result<Option<Standby>> {
        let known = self.record_mut().standbys.remove(&id);
        self.save()?;
        Ok(known)
    }

    /// Notes the standby for which a snapshot is about to be taken; taking it saves the note. Notes about
    /// deleted snapshots are removed.
    pub(crate) fn note_taken_for(&mut self, snapshot: Uuid, by: TakenFor) -> Result<()> {
        let there = self.snapshots()?;
        let taken_for = &mut self.record_mut().taken_for;
        taken_for.retain(|id, _| there.iter().any(|snapshot| snapshot.id == *id));
        taken_for.insert(snapshot, by);
        Ok(())
    }

    /// Deletes the records of the standbys for which deleted snapshots were taken. On a full disk the next
    /// snapshot does that.
    pub(crate) fn forget_taken(&mut self, deleted: &[&SnapshotInfo]) -> Result<()> {
        let taken_for = &mut self.record_mut().taken_for;
        let before = taken_for.len();
        taken_for.retain(|id, _| deleted.iter().all(|info| info.id != *id));
        if taken_for.len() == before {
            return Ok(());
        }
        match self.save() {
            Err(error) if error.is_full() => Ok(()),
            other => other,
        }
    }

    /// Records the log that this standby follows; None if it follows a volume.
    pub fn set_follows(&mut self, log: Option<FollowedLog>) -> Result<()> {
        if self.record_mut().follows == log {
            return Ok(());
        }
        self.record_mut().follows = log;
        self.save()
    }

    pub fn keep_secret(&mut self, secret: String) -> Result<()> {
        self.record_mut().secret = Some(secret);
        self.save()
    }
}
