//! Snapshots as inode tables and clones of changed files.

mod attempt;
pub(crate) mod before;
pub(crate) mod earlier_rows;
pub(crate) mod elusive;
pub(crate) mod follow;
pub(crate) mod ground;
pub(crate) mod hand_over;
mod hidden;
pub(crate) mod in_tree;
mod inodes;
mod merge;
pub(crate) mod objects;
pub(crate) mod pack;
mod packer;
pub(crate) mod remove;
mod scan;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod take;
pub(crate) mod weight;
