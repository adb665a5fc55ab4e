//! What a long run tells its watcher, and how the watcher stops it.

use crate::{Error, Result, locked};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Recover,
    Snapshot,
    Compare,
    Stage,
    Commit,
    StandbySnapshot,
    Verify,
}

impl Stage {
    const ALL: [Stage; 7] = [
        Stage::Recover,
        Stage::Snapshot,
        Stage::Compare,
        Stage::Stage,
        Stage::Commit,
        Stage::StandbySnapshot,
        Stage::Verify,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Recover => "recover",
            Stage::Snapshot => "snapshot",
            Stage::Compare => "compare",
            Stage::Stage => "stage",
            Stage::Commit => "commit",
            Stage::StandbySnapshot => "standby snapshot",
            Stage::Verify => "verify",
        }
    }

    /// What `done` and `total` count.
    pub fn unit(self) -> &'static str {
        if self == Stage::Stage { "bytes" } else { "entries" }
    }
}

/// Shared by all threads of one run. Notes are what people should know though nothing failed.
#[derive(Default)]
pub struct Monitor {
    stage: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
    notes: Mutex<Vec<String>>,
}

impl Monitor {
    /// Starts a stage; `total` is 0 where it is not known.
    pub fn start(&self, stage: Stage, total: u64) {
        self.stage.store(stage as u8, Relaxed);
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
    }

    pub fn advance(&self, by: u64) {
        self.done.fetch_add(by, Relaxed);
    }

    /// Stage, done, total.
    pub fn state(&self) -> (Stage, u64, u64) {
        let stage = Stage::ALL[self.stage.load(Relaxed) as usize];
        (stage, self.done.load(Relaxed), self.total.load(Relaxed))
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// To be asked between small pieces of work, wherever stopping is safe.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    pub fn note(&self, note: impl Into<String>) {
        let mut notes = locked(&self.notes);
        let note = note.into();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// In a stable order, whatever the threads did.
    pub fn take_notes(&self) -> Vec<String> {
        let mut notes = std::mem::take(&mut *locked(&self.notes));
        notes.sort();
        notes
    }
}
