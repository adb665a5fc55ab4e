//! What a guard measures of a round, and what it allows.

use serde::{Deserialize, Serialize};

/// A share of what the standby holds, and the most that may change of it, in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    pub part: u64,
    pub whole: u64,
    pub limit: u8,
}

impl Measure {
    pub fn is_beyond(&self) -> bool {
        u128::from(self.part) * 100 > u128::from(self.whole) * u128::from(self.limit)
    }

    pub fn percent(&self) -> u128 {
        u128::from(self.part) * 100 / u128::from(self.whole.max(1))
    }
}

/// Entries that are deleted, files that are written anew, and bytes that are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    pub deleted: Measure,
    pub changed: Measure,
    /// None where a side does not tell its size.
    pub shrink: Option<Measure>,
    /// Which of them refuses the round.
    pub beyond: Option<String>,
    /// The directories with most of what it refuses.
    pub directories: Vec<Crowded>,
}

/// A directory, and how many entries beneath it count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crowded {
    pub path: String,
    pub entries: u64,
}
