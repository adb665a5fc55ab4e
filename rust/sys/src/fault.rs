//! Places where a test can kill the process, or make a step fail. `SNAPSYNC_FAULT=name:n` kills it at the
//! n-th time it passes the place of that name; `name:n=fail` makes the step fail as if it were not permitted.
//! Several are separated by commas. `SNAPSYNC_FAULT_TRACE=FILE` writes a line for every place passed.
//!
//! Only a build with the feature `faults` knows these variables. `make build` makes such a build, and no
//! release is one.

#[cfg(feature = "faults")]
mod plan;

#[cfg(feature = "faults")]
use crate::fault::plan::fails_at;
use std::io;

/// All places that this build can be stopped at.
pub const POINTS: &[&str] = if cfg!(feature = "faults") { NAMES } else { &[] };

/// In the order in which a round passes them, then the places of other verbs.
const NAMES: &[&str] = &[
    "init.store",
    "init.undone",
    "taking.recorded",
    "taking.made",
    "taking.taken",
    "taking.releasing",
    "snapshot.begin",
    "hooks.before",
    "hooks.held",
    "hooks.after",
    "snapshot.object",
    "snapshot.successor",
    "snapshot.table",
    "snapshot.recorded",
    "snapshot.kept",
    "snapshot.aside",
    "retake.made",
    "again.made",
    "again.replaced",
    "stage.begin",
    "carry.vetted",
    "carry.aside",
    "carry.begun",
    "carry.file",
    "carry.done",
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
    "displace.under",
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
    "commit.owned",
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
    "delete.marked",
    "delete.unlisted",
    "before.merged",
    "before.named",
    "before.left",
    "pack.struck",
    "pack.punched",
    "pack.written",
    "pack.replaced",
    "pack.removed",
    "delete.freed",
    "delete.removed",
    "history.folded",
    "promote.checked",
    "promote.kept",
    "promote.announced",
    "promote.raised",
    "switch.demoted",
    "rejoin.back",
    "rejoin.standby",
    "restore.manifest",
    "restore.fetched",
    "restore.done",
    "restore.put",
    "clone.made",
    "mount.opened",
    "receive.tree",
    "receive.made",
    "receive.stripped",
    "receive.recorded",
    "receive.moved",
    "receive.settled",
];

/// Marks a place where a test can kill the process.
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
