//! Snapshots as inode tables and clones of changed files.

pub(crate) mod follow;
mod ground;
mod hidden;
mod merge;
pub(crate) mod objects;
mod scan;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod take;
