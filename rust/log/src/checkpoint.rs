//! Makes checkpoints: all of a snapshot as if it were the first.

use crate::commit::{Checkpoint, CheckpointAt, Commit, LogHistory, Published};
use crate::fold::Whole;
use crate::log::Log;
use snapsync_model::{Error, Result};
use uuid::Uuid;

impl Log {
    /// Makes a checkpoint of the snapshot of a commit, up to which the log has this history, and tells the
    /// bytes of its tables. Only the next commit makes it known.
    pub fn put_checkpoint(
        &self,
        commit: &Commit,
        history: LogHistory,
        whole: &Whole,
    ) -> Result<(CheckpointAt, u64)> {
        let name = format!("tables/{:020}-{}", commit.sequence, Uuid::new_v4().simple());
        let manifest = self.put_file(format!("{name}.arrow"), &whole.manifest())?;
        let index = self.put_index(format!("{name}-index.arrow"), &whole.frames)?;
        let published = Published { delta: whole.delta.clone(), manifest, index, packs: whole.packs.clone() };
        let tables = published.tables();
        let checkpoint = Checkpoint { sequence: commit.sequence, published, history };
        let bytes = serde_json::to_vec(&checkpoint)
            .map_err(|e| Error::failed(format!("cannot describe {}: {e}", self.address()), ""))?;
        let object = self.put(format!("{name}.json"), bytes)?;
        Ok((CheckpointAt { sequence: commit.sequence, object }, tables))
    }
}
