//! `snapsync._native`: converts arguments, releases the GIL, maps errors. Nothing else.
//!
//! Results are JSON texts: the reports of the engine, as the command line prints them. The verbs are here by
//! families, as they are in `snapsync.api` and `snapsync.reports`.

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod browse;
mod comparisons;
mod error;
mod native;
mod options;
mod restores;
mod roles;
mod rounds;
mod snapshots;
mod watch;
