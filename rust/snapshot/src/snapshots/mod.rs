//! The snapshots of a volume, by either provider.

pub(crate) mod alone;
mod clones;
mod delete;
mod differing;
pub(crate) mod find;
mod garbage;
pub(crate) mod keep;
pub(crate) mod light;
mod lost;
mod missing;
mod open;
mod passed_over;
mod recovery;
pub(crate) mod take;
pub(crate) mod unkept;
