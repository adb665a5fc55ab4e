//! The commands around a primary's snapshot: they make what writes there stand still, and let it go on.
//!
//! That the first one runs is written down before, so that the next command can run the second one where this
//! one is killed. Only the environment is: which command runs is said by who calls, never by the store.

use crate::options::Hooks;
use crate::process::command::{Running, Words};
use serde::{Deserialize, Serialize};
use snapsync_model::{Context, Error, Monitor, Result, SnapshotInfo};
use snapsync_snapshot::{Around, Volume};
use snapsync_sys::{Spot, fault};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// In the store for as long as the commands of a snapshot are under way.
const RECORD: &str = "around.json";

/// The snapshot whose commands are under way.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) snapshot: Uuid,
    pub(super) name: String,
}

pub(crate) struct HooksAround<'a> {
    volume: PathBuf,
    store: Spot,
    before: Option<Words>,
    after: Option<Words>,
    patience: Duration,
    monitor: &'a Monitor,
}

/// Refuses commands around snapshots whose bytes are read later, from a tree that has gone on.
pub(crate) fn can_be_around(volume: &Volume, hooks: &Hooks) -> Result<()> {
    if hooks.is_empty() || !volume.is_light() {
        return Ok(());
    }
    let path = volume.path().display();
    Err(Error::refused(
        format!(
            "{path} keeps no history: the bytes of its snapshots are read after them, when what its \
             hooks hold has gone on"
        ),
        format!(
            "`snapsync init {path} --history full` makes its snapshots read all that has changed between \
             the two hooks, at the cost of a copy where blocks cannot be shared; or leave the hooks out, or \
             let --take make the snapshot"
        ),
    ))
}

/// Whether the second command has still to run.
pub(crate) fn is_held(volume: &Volume) -> bool {
    volume.store().join(RECORD).is_there()
}

/// What runs around the next snapshot of a locked volume.
pub(crate) fn around<'a>(volume: &Volume, hooks: &Hooks, monitor: &'a Monitor) -> Result<HooksAround<'a>> {
    Ok(HooksAround {
        volume: volume.path().to_path_buf(),
        store: volume.store(),
        before: Words::find("before_snapshot", &hooks.before)?,
        after: Words::find("after_snapshot", &hooks.after)?,
        patience: hooks.patience,
        monitor,
    })
}

/// Runs the second command where the command that ran the first one was killed. Says what it did.
pub(crate) fn end_what_was_cut(volume: &Volume, hooks: &Hooks, monitor: &Monitor) -> Result<Option<String>> {
    let file = volume.store().join(RECORD);
    let Some(text) = file.read_if_there().context("read", file.show())? else { return Ok(None) };
    let cut: Option<Record> = serde_json::from_slice(&text).ok();
    let name = cut.as_ref().map_or_else(String::new, |cut| format!(" {}", cut.name));
    if hooks.after.is_empty() {
        monitor.note(format!(
            "the hook after snapshot{name} did not end well, and what the one before it holds may still be \
             held: a round with --after-snapshot lets it go"
        ));
        return Ok(None);
    }
    let around = around(volume, hooks, monitor)?;
    let cut = cut.unwrap_or_else(|| Record { snapshot: Uuid::nil(), name: String::new() });
    around.end(&cut, false)?;
    Ok(Some(format!("ran after_snapshot for snapshot{name}, which was interrupted")))
}

impl Around for HooksAround<'_> {
    fn before(&self, snapshot: &SnapshotInfo) -> Result<()> {
        self.begin(&Record { snapshot: snapshot.id, name: snapshot.name.clone() })
    }

    fn after(&self, snapshot: &SnapshotInfo, is_taken: bool) -> Result<()> {
        self.end(&Record { snapshot: snapshot.id, name: snapshot.name.clone() }, is_taken)
    }

    fn is_any(&self) -> bool {
        self.before.is_some() || self.after.is_some()
    }
}

impl HooksAround<'_> {
    /// Runs `take` between the two.
    pub(super) fn taking<T>(&self, record: &Record, take: impl FnOnce() -> Result<T>) -> Result<T> {
        let taken = self.begin(record).and_then(|()| take());
        let after = self.end(record, taken.is_ok());
        taken.and_then(|taken| after.map(|()| taken))
    }

    fn begin(&self, record: &Record) -> Result<()> {
        if !self.is_any() {
            return Ok(());
        }
        let text = serde_json::to_vec(record).map_err(|e| Error::failed(format!("cannot write: {e}"), ""))?;
        self.store.write_file(RECORD, &text).context("write", self.store.join(RECORD).show())?;
        fault::point("hooks.before");
        if let Some(hook) = &self.before {
            hook.run(self.how(record, None, self.monitor))?;
        }
        fault::point("hooks.held");
        Ok(())
    }

    /// Also when the run was stopped: what is held must be let go.
    fn end(&self, record: &Record, is_taken: bool) -> Result<()> {
        if !self.is_any() {
            return Ok(());
        }
        fault::point("hooks.after");
        if let Some(hook) = &self.after {
            hook.run(self.how(record, Some(is_taken), &Monitor::default()))?;
        }
        let file = self.store.join(RECORD);
        file.remove_file().context("remove", file.show())
    }

    fn how<'b>(&self, record: &Record, is_taken: Option<bool>, monitor: &'b Monitor) -> Running<'b> {
        let (hook, then) = match is_taken {
            None => ("before_snapshot", "no snapshot was taken"),
            Some(_) => ("after_snapshot", "the snapshot does not count, and what was held may still be held"),
        };
        let mut environment = vec![
            ("SNAPSYNC_HOOK", hook.to_owned()),
            ("SNAPSYNC_VOLUME", self.volume.to_string_lossy().into_owned()),
            ("SNAPSYNC_SNAPSHOT", record.name.clone()),
            ("SNAPSYNC_SNAPSHOT_ID", record.snapshot.to_string()),
        ];
        environment.extend(is_taken.map(|taken| {
            let result = if taken { "taken" } else { "failed" };
            ("SNAPSYNC_RESULT", result.to_owned())
        }));
        let (patience, places, output) = (self.patience, Vec::new(), None);
        Running { environment, places, patience, option: "--hook-timeout", then, output, monitor }
    }
}
