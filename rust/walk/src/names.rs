//! Names that no walk follows.

use snapsync_model::LONGEST_PATH;

/// The store's name at a volume's root. Nothing of this name is part of a tree, at whatever depth: a store
/// that was replicated would make a second volume with the identity of the first.
pub const STORE: &str = ".snapsync";

/// Whether an entry has a longer path than is followed, by that of its directory.
pub fn is_too_long(above: usize, name: &[u8]) -> bool {
    above + 1 + name.len() > LONGEST_PATH
}
