//! How far the files that a primary and one of its standbys share were read again.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// The number of parts of the circle; for each it is known when it was last read.
const PARTS: usize = 16;
const PART: u64 = 1 << 60;

/// Paths are spread over a circle by their hash, and their files are read in that order. Times are seconds
/// since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// The position on the circle that is next.
    place: u64,
    /// The bytes that were read of the file at that position.
    #[serde(default)]
    offset: u64,
    /// Everything that was due until then was read.
    until: u64,
    /// When each part of the circle was last read; at first, when the standby was first known.
    seen: Vec<u64>,
    /// When the part with `place` was begun.
    begun: u64,
    #[serde(default)]
    pub files: u64,
    #[serde(default)]
    pub bytes: u64,
    /// The number of files that were ever found to differ.
    #[serde(default)]
    pub differences: u64,
    /// Files that differed, by their inode numbers on the primary, until a round has sent them again. Paths
    /// are for people.
    #[serde(default)]
    pub pending: BTreeMap<u64, String>,
}

impl Scrub {
    /// The state for a new standby: every byte was read on one side and written on the other just now.
    pub fn begin() -> Scrub {
        let now = now();
        Scrub {
            place: 0,
            offset: 0,
            until: now,
            seen: vec![now; PARTS],
            begun: now,
            files: 0,
            bytes: 0,
            differences: 0,
            pending: BTreeMap::new(),
        }
    }

    pub fn place(&self) -> u64 {
        self.place
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Everything was read since then.
    pub fn all_since(&self) -> u64 {
        self.seen.iter().copied().min().unwrap_or(self.until)
    }

    /// How much of the circle, out of 2^64, is due if everything must be read once in `period` seconds.
    pub fn due(&self, period: u64) -> u128 {
        // A clock that was set back proves nothing.
        let since = u128::from(now().saturating_sub(self.until));
        (since << 64).checked_div(u128::from(period)).unwrap_or_default().min(1 << 64)
    }

    /// Advances by a part of the circle, out of what was `due`, into a file of which `offset` bytes were
    /// read. The rest stays due.
    pub fn advance(&mut self, by: u128, due: u128, period: u64, offset: u64) {
        let now = now();
        let from = self.until.max(now.saturating_sub(period));
        self.until = if by >= due { now } else { from + ((by * u128::from(period)) >> 64) as u64 };
        self.seen.resize(PARTS, self.until);
        let mut left = by;
        loop {
            let part = (self.place / PART) as usize;
            let rest = u128::from(PART - self.place % PART);
            if left < rest {
                self.place += left as u64;
                break;
            }
            left -= rest;
            self.seen[part] = self.begun;
            self.begun = now;
            self.place = self.place.wrapping_add(rest as u64);
        }
        if by > u128::from(u64::MAX) {
            self.seen.fill(now);
        }
        self.offset = offset;
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIRCLE: u128 = 1 << 64;

    /// The state as it was some seconds ago.
    fn aged(by: u64) -> Scrub {
        let then = now() - by;
        Scrub { until: then, begun: then, seen: vec![then; PARTS], ..Scrub::begin() }
    }

    #[test]
    fn what_is_due_grows_with_the_time_and_is_at_most_everything() {
        assert_eq!(Scrub::begin().due(1000), 0);
        assert_eq!(aged(1000).due(1000), CIRCLE);
        assert_eq!(aged(5000).due(1000), CIRCLE);
        let half = aged(500).due(1000);
        assert!((CIRCLE / 2..CIRCLE / 100 * 51).contains(&half));
    }

    #[test]
    fn what_a_limit_left_stays_due() {
        for late in [1000, 50_000] {
            let mut scrub = aged(late);
            scrub.advance(CIRCLE / 4, CIRCLE, 1000, 7);
            assert_eq!((scrub.place(), scrub.offset()), (1 << 62, 7));
            let due = scrub.due(1000);
            assert!((CIRCLE / 4 * 3..CIRCLE / 100 * 76).contains(&due));
            scrub.advance(due, due, 1000, 0);
            assert_eq!(scrub.due(1000), 0);
        }
    }

    #[test]
    fn everything_was_read_since_the_part_that_waits_longest() {
        let mut scrub = aged(1000);
        let (then, quarter) = (scrub.all_since(), CIRCLE / 4);
        for _ in 0..3 {
            scrub.advance(quarter, quarter, 1000, 0);
            assert_eq!(scrub.all_since(), then);
        }
        scrub.advance(quarter, quarter, 1000, 0);
        // The oldest part was begun then.
        assert_eq!((scrub.place(), scrub.all_since()), (0, then));
        scrub.advance(quarter, quarter, 1000, 0);
        assert!(scrub.all_since() > then);
        let mut at_once = aged(1000);
        at_once.advance(CIRCLE, CIRCLE, 1000, 0);
        assert!(at_once.all_since() > then && at_once.place() == 0);
    }
}
