//! The snapshots of a volume as they were read under its lock: nobody else changes them meanwhile, so they
//! are read once however often they are asked for.

use snapsync_model::{SnapshotInfo, locked};
use std::sync::Mutex;

#[derive(Debug, Default)]
pub(crate) struct Listed(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_locked: bool,
    /// How often something was changed.
    changes: u64,
    known: Option<Vec<SnapshotInfo>>,
}

impl Listed {
    pub(super) fn under_lock() -> Listed {
        Listed(Mutex::new(State { is_locked: true, ..State::default() }))
    }

    /// The lock goes: from now on others may change them.
    pub(super) fn end(&self) {
        *locked(&self.0) = State::default();
    }

    /// This command has changed them.
    pub(crate) fn forget(&self) {
        let mut state = locked(&self.0);
        state.changes += 1;
        state.known = None;
    }

    pub(super) fn known(&self) -> Option<Vec<SnapshotInfo>> {
        locked(&self.0).known.clone()
    }

    pub(crate) fn changes(&self) -> u64 {
        locked(&self.0).changes
    }

    /// Remembers what was read, unless something was changed since there were so many `changes`.
    pub(crate) fn keep(&self, snapshots: &[SnapshotInfo], changes: u64) {
        let mut state = locked(&self.0);
        if state.is_locked && state.changes == changes {
            state.known = Some(snapshots.to_vec());
        }
    }
}
