//! What a primary remembers of those that it feeds, and a standby to be known by.

use crate::{Request, Scrub, Volume};
use serde::{Deserialize, Serialize};
use snapsync_model::{Monitor, Result, SnapshotInfo};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What a primary knows of one of its standbys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    pub path: String,
    pub snapshot: Uuid,
    pub name: String,
    /// RFC 3339: when it got that snapshot.
    pub at: String,
    /// The file system that it is on, where that says which it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// None until the next round, where an older version knew it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<Scrub>,
    /// BLAKE3 of the secret that it was given, in hexadecimal. None until the next round, where an older version knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Its client may only read: what is taken for it goes when it needs that no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads: bool,
    /// It says that another primary was promoted: it is not fed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

/// The epoch that a standby was of when it was met, which is higher than its primary's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub epoch: u64,
    /// It shows promotions that follow those of the primary. Anybody who knows those can make up further ones.
    pub shown: bool,
    /// RFC 3339: when it was met.
    pub at: String,
}

/// For whom a round has taken a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenFor {
    pub standby: Uuid,
    /// It is no part of the history that the volume's owner keeps.
    #[serde(default)]
    pub lent: bool,
}

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

    /// Takes a snapshot that a standby is to have. The caller holds the lock.
    pub fn take_for(&mut self, by: TakenFor, request: Request, monitor: &Monitor) -> Result<SnapshotInfo> {
        let info = self.describe(request)?;
        let there = self.snapshots()?;
        self.record.taken_for.retain(|id, _| there.iter().any(|snapshot| snapshot.id == *id));
        self.record.taken_for.insert(info.id, by);
        self.take_described(info, false, monitor)
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
