//! Commit records: the only objects that make something part of a log.

use serde::{Deserialize, Serialize};
use snapsync_model::{Error, Promotions, Result, SnapshotInfo};
use snapsync_stream::wire::DeltaHead;
use uuid::Uuid;

/// The most bytes of a record.
pub(crate) const LARGEST: u64 = 16 << 20;

/// An object that a commit names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Below the prefix of the log.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// BLAKE3 in hexadecimal.
    pub blake3: String,
}

/// A snapshot that came to the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// That of the delta: snapshot, base, lineage, epoch, promotions, totals.
    pub delta: DeltaHead,
    /// The change manifest.
    pub manifest: StoredObject,
    /// Which frames are where; none where no data travelled.
    pub index: Option<StoredObject>,
    /// Their numbers are those in the index, from 0 on.
    pub packs: Vec<StoredObject>,
}

/// A place of the line: a snapshot, or a promotion that comes before the first snapshot of its epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Its place in the line, from 0 on, which its name has too.
    pub sequence: u64,
    /// BLAKE3 in hexadecimal of the record before; empty for the first.
    pub before: String,
    /// Made anew for each try to write one: whose record it is, where the answer got lost.
    pub token: Uuid,
    /// RFC 3339, UTC; for people only.
    pub written: String,
    pub lineage: Uuid,
    pub epoch: u64,
    /// The promotions that led to that epoch.
    #[serde(default, skip_serializing_if = "Promotions::is_empty")]
    pub promotions: Promotions,
    /// None for a promotion.
    pub published: Option<Published>,
}

impl Commit {
    pub fn info(&self) -> Option<&SnapshotInfo> {
        self.published.as_ref().map(|published| &published.delta.snapshot)
    }

    /// Whether it is of this snapshot.
    pub fn is_of(&self, snapshot: Uuid) -> bool {
        self.info().is_some_and(|info| info.id == snapshot)
    }

    pub(crate) fn key(sequence: u64) -> String {
        format!("commits/{sequence:020}.json")
    }

    /// The place in the line that a name says.
    pub(crate) fn sequence_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".json").filter(|digits| digits.len() == 20)?;
        digits.parse().ok()
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|e| Error::failed(format!("cannot write a commit: {e}"), ""))
    }
}
