//! The changes between two sides, on their way out and in.

pub(crate) mod became;
mod hidden;
pub(crate) mod incoming;
pub(crate) mod landing;
pub(crate) mod outgoing;
pub(crate) mod output_file;
mod pruned;
pub(crate) mod sides;
pub(crate) mod staging;
mod widened;
