//! What could not be read and was passed over, because whoever runs this has asked for it.

use crate::error::Error;
use crate::path::RelPath;
use crate::printable::printable;
use serde::{Deserialize, Serialize};

/// An entry of the tree that could not be read. The snapshot has it as the one before it, with all that is
/// beneath it; or not at all if it is new.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    pub path: String,
    pub why: String,
}

impl Skipped {
    pub fn new(path: &RelPath, error: &Error) -> Skipped {
        Skipped { path: path.display().into_owned(), why: printable(&error.sentence()).into_owned() }
    }
}
