//! Places where a test can kill the process, or make a step fail. `SNAPSYNC_FAULT=name:n` kills it at the
//! n-th time it passes the place of that name, `name:n=fail` fails there as if the system did not permit it;
//! several are separated by commas. `SNAPSYNC_FAULT_TRACE=FILE` writes every place passed, a line each.
//!
//! Only a build with the feature `faults` obeys, or even knows these variables: that of `make build`, and of
//! no release.

#[cfg(feature = "faults")]
mod plan;

#[cfg(feature = "faults")]
use crate::fault::plan::fails_at;
use std::io;

/// Every place that this build can be stopped at.
pub const POINTS: &[&str] = if cfg!(feature = "faults") { NAMES } else { &[] };

/// In the order a round passes them; then those of other verbs.
const NAMES: &[&str] = &[
    "init.store",
    "snapshot.begin",
    "snapshot.object",
    "snapshot.table",
    "snapshot.recorded",
    "snapshot.kept",
    "snapshot.aside",
    "again.made",
    "again.replaced",
    "stage.begin",
    "stage.manifest",
    "stage.directory",
    "stage.entry",
    "stage.frame",
    "stage.clone",
    "save.row",
    "save.done",
    "displace.row",
    "displace.done",
    "stage.done",
    "commit.marked",
    "commit.displace",
    "commit.displaced",
    "commit.loosened",
    "commit.detach",
    "commit.detached",
    "commit.attach",
    "commit.attached",
    "commit.data",
    "commit.attributes",
    "commit.settling",
    "commit.cleared",
    "commit.protected",
    "commit.applied",
    "commit.snapshot",
    "commit.discarded",
    "commit.cleaned",
    "undo.begin",
    "undo.loosened",
    "undo.attached",
    "undo.returning",
    "undo.detached",
    "undo.displaced",
    "undo.data",
    "undo.attributes",
    "undo.done",
    "delete.begin",
    "delete.unlisted",
    "promote.checked",
    "promote.kept",
    "promote.raised",
    "switch.demoted",
    "rejoin.back",
    "rejoin.standby",
    "restore.manifest",
    "restore.done",
    "restore.put",
    "clone.made",
    "browse.opened",
    "receive.tree",
    "receive.made",
    "receive.stripped",
    "receive.recorded",
    "receive.moved",
    "receive.settled",
];

/// Marks a place.
pub fn point(name: &'static str) {
    debug_assert!(NAMES.contains(&name), "{name} is not listed");
    let _ = fails_at(name);
}

/// Marks a place where a step can fail.
pub fn step(name: &'static str) -> io::Result<()> {
    debug_assert!(NAMES.contains(&name), "{name} is not listed");
    if fails_at(name) { Err(io::Error::from_raw_os_error(libc::EPERM)) } else { Ok(()) }
}

#[cfg(not(feature = "faults"))]
fn fails_at(_name: &'static str) -> bool {
    false
}
