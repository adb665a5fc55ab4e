//! Restores snapshots: in place, as single paths, or elsewhere.

pub(crate) mod directory;
pub(crate) mod in_place;
pub(crate) mod paths;
