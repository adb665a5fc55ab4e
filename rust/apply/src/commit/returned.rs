//! What the way back has touched has other change times than the table of the base says, by which a table
//! knows the files whose bytes only the tree has.

use snapsync_model::Result;
use snapsync_sys::{Spot, Stat};

/// A file that is back.
pub struct Returned {
    pub ino: u64,
    /// Its change time when it was checked.
    pub was: i64,
    pub now: Stat,
}

/// Corrects the table of the base, which is told the stage and the files.
pub type Correct<'f> = dyn FnMut(&Spot, Vec<Returned>) -> Result<()> + 'f;
