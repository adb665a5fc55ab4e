//! Restores snapshots: in place, as single paths, or elsewhere.

mod differing;
pub(crate) mod directory;
mod elsewhere;
pub(crate) mod in_place;
pub(crate) mod paths;
