//! What became of every path, by the manifests of successive snapshots.
//!
//! A `Step` is one manifest: what changed from one snapshot to the next. Steps in their order, of which the
//! first creates everything, tell where each entry lay at any time. A directory that moves takes its content
//! with it, and no row says so: a `Timeline` knows all directories, and of files those that were asked for.

mod directories;
mod fold;
mod life;
mod looks;
mod places;
mod step;
mod timeline;
mod traced;

pub use fold::fold;
pub use life::{Event, Life, What, life};
pub use looks::SeenAs;
pub use places::{PastPlace, Stretch, places};
pub use step::Step;
pub use timeline::Timeline;
pub use traced::trace;
