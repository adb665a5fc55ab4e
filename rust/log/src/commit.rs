//! Commit records: the only objects that make something part of a log.

use crate::keys::LogKey;
use serde::{Deserialize, Serialize};
use snapsync_model::{Promotions, SnapshotInfo, Subset};
use snapsync_stream::wire::{DeltaHead, Totals};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The most bytes of a record.
pub(crate) const LARGEST: u64 = 256 << 20;

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

/// What a commit does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    Snapshot(Box<Published>),
    /// The next epoch begins, before its first snapshot.
    Promotion,
    /// These are no longer listed, and what only they need goes.
    Pruned {
        snapshots: Vec<Uuid>,
    },
    Held {
        snapshot: Uuid,
        reason: String,
    },
    Released {
        snapshot: Uuid,
    },
}

/// A place of the line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Its place, from 0 on, which its name has too.
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
    /// The newest checkpoint of a commit before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointAt>,
    pub since: Since,
    pub deed: Deed,
    /// In an encrypted log what is left out of the deed, as a file of age in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// Who has signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<LogKey>,
    /// In hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Where a checkpoint is, and of which commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointAt {
    pub sequence: u64,
    pub object: StoredObject,
}

/// What came since the last checkpoint, or since the first commit, and was not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    pub commits: u64,
    /// Of manifests and indexes.
    pub bytes: u64,
    /// Those of the checkpoint, or of the first commit.
    pub whole: u64,
}

impl Since {
    /// A checkpoint is due when reading what came since costs more than reading one, but not at each round.
    const FEW: u64 = 8;
    const MANY: u64 = 256;

    fn with(self, deed: &Deed) -> Since {
        let bytes = if let Deed::Snapshot(published) = deed { published.tables() } else { 0 };
        // Who signs nothing may say anything here.
        Since { commits: self.commits.saturating_add(1), bytes: self.bytes.saturating_add(bytes), ..self }
    }

    pub fn is_due(self) -> bool {
        (self.commits >= Since::FEW && self.bytes >= self.whole) || self.commits >= Since::MANY
    }
}

/// All of a snapshot as if it were the first, and what the log had then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub sequence: u64,
    pub published: Published,
    pub history: LogHistory,
}

/// The snapshots of a log, oldest first, with the places of their commits, which of them are held, and the
/// checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHistory {
    pub snapshots: Vec<(u64, SnapshotInfo)>,
    pub holds: BTreeMap<Uuid, String>,
    /// Those that no listed snapshot needs may be gone.
    pub checkpoints: Vec<CheckpointAt>,
}

impl LogHistory {
    /// The checkpoint that a snapshot is read from; without one all commits are.
    pub(crate) fn checkpoint_for(&self, sequence: u64) -> Option<&CheckpointAt> {
        self.checkpoints.iter().rfind(|at| at.sequence <= sequence)
    }

    pub(crate) fn add(&mut self, commit: &Commit) {
        let known = self.checkpoints.last().map(|at| at.sequence);
        self.checkpoints
            .extend(commit.checkpoint.clone().filter(|at| known.is_none_or(|known| known < at.sequence)));
        match &commit.deed {
            Deed::Snapshot(published) => {
                self.snapshots.push((commit.sequence, published.delta.snapshot.clone()));
            }
            Deed::Promotion => {}
            Deed::Pruned { snapshots } => {
                self.snapshots.retain(|(_, info)| !snapshots.contains(&info.id));
                self.holds.retain(|held, _| !snapshots.contains(held));
            }
            Deed::Held { snapshot, reason } => drop(self.holds.insert(*snapshot, reason.clone())),
            Deed::Released { snapshot } => drop(self.holds.remove(snapshot)),
        }
    }

    /// The place of the commit that brought a listed snapshot.
    pub fn place_of(&self, snapshot: Uuid) -> Option<u64> {
        self.snapshots.iter().find(|(_, listed)| listed.id == snapshot).map(|(at, _)| *at)
    }

