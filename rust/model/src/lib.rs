//! The words of snapsync as types: inodes, extents, changes, snapshots, errors. Nothing here does I/O, but to
//! read what others have opened.

mod accounts;
mod amount;
mod before;
mod change;
mod content;
mod error;
mod extent;
mod guarded;
mod identity;
mod inode;
mod monitor;
mod mutex;
mod name;
mod object;
mod path;
mod plain;
mod printable;
mod promotion;
mod restless;
mod selection;
mod side;
mod skipped;
mod snapshot;
mod subset;
mod unread;

pub use accounts::{Account, AccountNames, Accounts, Met, Naming, Rule, Who};
pub use amount::{count, entries, size};
pub use before::{BeforeImage, DigestOf, Successor};
pub use change::{Change, ChangeFlags, Counts, End, Extent, Op, Source};
pub use content::{Content, Cover, Lies, ReadAt, lay_under};
pub use error::{Context, Error, Result, reason};
pub use extent::{Address, BLOCK, LARGEST_BLOCK, Layout, Placed, Range, Segment, SegmentKind, hole_at_end};
pub use guarded::{Crowded, Guarded, Measure};
pub use identity::{Identity, Origin};
pub use inode::{Attributes, Details, Inode, Kind, Link, Look, ROOT, Rare, Seen, UNSETTLED, Xattr, ns_of};
pub use monitor::{Counters, Monitor, Stage};
pub use mutex::{locked, unlocked};
pub use name::{can_name_directory, can_name_snapshot};
pub use object::{
    OBJECTS_PER_DIRECTORY, OBJECTS_PER_PACK, Pack, ROUND_SHIFT, before_path, left_path, object_path,
    under_path,
};
pub use path::{LONGEST_PATH, RelPath};
pub use plain::PlainFiles;
pub use printable::{is_printable, printable, printable_bytes, printable_within};
pub use promotion::{MOST_EPOCHS, Promotion, Promotions, Standing};
pub use restless::Restless;
pub use selection::{Pattern, Selection};
pub use side::{ByDigests, Directories, Inodes, Owners, Packed, Side, read_still};
pub use skipped::Skipped;
pub use snapshot::{History, Provider, Role, SnapshotInfo, VolumeInfo, path_as_json};
pub use subset::Subset;
pub use unread::Unread;
