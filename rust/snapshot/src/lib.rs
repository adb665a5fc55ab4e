//! Volumes and their stores: taking, listing, opening and deleting snapshots by either provider.
//!
//! ```text
//! VOLUME/.snapsync/latest                    link to the newest snapshot where it is a directory
//! VOLUME/.snapsync/incoming/                 what a delta stages; on the tree's own file system
//! VOLUME/.snapsync/store/                    a subvolume of its own on Btrfs, so that snapshots leave it out
//!     volume.json  lock  journal.json
//!     snapshots/ID/snapshot.json             written last: without it the snapshot does not exist
//!     snapshots/ID/tree                      btrfs: a read-only subvolume
//!     snapshots/ID/table.arrow, patch.arrow  pool: the inode table, which snapshots share, and what differs from it
//!     pool/ROUND/…/OBJECT                    pool: the data of files, shared by snapshots
//! ```
//!
//! A shelf is a directory of snapshots that were received as plain directories: `received.rs`.

mod alive;
mod bases;
mod bound;
mod clones;
mod copy;
mod differing;
mod find;
mod follow;
mod ground;
mod hidden;
mod merge;
mod missing;
mod objects;
mod opening;
mod pool;
mod received;
mod restoring;
mod scan;
mod scrubbed;
mod standbys;
mod take;
mod volume;

pub use alive::Alive;
pub use bound::hold;
pub use clones::{CloneRecord, Mark};
pub use find::{Found, Proof, find_at};
pub use follow::Delta;
pub use objects::UNSETTLED;
pub use opening::{is_vacant, is_vacant_in};
pub use pool::PoolSnapshot;
pub use received::{Base, Shelf, Work, can_be_a_name, identity_of};
pub use restoring::{REPLACEMENT, Restoring, clear_replacement, restoring};
pub use scrubbed::Scrub;
pub use standbys::{Claim, Standby, TakenFor};
pub use take::Request;
pub use volume::{Volume, name_is_free};

/// What this version writes and reads.
pub const STORE_FORMAT: u32 = 6;
