//! Locking a volume, and clearing what an interrupted command left in its store.

use crate::snapshots::delete::DELETING;
use crate::snapshots::lost::AGAIN;
use crate::store::restoring::clear_replacement;
use crate::volume::alive::clear;
use crate::volume::handle::{Volume, in_order, info_in};
use crate::volume::locked::{GLANCE, LockedVolume};
use snapsync_model::{Context, Monitor, Result};
use std::time::Duration;

impl Volume {
    /// Keeps every other command that writes away.
    pub fn lock(&self) -> Result<LockedVolume> {
        self.lock_within(GLANCE, &Monitor::default())
    }

    /// The same, but waits for this long if another command holds it.
    pub fn lock_within(&self, patience: Duration, monitor: &Monitor) -> Result<LockedVolume> {
        let mut locked = LockedVolume::reloaded(self, patience, monitor)?;
        let done = locked.recover()?;
        locked.note_recovered(done);
        Ok(locked)
    }
}

impl LockedVolume {
    /// Clears what an interrupted take or delete left. Says what it did.
    fn recover(&mut self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        self.clear_transfers();
        if self.clear_clone()? {
            done.push("removed a clone that was not completed".to_owned());
        }
        if clear_replacement(self.root())? {
            done.push("removed what a restore of paths has left".to_owned());
        }
        let snapshots = self.store().join("snapshots");
        let (mut deleted, mut listed, mut is_readable) = (Vec::new(), Vec::new(), true);
        for entry in snapshots.list().context("list", snapshots.show())? {
            let dir = snapshots.join(&entry.name);
            if entry.name.ends_with(format!(".{DELETING}").as_bytes()) {
                deleted.push(dir);
                continue;
            }
            match info_in(&dir) {
                Ok(None) if dir.join("deleted.json").is_there() => deleted.push(dir),
                Ok(None) => {
                    self.remove_incomplete(&dir)?;
                    done.push("removed a snapshot that was not completed".to_owned());
                }
                info => {
                    if dir.join(AGAIN).is_there() {
                        self.settle(&dir)?;
                    }
                    // Whoever asks for the list is told what cannot be read.
                    is_readable &= info.is_ok();
                    listed.extend(info.ok().flatten());
                }
            }
        }
        if is_readable {
            self.listed.keep(&in_order(listed), self.listed.changes());
        }
        self.finish_deletions(&deleted)?;
        match deleted.len() {
            0 => {}
            1 => done.push("finished deleting a snapshot".to_owned()),
            many => done.push(format!("finished deleting {many} snapshots")),
        }
        if !done.is_empty() {
            self.point_latest()?;
        }
        Ok(done)
    }

    /// Removes what killed transfers have left. Others may be running.
    fn clear_transfers(&self) {
        let store = self.store();
        clear(&store.join("join"));
        self.clear_readings();
        // Older versions had these.
        let _ = store.join("outgoing").remove_tree();
        for entry in store.list().into_iter().flatten().filter(|entry| entry.name.starts_with(b"join-")) {
            let _ = store.join(&entry.name).remove_file();
        }
    }
}
