//! Files of a light primary that are somewhere else, or cut, by the time they are read. Their bytes are kept
//! as soon as they are found.

use snapsync_model::Inode;
use std::collections::BTreeSet;

/// The largest file that is kept because of its directory alone.
const SMALL: u64 = 1 << 20;

/// What was not found again when it was read.
#[derive(Clone, Debug, Default)]
pub struct Elusive {
    /// By inode.
    pub files: BTreeSet<u64>,
    /// Where they were: what is new there may go as fast.
    pub directories: BTreeSet<u64>,
}

impl Elusive {
    /// Whether a file may not be found again, as far as is known.
    pub(crate) fn may_be(&self, inode: &Inode) -> bool {
        let is_near = || inode.links.iter().any(|link| self.directories.contains(&link.parent));
        self.files.contains(&inode.ino) || (inode.attributes.size <= SMALL && is_near())
    }
}
