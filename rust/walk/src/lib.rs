//! A directory tree to inodes, sorted by number: one parallel walk that opens directories and nothing else.

mod left_out;
mod listing;
mod moves;
mod pattern;
mod relabel;
mod search;
mod subset;
mod tree;

pub use left_out::left_out;
pub use listing::Listing;
pub use moves::Moves;
pub use relabel::relabel_by_path;
pub use search::candidates;
pub use subset::Matcher;
pub use tree::{
    STORE, Tree, details_of, details_of_open, is_too_long, layout_of, locked_away, note_mounts, note_stores,
};
