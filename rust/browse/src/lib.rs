//! A snapshot as a read-only file system, mounted on a directory.
//!
//! A snapshot that is a subvolume only gets a second mount. Any other is served through FUSE by this process
//! for as long as it is mounted.

mod filesystem;
mod index;
mod mount;
mod point;

pub use mount::Mount;
pub use point::Point;
