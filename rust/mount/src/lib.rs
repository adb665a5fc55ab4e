//! Snapshots as a read-only file system, mounted on a directory: one of them, or all of a volume or a log.
//!
//! A snapshot that is a subvolume only gets a second mount. Anything else is served through FUSE by this
//! process for as long as it is mounted.

mod ahead;
mod answers;
mod filesystem;
mod index;
mod mount;
mod point;
mod slots;
mod source;

pub use mount::{Mount, Serving};
pub use point::Point;
pub use source::Snapshots;
