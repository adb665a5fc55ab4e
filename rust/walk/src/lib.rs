//! A directory tree to inodes, sorted by number: one parallel walk that opens directories and nothing else.

mod relabel;
mod search;
mod tree;

pub use relabel::relabel_by_path;
pub use search::candidates;
pub use tree::{STORE, Tree, details_of, layout_of};
