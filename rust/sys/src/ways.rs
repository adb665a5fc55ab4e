//! Ways into deep trees. The kernel resolves a path name by name, so that to open each entry of a tree by its
//! path takes a time that grows with the square of its depth. Here the directories on the way are kept open
//! for a moment.

use snapsync_model::locked;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Directories that are held open: a path of the greatest length leads through fewer.
const MOST: usize = 128;
/// What others rename is noticed after this: a path may lead to where a directory was a moment ago, as if it
/// had been opened then.
const FRESH: Duration = Duration::from_millis(100);

/// Directories by their paths.
#[derive(Debug, Default)]
pub(crate) struct Ways(Mutex<HashMap<Box<[u8]>, Way>>);

#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) fd: Arc<OwnedFd>,
    /// When the first name of its path was looked for.
    since: Instant,
}

impl Way {
    /// The first one, which was looked for then.
    pub(crate) fn new(fd: OwnedFd, since: Instant) -> Way {
        Way { fd: Arc::new(fd), since }
    }

    /// One that was found through this one.
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

    /// After an entry was renamed: what it holds is elsewhere.
    pub(crate) fn forget_below(&self, path: &[u8]) {
        let is_below =
            |known: &[u8]| known.strip_prefix(path).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        locked(&self.0).retain(|known, _| !is_below(known));
    }
}
