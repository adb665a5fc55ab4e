//! The verbs: they wire the stages together and hold no mechanism of their own.

mod as_snapshot;
mod attend;
mod back;
mod became;
mod beneath;
mod browse;
mod child;
mod clones;
mod diff;
mod digest;
mod drift;
mod far;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod hold;
mod inspect;
mod join;
mod known;
mod mend;
mod outgoing;
mod overheard;
mod place;
mod protocol;
mod pruned;
mod pulled;
mod receive;
mod recover;
mod remote;
mod replacement;
mod report;
mod restore;
mod restore_paths;
mod restore_to;
mod retention;
mod rights;
mod roles;
mod screen;
mod scrub;
mod secret;
mod send;
mod serve;
mod sides;
mod staging;
mod standby;
mod subset;
mod sync;
mod trust;
mod verbs;
mod verify;
mod versions;
mod widened;

pub use crate::report::{Claimed, Mended, ScrubStatus, Scrubbed, Unlike};
pub use as_snapshot::receive_as_snapshot;
pub use browse::browse;
pub use clones::{clone, delete_clone};
pub use diff::diff;
pub use digest::Reading;
pub use hold::{forget_standby, hold, release};
pub use inspect::inspect_delta;
pub use mend::verify_and_mend;
pub use receive::receive;
pub use recover::recover_volume;
pub use remote::Reach;
pub use report::{
    Browsed, Changes, CloneInfo, Cloned, Deleted, Diff, Difference, Held, Hold, Initialised, Inspected, Kept,
    Listed, Preview, Promoted, Pruned, Received, Recovered, Rejoined, Released, Restored, RestoredPaths,
    RestoredTo, Sent, StandbyStatus, Status, Switched, Synced, Taken, Unfinished, Unlisted, Verified,
    Version, Versions,
};
pub use restore::restore;
pub use restore_paths::restore_paths;
pub use restore_to::restore_to;
pub use retention::{Keep, prune};
pub use roles::{OnDrift, promote, rejoin, rejoin_preview, switch};
pub use scrub::Scrubbing;
pub use send::{Travel, send};
pub use serve::{Gate, serve};
pub use sync::{Care, Options, Terms, sync};
pub use trust::trusted;
pub use verbs::{delete, init, list, snapshot, status};
pub use verify::verify;
pub use versions::{restore_file, versions};

pub use snapsync_browse::Mount;
pub use snapsync_model::{Error, Monitor, Result, reason};
pub use snapsync_stream::Compression;
pub use snapsync_sys::fault::POINTS as FAULT_POINTS;

const MOST_JOBS: usize = 1024;

/// Runs `work` with a thread pool of `jobs` threads; 0 takes one a core.
pub fn with_jobs<T: Send>(jobs: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if jobs > MOST_JOBS {
        let what = format!("{jobs} threads are too many: they would wait for each other");
        return Err(Error::usage(what, format!("use at most {MOST_JOBS} --jobs, or 0 for one a core")));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build();
    let pool = pool.map_err(|e| Error::failed(format!("cannot start threads: {e}"), "use fewer --jobs"))?;
    pool.install(work)
}
