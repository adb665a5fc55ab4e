//! Writes frames to a stage, and moves the stage to the tree: all of a delta, or nothing.
//!
//! Staging writes only below `.snapsync/incoming/ID/`: new entries in final form under `new/`, whole
//! directories with their content, and changed ranges of existing files under `data/` at their offsets. The
//! journal records when everything is there, verified and on the disk, together with the data that the commit
//! will overwrite. From then on the commit is repeated until it is done, however often it is killed, or
//! undone if it cannot go on. Each of its steps can be repeated:
//!
//! 1. displace: what older snapshots find only in the tree, and is about to go or to be overwritten, comes to
//!    its object in the pool;
//! 2. detach, deepest first: removed names are moved to `trash/`, or to `held/` if their inodes get new
//!    names;
//! 3. attach, parents first: new names come from `new/` and `held/`;
//! 4. data: changed ranges are moved to their files;
//! 5. attributes, flags and the times of directories;
//! 6. removal of what was detached, and then protection of immutable files, which may have lost a name.

mod access;
mod attributes;
mod check;
mod commit;
mod journal;
mod known;
mod layout;
mod limits;
mod names;
mod stage;
mod vet;

pub use check::untouched::{FindObjects, HasBytesOf, expect_untouched};
pub use commit::aside::set_aside;
pub use commit::before::successors;
pub use commit::returned::{Correct, Returned};
pub use journal::{Journal, OwnManifest, Phase};
pub use layout::{clear, discard};
pub use limits::{Limits, Loss, RarePart};
pub use stage::foresee::{Foreseen, Ground, foresee};
pub use stage::incoming::Incoming;
pub use stage::intact::{has_received, is_intact};
pub use stage::prepare::Report;
pub use stage::touched::{Applied, applied};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use vet::manifest::fuzz_vet;
