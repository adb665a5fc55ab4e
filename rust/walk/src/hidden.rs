//! What a walk could not look at, though it was there before.

use snapsync_model::{Directories, Link, ROOT};
use std::collections::{HashMap, HashSet};

/// Entries that nobody could look at: they are assumed to be as they were.
#[derive(Clone, Debug, Default)]
pub struct Hidden {
    /// The names of those that mounts hide, or whose attributes cannot be read.
    pub links: HashSet<Link>,
    /// The directories that cannot be read, each with its generation.
    pub directories: HashMap<u64, u64>,
    /// Those of the links that cannot be read.
    pub(crate) unreadable: usize,
}

impl Hidden {
    pub(crate) fn is_empty(&self) -> bool {
        self.links.is_empty() && self.directories.is_empty()
    }

    /// Whether the walk has passed over what it could not read.
    pub(crate) fn has_unreadable(&self) -> bool {
        self.unreadable > 0 || !self.directories.is_empty()
    }

    /// Whether an entry of a tree that was remembered lies under any of them. `before` are the directories
    /// of that tree, and `met` those that the walk has read, wherever they are now.
    pub fn has(&self, link: &Link, before: &Directories, met: &Directories) -> bool {
        let mut at = link;
        loop {
            if self.links.contains(at) || self.directories.contains_key(&at.parent) {
                return true;
            }
            if at.parent == ROOT || met.contains(at.parent) {
                return false;
            }
            match before.link(at.parent) {
                Some(above) => at = above,
                None => return false,
            }
        }
    }
}
