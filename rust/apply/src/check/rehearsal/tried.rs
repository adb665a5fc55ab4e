//! What a rehearsal has tried, and the results.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

/// The highest numbers that the rows ask for.
#[derive(Default)]
pub(super) struct Links {
    /// The most names of one file, and a path of it.
    pub(super) names: u64,
    /// The length of these names.
    pub(super) length: usize,
    pub(super) example: String,
    /// The change in the number of subdirectories of each directory, and the existing ones.
    pub(super) directories: HashMap<u64, i64>,
}

/// What is known about the target's names.
#[derive(Default)]
pub(super) struct Names {
    /// Whether it holds every name; None if not tried yet.
    pub(super) holds_all: Option<bool>,
    /// Whether it treats names as equal that differ in case or in the composition of letters.
    pub(super) folds: Option<bool>,
    /// Directories in which names were tried side by side.
    pub(super) made: HashSet<Vec<u8>>,
}

/// The times that the target holds, as far as they were tried.
#[derive(Default)]
pub(super) struct Times {
    /// Times are multiples of this many ns; 0 if it keeps none.
    pub(super) grain: OnceCell<i128>,
    /// The first and the last time that is held.
    held: Option<(i128, i128)>,
    /// The nearest times before and after that are not held.
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
