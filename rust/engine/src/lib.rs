//! The verbs and their parts, from the ground up: requests and reports (`options`, `keep`, `report`,
//! `digest`, `location`), `delta`, `volume`, `round`, `remote`, `verbs`. A file imports only from levels
//! below its own; ARCHITECTURE.md has the map, and `tests/test_house.py` checks it.

mod accounts;
mod delta;
mod digest;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod jobs;
mod keep;
mod location;
mod log;
mod names;
mod options;
mod pairs;
mod process;
mod remote;
mod report;
mod round;
mod secret;
mod unified;
mod verbs;
mod volume;

pub use delta::selected::Select;
pub use digest::Reading;
pub use jobs::with_jobs;
pub use keep::Keep;
pub use location::text::Location;
pub use log::window::Window;
pub use options::{
    DriftOptions, Guard, Hooks, KnownBy, OnDrift, Options, Scrubbing, SshOptions, Supply, Taking, Terms,
    TransferOptions,
};
pub use process::trust::trusted;
pub use remote::asked::ask;
pub use remote::gate::Gate;
pub use remote::question::Question;
pub use report::checks::{Changes, Difference, Mended, Verified};
pub use report::history::{
    FoundPath, Lived, Logged, LoggedEvent, LoggedPath, LoggedRound, PastSnapshot, Sought,
};
pub use report::rounds::{
    Claimed, Diff, Inspected, Planned, PlannedChange, Received, ScrubStatus, Scrubbed, Sent, Synced, Unlike,
};
pub use report::snapshots::{
    CloneInfo, Cloned, Deleted, HeldSnapshot, Hold, Kept, Listed, Mounted, Pruned, Released, Restored,
    RestoredPaths, RestoredTo, Taken, Unlisted, Version, Versions,
};
pub use report::volumes::{
    Initialised, Preview, Promoted, Recovered, Rejoined, StandbyStatus, Status, Switched, Trusted, Unfinished,
};
pub use snapsync_model::Naming;
pub use verbs::clone::{clone, delete_clone};
pub use verbs::delete::delete;
pub use verbs::diff::diff;
pub use verbs::find::find;
pub use verbs::hold::{forget_standby, hold, release};
pub use verbs::init::init;
pub use verbs::inspect::inspect_delta;
pub use verbs::kept::kept;
pub use verbs::list::list;
pub use verbs::log::{log, log_of};
pub use verbs::mend::verify_and_mend;
pub use verbs::mount::mount;
pub use verbs::promote::{promote, promote_preview};
pub use verbs::prune::prune;
pub use verbs::receive::receive;
pub use verbs::receive_as_snapshot::receive_as_snapshot;
pub use verbs::recover::recover_volume;
pub use verbs::rejoin::{rejoin, rejoin_preview};
pub use verbs::restore::directory::restore_to;
pub use verbs::restore::in_place::restore;
pub use verbs::restore::paths::restore_paths;
pub use verbs::send::send;
pub use verbs::serve::serve;
pub use verbs::snapshot::snapshot;
pub use verbs::status::status;
pub use verbs::switch::switch;
pub use verbs::sync::{plan, sync};
pub use verbs::trust::trust;
pub use verbs::verify::verify;
pub use verbs::versions::{restore_file, versions};

pub use snapsync_model::{Error, Monitor, Result, reason};
pub use snapsync_mount::Mount;
pub use snapsync_stream::Compression;
pub use snapsync_sys::fault::POINTS as FAULT_POINTS;
