//! Snapshots brought back: in place, some paths of it, or elsewhere.

pub(crate) mod directory;
pub(crate) mod in_place;
pub(crate) mod paths;
