//! The history of a volume, or of a log, as verbs ask for it.

use crate::location::directory::open_volume;
use crate::volume::kept::{History, history};
use snapsync_history::Step;
use snapsync_log::LogAddress;
use snapsync_model::{Error, History as Keeping, Monitor, RelPath, Result, SnapshotInfo, VolumeInfo};
use snapsync_snapshot::Volume;
use snapsync_sys::Root;
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind::NotFound;
use std::path::Path;
use uuid::Uuid;

pub(crate) struct Past {
    pub(crate) volume: VolumeInfo,
    pub(crate) history: History,
    /// The snapshots that are there, by their ids.
    snapshots: HashMap<String, SnapshotInfo>,
    /// Absent for a log.
    tree: Option<Volume>,
}

/// So often it is asked again where manifests went while they were read.
const TRIES: usize = 5;

fn again<T>(asked: impl Fn() -> Result<T>) -> Result<T> {
    let is_gone = |error: &Error| matches!(error, Error::Io { source, .. } if source.kind() == NotFound);
    for _ in 1..TRIES {
        match asked() {
            Err(error) if is_gone(&error) => {}
            other => return other,
        }
    }
    asked()
}

impl Past {
    /// What `ask` makes of a history. A prune may fold manifests while they are read: then it is asked again.
    pub(crate) fn ask<T>(place: &Path, monitor: &Monitor, ask: impl Fn(Past) -> Result<T>) -> Result<T> {
        again(|| Past::of(place, monitor).and_then(&ask))
    }

    /// The same of an open directory, which is a volume.
    pub(crate) fn ask_in<T>(root: &Root, monitor: &Monitor, ask: impl Fn(Past) -> Result<T>) -> Result<T> {
        again(|| {
            let volume = Volume::open_in(root.again()?)?;
            Past::of_volume(volume, monitor).and_then(&ask)
        })
    }

    fn of(place: &Path, monitor: &Monitor) -> Result<Past> {
        if let Some(log) = LogAddress::parse(place)? {
            return Past::of_log(&log, monitor);
        }
        Past::of_volume(open_volume(place)?, monitor)
    }

    fn of_volume(volume: Volume, monitor: &Monitor) -> Result<Past> {
        let snapshots = by_id(volume.line()?);
        let history = history(&volume, monitor)?;
        note_untold(&history, &snapshots, monitor);
        Ok(Past { volume: volume.info(), history, snapshots, tree: Some(volume) })
    }

    fn of_log(address: &LogAddress, monitor: &Monitor) -> Result<Past> {
        let (log, head, listed) = crate::location::logs::read(address)?;
        let volume = crate::location::logs::info(&log, head.as_ref(), snapsync_model::Role::Standby);
        let history = crate::log::steps::history(&log, head.as_ref(), &listed, monitor)?;
        Ok(Past { volume, history, snapshots: by_id(listed.infos()), tree: None })
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.history.steps
    }

    /// The snapshot of a step, if it is there.
    pub(crate) fn snapshot(&self, step: u32) -> Option<&SnapshotInfo> {
        self.steps().get(step as usize).and_then(|step| self.snapshots.get(&step.header.target))
    }

    /// The newest snapshot among some that is there. A volume without a history of its own reads one from a
    /// standby: so it is the newest that a standby was brought, if any was.
    pub(crate) fn newest_of(&self, stretches: &[(u32, u32)]) -> Option<&SnapshotInfo> {
        let steps = stretches.iter().rev().flat_map(|(first, last)| (*first..=*last).rev());
        let there: Vec<&SnapshotInfo> = steps.filter_map(|step| self.snapshot(step)).collect();
        let light = self.tree.as_ref().filter(|volume| volume.info().history == Some(Keeping::Light));
        let brought = light.map(|volume| volume.standbys().values().map(|standby| standby.snapshot));
        let sequence = |id: Uuid| self.snapshots.get(&id.to_string()).map(|snapshot| snapshot.sequence);
        let last = brought.and_then(|brought| brought.filter_map(sequence).max());
        let was_brought = |snapshot: &&&SnapshotInfo| last.is_some_and(|last| snapshot.sequence <= last);
        there.iter().find(was_brought).or(there.first()).copied()
    }

    /// Whether a path is in the tree now; in a log, whether the newest snapshot has it, which is `last`.
    pub(crate) fn is_there(&self, path: &RelPath, last: u32) -> bool {
        match &self.tree {
            Some(volume) => volume.root().entry(path).and_then(|entry| entry.stat()).is_ok(),
            None => last as usize + 1 == self.steps().len(),
        }
    }
}

fn by_id(snapshots: Vec<SnapshotInfo>) -> HashMap<String, SnapshotInfo> {
    snapshots.into_iter().map(|snapshot| (snapshot.id.to_string(), snapshot)).collect()
}

/// Says so if there are snapshots that the history does not reach back to.
fn note_untold(history: &History, snapshots: &HashMap<String, SnapshotInfo>, monitor: &Monitor) {
    let told: HashSet<&str> = history.steps.iter().map(|step| step.header.target.as_str()).collect();
    let untold: Vec<&SnapshotInfo> =
        snapshots.values().filter(|snapshot| !told.contains(snapshot.id.to_string().as_str())).collect();
    if let Some(newest) = untold.iter().max_by_key(|snapshot| snapshot.sequence) {
        monitor.note(format!(
            "the history does not tell of {} that are there, up to {}: look into them with `snapsync mount`",
            snapsync_model::count(untold.len() as u64, "snapshot", "snapshots"),
            newest.name
        ));
    }
}
