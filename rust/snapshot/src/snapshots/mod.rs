//! The snapshots of a volume, by either provider.

mod clones;
mod differing;
pub(crate) mod find;
pub(crate) mod keep;
mod lost;
mod missing;
mod open;
pub(crate) mod take;
