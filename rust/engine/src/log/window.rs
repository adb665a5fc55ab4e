//! A stretch of time in a history.

use crate::log::past::Past;
use jiff::Timestamp;
use snapsync_model::{Error, Result};
use snapsync_snapshot::Moment;
use std::ops::Range;

/// Snapshots from one moment to another.
#[derive(Clone, Debug, Default)]
pub struct Window {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Window {
    /// From the beginning of a date to the end of another, or from one time to another.
    pub fn parse(since: Option<&str>, until: Option<&str>) -> Result<Window> {
        let (since, until) = (since.map(Moment::named).transpose()?, until.map(Moment::named).transpose()?);
        Ok(Window { since: since.map(|moment| moment.first), until: until.map(|moment| moment.last) })
    }

    /// The steps whose snapshots were taken then. A time before the first snapshot is refused.
    pub(crate) fn steps(&self, past: &Past) -> Result<Range<u32>> {
        let times: Vec<Option<Timestamp>> =
            past.steps().iter().map(|step| step.header.created.parse().ok()).collect();
        let first = past.steps().first().zip(times.first().copied().flatten());
        if let (Some(until), Some((step, first))) = (self.until, first)
            && until < first
        {
            return Err(Error::usage(
                format!("{} has no snapshot of {} or before", past.volume.path.display(), shown(until)),
                format!("its first is {}, of {}", step.header.name, shown(first)),
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

/// As `log` and `list` show it.
fn shown(time: Timestamp) -> impl std::fmt::Display {
    time.strftime("%Y-%m-%d %H:%M:%S UTC")
}
