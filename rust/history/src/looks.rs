//! What things were, version by version.

use snapsync_model::{Attributes, Kind};

/// What an entry was when a snapshot last had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenAs {
    pub kind: Kind,
    pub attributes: Attributes,
}

/// The newest version of something.
pub(crate) type Latest = u32;

const NONE: Latest = u32::MAX;

struct Version {
    seen: SeenAs,
    from: u32,
    before: Latest,
}

/// All versions of everything. Each knows the one before it: most things never change.
#[derive(Default)]
pub(crate) struct Looks {
    versions: Vec<Version>,
}

impl Looks {
    /// Something is so from the snapshot of the step `from` on.
    pub(crate) fn add(&mut self, before: Option<Latest>, seen: SeenAs, from: u32) -> Latest {
        if let Some(latest) = before {
            let version = &mut self.versions[latest as usize];
            if version.from == from {
                version.seen = seen;
            }
            if version.seen == seen {
                return latest;
            }
        }
        self.versions.push(Version { seen, from, before: before.unwrap_or(NONE) });
        self.versions.len() as u32 - 1
    }

    pub(crate) fn now(&self, latest: Latest) -> SeenAs {
        self.versions[latest as usize].seen
    }

    /// What it was in the last snapshot before that of a step.
    pub(crate) fn before(&self, latest: Latest, until: u32) -> SeenAs {
        let mut version = &self.versions[latest as usize];
        while version.from >= until && version.before != NONE {
            version = &self.versions[version.before as usize];
        }
        version.seen
    }
}
