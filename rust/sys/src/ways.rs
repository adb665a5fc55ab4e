//! Keeps directories open for a moment to speed up deep trees. The kernel resolves a path name by name, so
//! opening every entry of a tree by path would take time that grows with the square of its depth.

use snapsync_model::locked;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The number of directories that are kept open. The longest path leads through fewer.
const MOST: usize = 128;
/// Renames by others are noticed after this time. Until then a path may lead to where a directory was a
/// moment ago, as if it had been opened then.
const FRESH: Duration = Duration::from_millis(100);

/// Open directories by their paths.
#[derive(Debug, Default)]
pub(crate) struct Ways(Mutex<HashMap<Box<[u8]>, Way>>);

#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) fd: Arc<OwnedFd>,
    /// When the first name of its path was looked up.
    since: Instant,
}

impl Way {
    /// The first directory of a path, looked up at `since`.
    pub(crate) fn new(fd: OwnedFd, since: Instant) -> Way {
        Way { fd: Arc::new(fd), since }
    }

    /// A directory that was found through this one.
    pub(crate) fn further(&self, fd: OwnedFd) -> Way {
        Way { fd: Arc::new(fd), since: self.since }
    }
}

impl Ways {
    pub(crate) fn get(&self, path: &[u8]) -> Option<Way> {
        locked(&self.0).get(path).filter(|way| way.since.elapsed() < FRESH).cloned()
    }

    pub(crate) fn keep(&self, path: &[u8], way: &Way) {
        let mut known = locked(&self.0);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(path.into(), way.clone());
    }

    pub(crate) fn forget(&self) {
        locked(&self.0).clear();
    }

    /// Call this after an entry was renamed: everything below it has moved.
    pub(crate) fn forget_below(&self, path: &[u8]) {
        let is_below =
            |known: &[u8]| known.strip_prefix(path).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        locked(&self.0).retain(|known, _| !is_below(known));
    }
}
