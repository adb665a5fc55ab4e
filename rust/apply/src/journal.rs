//! Records how far an apply has come. The file is replaced as a whole at every step.

use crate::limits::Limits;
use serde::{Deserialize, Serialize};
use snapsync_model::{Accounts, Context, Error, Result, SnapshotInfo};
use snapsync_sys::Spot;
use uuid::Uuid;

const FILE: &str = "journal.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The tree is untouched, and the stage can be removed.
    Staging,
    /// Everything is staged, verified and durable, and what will be lost is saved: the commit continues from
    /// here.
    Committing,
    /// All names to be removed are gone, and no new name is there yet.
    Detached,
    /// The tree is the new one except for protective flags, and there is no way back any more.
    Settling,
    /// The tree is the new one, and only the standby's snapshot is missing.
    Applied,
    /// On the way back: new names are taken out again.
    Undoing,
    /// On the way back: all new names are out, and removed names come back.
    Returning,
}

/// A manifest with the owners that its files have in this volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnManifest {
    /// BLAKE3 in hexadecimal.
    pub digest: String,
    /// The volume's numbers for those of its lineage, once this is committed.
    pub accounts: Accounts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    pub phase: Phase,
    /// The snapshot that the tree becomes, and its base.
    pub snapshot: SnapshotInfo,
    pub base: Option<Uuid>,
    /// The name of the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_name: Option<String>,
    pub limits: Limits,
    /// BLAKE3 of the manifest in hexadecimal, once the whole manifest is in the stage. Only the same delta
    /// can resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// The manifest in the stage, if that is not as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnManifest>,
    /// Whether the stage holds what the commit overwrites. Older builds did not save it.
    #[serde(default)]
    pub saved: bool,
    /// Whether the stage lists the inodes that were checked and staged. Older builds did not note them.
    #[serde(default)]
    pub known: bool,
    /// Whether the stage says which objects the commit must make.
    #[serde(default)]
    pub displaces: bool,
    /// The round of the numbers that files which change in place have afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
}

impl Journal {
    /// Of a stage without anything in it.
    pub(crate) fn staging(snapshot: SnapshotInfo, base: Option<Uuid>, base_name: Option<String>) -> Journal {
        let (limits, manifest) = (Limits::default(), None);
        let (saved, known, displaces) = (false, false, false);
        Journal {
            phase: Phase::Staging,
            snapshot,
            base,
            base_name,
            limits,
            manifest,
            own: None,
            saved,
            known,
            displaces,
            round: None,
        }
    }

    /// Whether the tree may be between two snapshots and can become the older one again.
    pub fn can_go_back(&self) -> bool {
        let is_between =
            matches!(self.phase, Phase::Committing | Phase::Detached | Phase::Undoing | Phase::Returning);
        is_between && self.saved
    }

    /// Whether it was on its way back when it was stopped.
    pub fn goes_back(&self) -> bool {
        matches!(self.phase, Phase::Undoing | Phase::Returning)
    }

    pub fn load(store: &Spot) -> Result<Option<Journal>> {
        let file = store.join(FILE);
        let Some(text) = file.read_if_there().context("read", file.show())? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|e| damaged(&file, &e))
    }

    /// Writes it; it is on the disk when this returns.
    pub fn save(&self, store: &Spot) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| damaged(store, &e))?;
        store.write_file(FILE, &text).context("write the journal in", store.show())
    }

    pub fn remove(store: &Spot) -> Result<()> {
        let file = store.join(FILE);
        file.remove_file().context("remove", file.show())?;
        store.sync().context("sync", store.show())
    }
}

fn damaged(file: &Spot, error: &serde_json::Error) -> Error {
    Error::integrity(
        format!("cannot understand the journal {}: {error}", file.show().display()),
        "a commit may be half done: keep the volume as it is and ask for help",
    )
}
