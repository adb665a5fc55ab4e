//! Volumes and their stores: taking, listing, opening and deleting snapshots by either provider.
//!
//! ```text
//! VOLUME/.snapsync/latest                    link to the newest snapshot where it is a directory
//! VOLUME/.snapsync/incoming/                 what a delta stages; on the tree's own file system
//! VOLUME/.snapsync/store/                    a subvolume of its own on Btrfs, so that snapshots leave it out
//!     volume.json  lock  journal.json
//!     snapshots/ID/snapshot.json             written last: without it the snapshot does not exist
//!     snapshots/ID/tree                      btrfs: a read-only subvolume
//!     snapshots/ID/table.arrow, patch.arrow  pool: the inode table, which snapshots share, and its patch
//!     pool/ROUND/…/OBJECT                    pool: the data of files, shared by snapshots
//! ```
//!
//! A shelf is a directory of snapshots that were received as plain directories; see `received/`.

mod pool;
mod received;
mod snapshots;
mod store;
mod volume;

pub use pool::elusive::Elusive;
pub use pool::follow::Delta;
pub use pool::pack::LARGEST as LARGEST_IN_PACK;
pub use pool::snapshot::PoolSnapshot;
pub use pool::weight::Weight;
pub use received::identity::{Base, identity_of};
pub use received::shelf::{ReceivedDirectory, can_be_a_name};
pub use received::work::Work;
pub use snapshots::alone::{Alone, Condition};
pub use snapshots::find::{Finding, Found, Proof, find_at};
pub use snapshots::keep::KeptBytes;
pub use snapshots::light::{Moved, SentManifest};
pub use snapshots::take::{Around, Request};
pub use snapshots::unkept::{Thinning, Unkept};
pub use store::bound::hold;
pub use store::frozen::Frozen;
pub use store::mark::Mark;
pub use store::restoring::{REPLACEMENT, Restoring, clear_replacement, restoring};
pub use volume::alive::Alive;
pub use volume::handle::{Volume, find_among, name_is_free};
pub use volume::locked::LockedVolume;
pub use volume::moment::Moment;
pub use volume::opening::{is_vacant, is_vacant_in};
pub use volume::record::{Claim, CloneRecord, FollowedLog, STORE_FORMAT, Standby, TakenFor};
pub use volume::scrubbed::Scrub;
