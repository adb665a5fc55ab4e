//! What is made of the last table and of what is known to differ, or the reason why the tree is walked.

use crate::pool::remove::remove_round;
use crate::pool::store::PoolStore;
use snapsync_model::{Error, Monitor, Result};

/// Why no table can be made from the last one.
pub(crate) enum Stop {
    /// Something differs from the last table, or from what was reported about the changes since. Nothing is
    /// told of a tree that is always walked.
    Misfit(Option<String>),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

pub(crate) type Attempt<T> = Result<T, Stop>;

pub(crate) fn misfit<T>(why: impl Into<String>) -> Attempt<T> {
    Err(Stop::Misfit(Some(why.into())))
}

/// Clears up after an attempt, so that the tree can be walked.
pub(crate) fn give_up(why: Option<String>, store: &PoolStore, round: u64, monitor: &Monitor) -> Result<()> {
    if let Some(why) = why {
        monitor.note(format!("{} was walked for its snapshot: {why}", store.path().display()));
    }
    remove_round(&store.pool(), round)
}
