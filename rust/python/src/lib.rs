//! `snapsync._native` converts arguments, releases the GIL and maps errors. It does nothing else.
//!
//! Results are JSON: the reports of the engine, as the command line prints them. The verbs are in the same
//! families as in `snapsync.api` and `snapsync.reports`.

// PyO3 passes arguments by value.
#![allow(clippy::needless_pass_by_value)]

mod comparisons;
mod error;
mod history;
mod location;
mod mount;
mod native;
mod options;
mod restores;
mod roles;
mod rounds;
mod snapshots;
mod watch;