    pub fn infos(&self) -> Vec<SnapshotInfo> {
        self.snapshots.iter().map(|(_, info)| info.clone()).collect()
    }
}

impl Deed {
    /// Whether it says what files hold, or who may say so. What others do lets something go at most, and that
    /// who may delete objects can do anyway.
    pub(crate) fn needs_signature(&self) -> bool {
        matches!(self, Deed::Snapshot(_) | Deed::Promotion)
    }

    /// Takes out what only those may read to whom a log is encrypted: not ids, times, sizes and numbers.
    pub(crate) fn take_private(&mut self) -> Option<Private> {
        match self {
            Deed::Snapshot(published) => {
                let delta = &mut published.delta;
                let private = delta.clone();
                let snapshot = &mut delta.snapshot;
                snapshot.name = snapshot.id.to_string();
                (snapshot.entries, snapshot.bytes, snapshot.subset) = (None, None, Subset::default());
                (delta.filesystem, delta.software) = (String::new(), String::new());
                delta.totals = Totals::default();
                Some(Private::Delta(Box::new(private)))
            }
            Deed::Held { reason, .. } => {
                Some(Private::Reason(std::mem::replace(reason, "encrypted".to_owned())))
            }
            Deed::Promotion | Deed::Pruned { .. } | Deed::Released { .. } => None,
        }
    }

    /// Puts that back; false if it is of another deed.
    pub(crate) fn put_private(&mut self, private: Private) -> bool {
        let public = self.clone();
        match (&mut *self, private) {
            (Deed::Snapshot(published), Private::Delta(delta)) => published.delta = *delta,
            (Deed::Held { reason, .. }, Private::Reason(told)) => *reason = told,
            _ => return false,
        }
        let mut again = self.clone();
        again.take_private();
        again == public
    }
}

/// What is encrypted of a deed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Private {
    Delta(Box<DeltaHead>),
    Reason(String),
}

impl Published {
    /// The bytes of what tells about the data.
    pub(crate) fn tables(&self) -> u64 {
        self.manifest.size.saturating_add(self.index.as_ref().map_or(0, |index| index.size))
    }
}

impl Commit {
    pub fn published(&self) -> Option<&Published> {
        match &self.deed {
            Deed::Snapshot(published) => Some(published),
            _ => None,
        }
    }

    pub fn info(&self) -> Option<&SnapshotInfo> {
        self.published().map(|published| &published.delta.snapshot)
    }

    /// Whether it is of this snapshot.
    pub fn is_of(&self, snapshot: Uuid) -> bool {
        self.info().is_some_and(|info| info.id == snapshot)
    }

    /// The commit that follows this one, whose record has this digest, in its epoch.
    pub fn next(&self, digest: String, deed: Deed) -> Commit {
        Commit {
            sequence: self.sequence + 1,
            before: digest,
            token: Uuid::new_v4(),
            written: jiff::Timestamp::now().to_string(),
            since: self.since.with(&deed),
            deed,
            sealed: None,
            signer: None,
            signature: None,
            ..self.clone()
        }
    }

    /// The first commit of a log.
    pub fn first(published: Published) -> Commit {
        let delta = &published.delta;
        Commit {
            sequence: 0,
            before: String::new(),
            token: Uuid::new_v4(),
            written: jiff::Timestamp::now().to_string(),
            lineage: delta.lineage.unwrap_or_default(),
            epoch: delta.epoch,
            promotions: delta.promotions.clone(),
            checkpoint: None,
            since: Since { whole: published.tables(), ..Since::default() },
            deed: Deed::Snapshot(Box::new(published)),
            sealed: None,
            signer: None,
            signature: None,
        }
    }

    pub(crate) fn key(sequence: u64) -> String {
        format!("commits/{sequence:020}.json")
    }

    /// The place in the line that a name says.
    pub(crate) fn sequence_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".json").filter(|digits| digits.len() == 20)?;
        digits.parse().ok().filter(|sequence| *sequence < u64::MAX)
    }
}
