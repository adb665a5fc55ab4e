//! What is made of the last table and of what is known to differ, or the reason why the tree is walked.

use snapsync_model::{Error, Result};

/// Why no table can be made from the last one.
pub(crate) enum Stop {
    /// Something differs from the last table, or from what was reported about the changes since.
    Misfit(String),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

pub(crate) type Attempt<T> = Result<T, Stop>;

pub(crate) fn misfit<T>(why: impl Into<String>) -> Attempt<T> {
    Err(Stop::Misfit(why.into()))
}
