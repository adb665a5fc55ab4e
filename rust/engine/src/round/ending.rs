//! What comes after a round: old snapshots go, and so does the tree that was read in place of the primary's.

use crate::round::held::LONG;
use crate::round::primary::{Driver, bases};
use crate::volume::retention;
use snapsync_model::{Result, SnapshotInfo};

impl Driver<'_> {
    /// Deletes snapshots on both sides that need not be kept; the bases of standbys stay.
    pub(super) fn prune(&mut self) -> Result<Vec<SnapshotInfo>> {
        let keep = &self.options.keep;
        if keep.is_empty() {
            return Ok(Vec::new());
        }
        let needed = bases(&self.primary);
        self.primary.let_go();
        let there = self.standby.prune(keep, &needed);
        let there = self.unless_bearable(&self.looked.path, there)?;
        if !self.rights.prunes {
            let show = self.primary.path().display();
            self.monitor
                .note(format!("{show} keeps its old snapshots: its server lets no client delete any"));
            return Ok(there);
        }
        let primary = self.primary.hold(LONG, self.monitor)?;
        let here = retention::apply(primary, keep, &bases(primary), self.monitor);
        let mut pruned =
            self.unless_bearable(&self.primary.path().to_string_lossy(), here.map(|done| done.0))?;
        pruned.extend(there);
        Ok(pruned)
    }

    /// A round is good even if old snapshots cannot be deleted; that is only noted.
    fn unless_bearable(&self, path: &str, pruned: Result<Vec<SnapshotInfo>>) -> Result<Vec<SnapshotInfo>> {
        pruned.or_else(|error| {
            if !retention::is_bearable(&error) {
                return Err(error);
            }
            let (why, advice) = (error.sentence(), error.advice());
            self.monitor.note(format!("{path} keeps its old snapshots: {why} ({advice})"));
            Ok(Vec::new())
        })
    }

    /// Takes away the tree that was read. A round is good even if that fails: the next one tries it again.
    pub(super) fn release(&mut self) {
        let Some(taken) = self.taken.take() else { return };
        if let Err(error) = taken.release() {
            self.monitor.note(format!("{} ({})", error.sentence(), error.advice()));
        }
    }
}
