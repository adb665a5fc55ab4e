//! Frames to a stage, and the stage to the tree: all of a delta, or nothing.
//!
//! Staging writes only below `.snapsync/incoming/ID/`: new entries in final form under `new/`, whole directories
//! with all that is in them, and changed ranges of existing files under `data/` at their offsets. Once everything is there, verified and
//! on the disk, the journal says so; from then on the commit is replayed until it is done, however often it is
//! killed. Each of its steps can be done again:
//!
//! 1. detach, deepest first: names that go. What lives on under another name is kept in `held/`;
//! 2. attach, parents first: names that come, from `new/` and `held/`;
//! 3. data: changed ranges move into their files;
//! 4. what was held and what goes is removed: some of it may be a further name of a file that is to be immutable;
//! 5. attributes, flags and the times of directories.

mod attributes;
mod check;
mod commit;
mod journal;
mod limits;
mod names;
mod received;
mod row;
mod share;
mod sources;
mod stage;
mod strays;
mod touched;
mod vet;

pub use journal::{Journal, Phase};
pub use limits::{Limits, Loss};
pub use received::{has_received, is_intact};
pub use stage::{Incoming, Report, discard};
pub use touched::{Applied, applied};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use vet::vet as fuzz_vet;
