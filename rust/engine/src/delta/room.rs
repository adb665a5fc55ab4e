//! Room for a snapshot, or for what arrives on a standby: old snapshots are deleted for it, if that is
//! allowed.

use snapsync_model::{Context, Error, Monitor, Result, SnapshotInfo, size};
use snapsync_sys::{Root, filesystem, reclaim};
use std::time::{Duration, Instant};

/// Some file systems free deleted space only after a while.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Deletes old snapshots, and returns those that were deleted.
pub(crate) type Free<'f> = &'f mut dyn FnMut() -> Result<Vec<SnapshotInfo>>;

pub(crate) struct Room<'a> {
    root: &'a Root,
    free: Option<Free<'a>>,
    monitor: &'a Monitor,
    /// Whether something else was deleted, whose space may not be free yet.
    pub(super) frees: bool,
    pub(crate) pruned: Vec<SnapshotInfo>,
}

impl<'a> Room<'a> {
    /// Nothing may be deleted for more of it.
    pub(crate) fn given(root: &'a Root, monitor: &'a Monitor) -> Room<'a> {
        Room { root, free: None, monitor, frees: false, pruned: Vec::new() }
    }

    /// `free` deletes what may be deleted.
    pub(crate) fn made_by(free: Free<'a>, root: &'a Root, monitor: &'a Monitor) -> Room<'a> {
        Room { free: Some(free), ..Room::given(root, monitor) }
    }

    /// Takes a step. If it finds too little space, deletes what may be deleted and takes it again, for as
    /// long as deleted space may still become free.
    pub(crate) fn take<T>(&mut self, mut step: impl FnMut() -> Result<T>) -> Result<T> {
        let error = match step() {
            Err(error) if is_lacking(&error) => error,
            other => return other,
        };
        if let Some(free) = &mut self.free {
            self.pruned.extend(free()?);
        }
        if !self.frees && self.pruned.is_empty() {
            return Err(self.in_words(error));
        }
        let until = Instant::now() + PATIENCE;
        loop {
            self.monitor.check()?;
            reclaim(self.root.fd()).context("sync the file system of", self.root.path())?;
            match step() {
                Err(error) if is_lacking(&error) && Instant::now() < until => std::thread::sleep(LOOK_AGAIN),
                other => return other.map_err(|error| self.in_words(error)),
            }
        }
    }

    /// A full file system is no failure of the step that finds it full.
    fn in_words(&self, error: Error) -> Error {
        if !error.is_full() {
            return error;
        }
        let free = filesystem(self.root.fd()).map_or(0, |found| found.available);
        Error::NoSpace {
            what: format!("{} has {} free: {}", self.root.path().display(), size(free), error.sentence()),
            advice: "free space there: `snapsync prune`, or --keep-last N with the round, deletes snapshots"
                .to_owned(),
        }
    }
}

fn is_lacking(error: &Error) -> bool {
    error.is_full() || matches!(error, Error::NoSpace { .. })
}

/// Refuses if the manifest alone takes more than there is.
pub(super) fn has_space(root: &Root, manifest: u64) -> Result<()> {
    let path = root.path();
    let free = filesystem(root.fd()).context("read the file system of", path)?.available;
    if manifest <= free {
        return Ok(());
    }
    Err(Error::NoSpace {
        what: format!(
            "{} has {} free, and the manifest alone takes {}",
            path.display(),
            size(free),
            size(manifest)
        ),
        advice: "free space there, or name a larger target".to_owned(),
    })
}
