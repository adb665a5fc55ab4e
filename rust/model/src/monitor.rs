//! How a long run reports progress, and how its watcher stops it.

use crate::error::{Error, Result};
use crate::mutex::locked;
use crate::path::RelPath;
use crate::printable::printable;
use crate::skipped::Skipped;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Recover,
    Snapshot,
    Compare,
    Stage,
    Send,
    Receive,
    Commit,
    StandbySnapshot,
    Verify,
    Scrub,
}

impl Stage {
    const ALL: [Stage; 10] = [
        Stage::Recover,
        Stage::Snapshot,
        Stage::Compare,
        Stage::Stage,
        Stage::Send,
        Stage::Receive,
        Stage::Commit,
        Stage::StandbySnapshot,
        Stage::Verify,
        Stage::Scrub,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Recover => "recover",
            Stage::Snapshot => "snapshot",
            Stage::Compare => "compare",
            Stage::Stage => "stage",
            Stage::Send => "send",
            Stage::Receive => "receive",
            Stage::Commit => "commit",
            Stage::StandbySnapshot => "standby snapshot",
            Stage::Verify => "verify",
            Stage::Scrub => "scrub",
        }
    }

    /// The unit of `done` and `total`.
    pub fn unit(self) -> &'static str {
        match self {
            Stage::Stage | Stage::Send | Stage::Receive | Stage::Scrub => "bytes",
            _ => "entries",
        }
    }
}

/// Counts of what was examined. Equal input gives equal counts, whatever the number of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Directory entries, tree items and table rows.
    pub visited: u64,
    pub inodes_compared: u64,
    /// Pairs of extents whose addresses or bytes were compared.
    pub extents_compared: u64,
    /// Bytes read from files, to compare them and to send them.
    pub bytes_read: u64,
    pub bytes_sent: u64,
    /// Runs of bytes that are equal at different addresses.
    pub ghosts: u64,
    pub ghost_bytes: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.visited += other.visited;
        self.inodes_compared += other.inodes_compared;
        self.extents_compared += other.extents_compared;
        self.bytes_read += other.bytes_read;
        self.bytes_sent += other.bytes_sent;
        self.ghosts += other.ghosts;
        self.ghost_bytes += other.ghost_bytes;
    }
}

/// The state that all threads of one run share. Notes tell people what they should know though nothing
/// failed.
#[derive(Default)]
pub struct Monitor {
    stage: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
    /// Stages that ended before anybody asked.
    missed: Mutex<Vec<Stage>>,
    notes: Mutex<Vec<String>>,
    counters: Mutex<Counters>,
    /// Whether what cannot be read is passed over now.
    passes_over: AtomicBool,
    skipped: Mutex<BTreeSet<Skipped>>,
    /// Inodes whose data could not be read, and the reasons, while that is passed over.
    unread: Mutex<BTreeMap<u64, String>>,
}

impl Monitor {
    /// Starts a stage; `total` is 0 if it is unknown.
    pub fn start(&self, stage: Stage, total: u64) {
        let mut missed = locked(&self.missed);
        missed.push(stage);
        self.stage.store(stage as u8, Relaxed);
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
    }

    pub fn advance(&self, by: u64) {
        self.done.fetch_add(by, Relaxed);
    }

    /// The stages that came and went since the last call, then the current one; each with what is done and
    /// the total.
    pub fn take_states(&self) -> Vec<(Stage, u64, u64)> {
        let mut missed = locked(&self.missed);
        missed.pop();
        let mut states: Vec<_> = missed.drain(..).map(|stage| (stage, 0, 0)).collect();
        let stage = Stage::ALL[self.stage.load(Relaxed) as usize];
        states.push((stage, self.done.load(Relaxed), self.total.load(Relaxed)));
        states
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Fails if the run was stopped. Called between small pieces of work, wherever stopping is safe.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Adds the counts of one piece of work.
    pub fn count(&self, more: Counters) {
        *locked(&self.counters) += more;
    }

    pub fn counters(&self) -> Counters {
        *locked(&self.counters)
    }

    pub fn note(&self, note: impl Into<String>) {
        let mut notes = locked(&self.notes);
        let note = printable(&note.into()).into_owned();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Does something that passes over what cannot be read, where that is asked for.
    pub fn passing_over<T>(&self, is_asked: bool, work: impl FnOnce() -> T) -> T {
        self.passes_over.store(is_asked, Relaxed);
        let done = work();
        self.passes_over.store(false, Relaxed);
        done
    }

    pub fn passes_over(&self) -> bool {
        self.passes_over.load(Relaxed)
    }

    /// Passes over an entry that cannot be read. Fails with every other error, and where nothing is to be
    /// passed over.
    pub fn skip(&self, path: &RelPath, error: Error) -> Result<()> {
        if !self.passes_over() || !error.is_unreadable() || path.is_root() {
            return Err(error);
        }
        locked(&self.skipped).insert(Skipped::new(path, &error));
        Ok(())
    }

    /// Remembers a file whose data cannot be read, if that is to be passed over. Whoever reads fails all the
    /// same, and what he read is of no use: it is read again without that file.
    pub fn note_unread(&self, ino: u64, error: &Error) {
        if self.passes_over() && error.is_unreadable() {
            locked(&self.unread).insert(ino, error.sentence());
        }
    }

    /// The files that were remembered so since the last call.
    pub fn take_unread(&self) -> BTreeMap<u64, String> {
        std::mem::take(&mut *locked(&self.unread))
    }

    /// Lists a file whose data was passed over.
    pub fn list_skipped(&self, path: String, why: String) {
        locked(&self.skipped).insert(Skipped { path, why });
    }

    /// What was passed over since the last call, by path.
    pub fn take_skipped(&self) -> Vec<Skipped> {
        std::mem::take(&mut *locked(&self.skipped)).into_iter().collect()
    }

    /// The notes in a stable order, whatever the threads did.
    pub fn take_notes(&self) -> Vec<String> {
        let mut notes = std::mem::take(&mut *locked(&self.notes));
        notes.sort();
        notes
    }
}
