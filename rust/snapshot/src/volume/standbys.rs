//! What a primary remembers of those that it feeds, and a standby to be known by.

use crate::volume::handle::Volume;
use crate::volume::record::{Standby, TakenFor};
use snapsync_model::Result;
use std::collections::BTreeMap;
use uuid::Uuid;

impl Volume {
    pub fn standbys(&self) -> &BTreeMap<Uuid, Standby> {
        &self.record.standbys
    }

    pub fn remember_standby(&mut self, id: Uuid, standby: Standby) -> Result<()> {
        self.record.taken_for.retain(|taken, by| by.lent || *taken != standby.snapshot);
        self.record.standbys.insert(id, standby);
        self.save()
    }

    /// That standby as it was known.
    pub fn forget_standby(&mut self, id: Uuid) -> Result<Option<Standby>> {
        let known = self.record.standbys.remove(&id);
        self.save()?;
        Ok(known)
    }

    pub(crate) fn forget_standbys(&mut self) {
        self.record.standbys.clear();
        self.record.taken_for.clear();
    }

    /// For whom a round took a snapshot that its standby does not have yet, or that is lent.
    pub fn taken_for(&self, snapshot: Uuid) -> Option<TakenFor> {
        self.record.taken_for.get(&snapshot).copied()
    }

    /// A snapshot that is deleted was taken for nobody. On a full disk the next one that is taken says so.
    pub(crate) fn forget_taken(&mut self, snapshot: Uuid) -> Result<()> {
        if self.record.taken_for.remove(&snapshot).is_none() {
            return Ok(());
        }
        match self.save() {
            Err(error) if error.is_full() => Ok(()),
            other => other,
        }
    }

    /// What this standby shows its primary, to be known again.
    pub fn secret(&self) -> Option<&str> {
        self.record.secret.as_deref()
    }

    pub fn keep_secret(&mut self, secret: String) -> Result<()> {
        self.record.secret = Some(secret);
        self.save()
    }
}
