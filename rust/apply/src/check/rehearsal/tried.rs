//! What a rehearsal has tried already, and how that went.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

/// The most that the rows ask for.
#[derive(Default)]
pub(super) struct Links {
    /// Names of one file, and a path of it.
    pub(super) names: u64,
    /// How long these are.
    pub(super) length: usize,
    pub(super) example: String,
    /// Directories that come to each, and are there.
    pub(super) directories: HashMap<u64, i64>,
}

/// What is known of the target's names.
#[derive(Default)]
pub(super) struct Names {
    /// It holds every name; None where nobody asked yet.
    pub(super) holds_all: Option<bool>,
    /// It takes names for the same that differ in case or in how their letters are composed.
    pub(super) folds: Option<bool>,
    /// Directories in which names were tried side by side.
    pub(super) made: HashSet<Vec<u8>>,
}

/// Which times the target holds, as far as it was tried.
#[derive(Default)]
pub(super) struct Times {
    /// The ns that its times are whole multiples of; 0 where it keeps none.
    pub(super) grain: OnceCell<i128>,
    /// From the first to the last that is held.
    held: Option<(i128, i128)>,
    /// The nearest that are not, before and after.
    before: Option<i128>,
    after: Option<i128>,
}

impl Times {
    pub(super) fn held(&self, time: i128) -> Option<bool> {
        if self.held.is_some_and(|(first, last)| (first..=last).contains(&time)) {
            return Some(true);
        }
        let is_out =
            self.before.is_some_and(|before| time <= before) || self.after.is_some_and(|after| time >= after);
        is_out.then_some(false)
    }

    pub(super) fn learn(&mut self, time: i128, held: bool) {
        if held {
            let (first, last) = self.held.unwrap_or((time, time));
            self.held = Some((first.min(time), last.max(time)));
        } else if time < 0 {
            self.before = Some(self.before.map_or(time, |before| before.max(time)));
        } else {
            self.after = Some(self.after.map_or(time, |after| after.min(time)));
        }
    }
}
