//! A snapshot as a read-only file system, mounted on a directory.
//!
//! One that is a subvolume is there already, and only gets a second place. Any other is served through FUSE,
//! by this process for as long as it is mounted.

mod filesystem;
mod index;
mod mount;
mod point;

pub use mount::Mount;
pub use point::Point;
