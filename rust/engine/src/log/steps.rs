//! The history that a log has.

use crate::volume::kept::History;
use snapsync_history::Step;
use snapsync_log::{Commit, Log, LogHistory};
use snapsync_model::{Monitor, Result};

pub(crate) fn history(
    log: &Log,
    head: Option<&Commit>,
    listed: &LogHistory,
    monitor: &Monitor,
) -> Result<History> {
    let Some(head) = head else { return Ok(History::default()) };
    let dir = snapsync_sys::scratch()?;
    let past = log.past(head, listed, dir.path(), monitor)?;
    let step = |past: &snapsync_log::PastStep| {
        let step = Step::open(Box::new(past.manifest.clone()), past.bytes())?;
        // Older manifests do not tell of which snapshot they are.
        Ok(step.of(&past.snapshot))
    };
    Ok(History::made(past.iter().map(step).collect::<Result<_>>()?, dir))
}
