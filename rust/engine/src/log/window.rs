//! A stretch of time in a history.

use crate::log::past::Past;
use jiff::Timestamp;
use snapsync_model::{Error, Result};
use std::ops::Range;

/// Snapshots from one moment to another.
#[derive(Clone, Debug, Default)]
pub struct Window {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Window {
    /// The steps whose snapshots were taken then. A time before the first snapshot is refused.
    pub(crate) fn steps(&self, past: &Past) -> Result<Range<u32>> {
        let times: Vec<Option<Timestamp>> =
            past.steps().iter().map(|step| step.header.created.parse().ok()).collect();
        let first = past.steps().first().zip(times.first().copied().flatten());
        if let (Some(until), Some((step, first))) = (self.until, first)
            && until < first
        {
            return Err(Error::usage(
                format!("{} has no snapshot of {until} or before", past.volume.path.display()),
                format!("its first is {}, of {}", step.header.name, step.header.created),
            ));
        }
        let is_before = |time: &Option<Timestamp>, end: Timestamp| time.is_some_and(|time| time < end);
        let is_after = |time: &Option<Timestamp>, end: Timestamp| time.is_some_and(|time| time > end);
        let from = self.since.map_or(0, |since| times.iter().take_while(|t| is_before(t, since)).count());
        let late =
            self.until.map_or(0, |until| times.iter().rev().take_while(|t| is_after(t, until)).count());
        Ok(from as u32..(times.len() - late).max(from) as u32)
    }
}
