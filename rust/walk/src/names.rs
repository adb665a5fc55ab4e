//! Names that no walk follows.

use snapsync_model::LONGEST_PATH;

/// The name of the store at a volume's root. Nothing with this name belongs to a tree, at any depth: a
/// replicated store would make a second volume with the identity of the first.
pub const STORE: &str = ".snapsync";

/// Whether an entry has a path longer than those that are followed; `above` is the length of its directory's
/// path.
pub fn is_too_long(above: usize, name: &[u8]) -> bool {
    above + 1 + name.len() > LONGEST_PATH
}
