//! A round whose primary is at the other end, as this end has seen it. Whatever only the other end knows is
//! reported as its claim.

use crate::delta::incoming::nonsense;
use crate::options::{self, Options};
use crate::remote::messages::MOST_TOLD;
use crate::report::rounds::{Claimed, Scrubbed, Synced};
use crate::round::brought::together;
use crate::round::steps::State;
use serde::Deserialize;
use serde_json::value::RawValue;
use snapsync_apply::Loss;
use snapsync_model::{Counters, Counts, Error, Monitor, Result, Skipped, SnapshotInfo, VolumeInfo};
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

/// A delta that was committed here.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) base: Option<SnapshotInfo>,
    pub(crate) snapshot: SnapshotInfo,
    pub(crate) counts: Counts,
    pub(crate) kept: u64,
    pub(crate) losses: Vec<Loss>,
}

/// Everything that this end has done in a round.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The state when it was opened.
    pub(crate) state: Option<State>,
    pub(crate) came: Vec<Came>,
    /// What was kept of a copy that it has adopted.
    pub(crate) set_aside: Option<SnapshotInfo>,
    pub(crate) pruned: Vec<SnapshotInfo>,
    pub(crate) notes: Vec<String>,
}

/// What is taken from the other end's report.
#[derive(Deserialize)]
struct Told {
    primary: VolumeInfo,
    #[serde(default)]
    notes: Vec<String>,
    #[serde(default)]
    skipped: Vec<Skipped>,
    #[serde(default)]
    recovered: Vec<String>,
    #[serde(default)]
    pruned: Vec<SnapshotInfo>,
    #[serde(default)]
    scrub: Scrubbed,
    #[serde(default)]
    counters: Counters,
}

/// A round that the other end reports as done.
pub(crate) struct Pulled<'r> {
    pub(crate) seen: Seen,
    pub(crate) report: &'r RawValue,
    /// The primary's address as it was given here.
    pub(crate) source: String,
    pub(crate) host: &'r Path,
    pub(crate) options: &'r Options,
    /// The snapshot that was asked for by name, if it is here.
    pub(crate) named: Option<SnapshotInfo>,
    pub(crate) started: Instant,
}

impl Pulled<'_> {
    /// The report of the round, if what was asked for is here.
    pub(crate) fn report(self, monitor: &Monitor) -> Result<Synced> {
        let host = self.host.to_string_lossy().into_owned();
        let told: Told = serde_json::from_str(self.report.get())
            .map_err(|_| nonsense(self.host, "a report of the round that makes no sense"))?;
        let Seen { state, came, set_aside, mut pruned, mut notes } = self.seen;
        let state = state.ok_or_else(|| undone(self.host))?;
        let (kept, losses) = came.iter().fold((0_u64, Vec::new()), |(kept, losses), came| {
            (kept.saturating_add(came.kept), together(losses, came.losses.clone()))
        });
        let Came { base, snapshot, counts, .. } = last(came, &state, self.named, self.options, self.host)?;
        notes.extend(monitor.take_notes());
        let mut recovered = state.recovered.clone();
        theirs(&host, told.notes, &mut notes);
        theirs(&host, told.recovered, &mut recovered);
        let is_new = |theirs: &SnapshotInfo| pruned.iter().all(|own| own.id != theirs.id);
        let more: Vec<_> = told.pruned.into_iter().filter(is_new).take(MOST_TOLD).collect();
        pruned.extend(more);
        Ok(Synced {
            verb: "sync",
            primary: VolumeInfo {
                path: self.source.into(),
                lineage: state.volume.lineage,
                subset: snapshot.subset.clone(),
                ..told.primary
            },
            standby: state.volume,
            set_aside: set_aside.or(state.set_aside),
            base,
            unchanged: counts.rows == 0,
            changes: counts,
            data_bytes: counts.data_bytes,
            kept_bytes: kept,
            tree_bytes: snapshot.bytes.unwrap_or(0),
            tree_entries: snapshot.entries.unwrap_or(0),
            snapshot,
            losses,
            skipped: told.skipped,
            notes,
            recovered,
            pruned,
            scrub: told.scrub.bounded(),
            counters: told.counters,
            seconds: self.started.elapsed().as_secs_f64(),
            claimed: Some(Claimed { by: host, what: vec!["counters", "primary", "scrub", "skipped"] }),
        })
    }
}

/// The delta of the round. If the standby already had the snapshot, there was none.
fn last(
    came: Vec<Came>,
    state: &State,
    named: Option<SnapshotInfo>,
    options: &Options,
    host: &Path,
) -> Result<Came> {
    let came = came.into_iter().last().or_else(|| held(state, named?.id)).ok_or_else(|| undone(host))?;
    let SnapshotInfo { name, subset, .. } = &came.snapshot;
    let is_named = options.name.as_ref().is_none_or(|asked| asked == name);
    // Without exclude patterns it was a part.
    let is_part = options::asked(options, true)?.is_none_or(|asked| asked == *subset);
    if is_named && is_part {
        return Ok(came);
    }
    Err(nonsense(host, "another snapshot than it was asked for"))
}

/// The snapshot that was asked for if the standby already held it, as this end knows it.
fn held(state: &State, named: Uuid) -> Option<Came> {
    let newest = state.newest.clone()?;
    (named == newest.id).then(|| Came {
        base: Some(newest.clone()),
        snapshot: newest,
        counts: Counts::default(),
        kept: 0,
        losses: Vec::new(),
    })
}

fn undone(host: &Path) -> Error {
    nonsense(host, "that the round is done, and nothing was committed here")
}

/// Adds what only the other end tells. It may have heard some of it from this end.
fn theirs(host: &str, told: Vec<String>, own: &mut Vec<String>) {
    let known = own.len();
    for text in told.into_iter().take(MOST_TOLD) {
        if !own[..known].iter().any(|own| text.ends_with(own.as_str())) {
            own.push(format!("{host}: {text}"));
        }
    }
}
