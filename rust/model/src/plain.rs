//! Files of which nothing but their bytes is left to be asked.

use crate::inode::Inode;
use crate::mutex::locked;
use std::collections::HashSet;
use std::sync::Mutex;

/// How many are remembered.
const MOST: usize = 1 << 18;

/// Files of one volume that were seen to have nothing but data from their first byte to their last: no flags,
/// project or extended attributes, no holes, nothing preallocated or shared. Each for as long as it has the
/// change time that it had then.
#[derive(Debug, Default)]
pub struct PlainFiles {
    seen: Mutex<HashSet<(u64, u64, i64)>>,
}

impl PlainFiles {
    /// `ctime` is one that no later change can have.
    pub fn add(&self, ino: u64, generation: u64, ctime: i64) {
        let mut seen = locked(&self.seen);
        if seen.len() < MOST {
            seen.insert((ino, generation, ctime));
        }
    }

    pub fn has(&self, inode: &Inode) -> bool {
        locked(&self.seen).contains(&(inode.ino, inode.generation, inode.ctime))
    }

    pub fn forget(&self) {
        *locked(&self.seen) = HashSet::new();
    }
}
