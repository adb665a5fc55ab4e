//! A shelf: a directory of snapshots that were received as plain directories.

mod area;
mod bases;
mod copy;
pub(crate) mod identity;
pub(crate) mod shelf;
pub(crate) mod work;
