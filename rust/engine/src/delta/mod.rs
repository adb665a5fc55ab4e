//! Deltas between two sides, sent and received.

mod as_taken;
pub(crate) mod became;
pub(crate) mod completed;
pub(crate) mod copied;
mod hidden;
pub(crate) mod incoming;
pub(crate) mod landing;
pub(crate) mod nested;
mod noting;
pub(crate) mod outgoing;
pub(crate) mod output_file;
pub(crate) mod pruned;
mod reading;
pub(crate) mod room;
pub(crate) mod selected;
pub(crate) mod sides;
pub(crate) mod staging;
mod widened;
