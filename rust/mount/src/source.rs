//! Where the snapshots of a mount come from.

use snapsync_model::{Inode, Monitor, Result, Side, SnapshotInfo};
use std::time::Duration;

/// The snapshots that are mounted. They may come and go meanwhile.
pub trait Snapshots: Send + Sync {
    /// Those that there are now, oldest first.
    fn list(&self) -> Result<Vec<SnapshotInfo>>;

    /// How long what was listed may be relied on.
    fn lasts(&self) -> Duration;

    /// Opens one to be read.
    fn open(&self, info: &SnapshotInfo, monitor: &Monitor) -> Result<Box<dyn Side>>;

    /// The root of one, with its details if it has any; None if that is not quicker than to open it.
    fn root(&self, info: &SnapshotInfo) -> Result<Option<Inode>>;

    /// Whether one is still there. Asked after each read: what was read before it went is right.
    fn has(&self, info: &SnapshotInfo) -> bool;
}
