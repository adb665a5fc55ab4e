//! Lists the inodes of a directory tree, sorted by number: one parallel walk that opens only directories.

mod details;
mod foreign;
mod hidden;
mod left_out;
mod listing;
mod moves;
mod names;
mod pass;
mod pattern;
mod relabel;
mod search;
mod searched;
mod subset;
mod tree;

pub use details::{details_of, details_of_open, layout_of};
pub use foreign::{locked_away, note_mounts, note_stores};
pub use hidden::Hidden;
pub use left_out::left_out;
pub use listing::{Listing, Recorder};
pub use moves::Moves;
pub use names::{STORE, is_too_long};
pub use relabel::relabel_by_path;
pub use search::{candidates, is_as_in};
pub use subset::Matcher;
pub use tree::{Flush, Remembered, Tree};
