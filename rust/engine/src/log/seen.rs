//! What a log shows of itself, in the words of a volume.

use snapsync_log::{Commit, Log};
use snapsync_model::{Provider, Role, SnapshotInfo, Subset, VolumeInfo};
use uuid::Uuid;

/// What stands for the name of a file system.
const STORE: &str = "log";

/// A log as if it were a volume, whose newest commit is `newest`.
pub(crate) fn info(log: &Log, newest: Option<&Commit>, role: Role) -> VolumeInfo {
    VolumeInfo {
        path: log.address().to_string().into(),
        id: log.id(),
        lineage: newest.map_or(Uuid::nil(), |newest| newest.lineage),
        epoch: newest.map_or(0, |newest| newest.epoch),
        role,
        provider: Provider::Pool,
        filesystem: STORE.to_owned(),
        subset: newest.map_or_else(Subset::default, |newest| newest.info().subset.clone()),
        history: None,
    }
}

/// The snapshots of a line, oldest first.
pub(crate) fn snapshots(line: &[Commit]) -> Vec<SnapshotInfo> {
    line.iter().map(|commit| commit.info().clone()).collect()
}
