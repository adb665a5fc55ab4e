//! Frames to a stage, and the stage to the tree: all of a delta, or nothing.
//!
//! Staging writes only below `.snapsync/incoming/ID/`: new entries in final form under `new/`, whole
//! directories with all that is in them, and changed ranges of existing files under `data/` at their offsets.
//! Once everything is there, verified and on the disk, and what the commit will overwrite is kept there too,
//! the journal says so; from then on the commit is replayed until it is done, however often it is killed, or
//! undone where it cannot go on. Each of its steps can be done again:
//!
//! 1. displace: what older snapshots find nowhere but in the tree, and is about to go or to be overwritten,
//!    comes to its object in the pool;
//! 2. detach, deepest first: names that go are moved to `held/`, where others come for them, and to `trash/`;
//! 3. attach, parents first: names that come, from `new/` and `held/`;
//! 4. data: changed ranges move into their files;
//! 5. attributes, flags and the times of directories;
//! 6. what went is removed, and then what is to be immutable is made so: a further name of it may be among
//!    that.

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

pub use commit::aside::set_aside;
pub use commit::returned::TakeAgain;
pub use journal::{Journal, Phase};
pub use layout::{clear, discard};
pub use limits::{Limits, Loss, RarePart};
pub use stage::incoming::Incoming;
pub use stage::intact::{has_received, is_intact};
pub use stage::objects::FindObjects;
pub use stage::prepare::Report;
pub use stage::touched::{Applied, applied};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use vet::manifest::vet as fuzz_vet;
