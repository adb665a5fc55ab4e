//! Exchanges the roles of a primary and its standby.

use crate::options::{DriftOptions, OnDrift, Options, SshOptions, TransferOptions};
use crate::remote::roles::{End, ends, same_lineage, strange};
use crate::report::volumes::Switched;
use crate::round::known;
use crate::verbs::sync::sync;
use crate::volume::roles::{Described, RoleReply, RoleRequest};
use snapsync_model::{Error, Monitor, Naming, Result, Role};
use std::path::Path;
use std::time::Instant;

/// The number of rounds after which a primary that is still being written to keeps its role.
const TRIES: usize = 3;

/// Changes the roles of a primary and its standby, with no change lost. `owners` is for the new standby.
pub fn switch(
    primary: &Path,
    standby: &Path,
    owners: Option<Naming>,
    transfer: &TransferOptions,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<Switched> {
    let started = Instant::now();
    let (from, to) = named(primary, standby, ssh, monitor)?;
    let ours = from.describe(ssh, monitor)?;
    let theirs = to.describe(ssh, monitor);
    let theirs = theirs.map_err(|error| known::explained(&ours.standbys, &to.path(), error))?;
    same_lineage((&from.path(), &ours.volume), (&to.path(), &theirs.volume))?;
    let newest = |described: &Described| described.line.last().map(|snapshot| snapshot.id);
    let mut promoted = None;
    match (ours.volume.role, theirs.volume.role) {
        // An interrupted switch is resumed.
        (Role::Standby, Role::Primary) if is_unfinished(&ours, &theirs) => {}
        (Role::Standby, Role::Primary) => {
            let (first, second) = (primary.display(), standby.display());
            return Err(Error::refused(
                format!("{first} is a standby, and {second} is its primary"),
                format!("the primary comes first: `snapsync switch {second} {first}`"),
            ));
        }
        (Role::Standby, Role::Standby) if newest(&ours) == newest(&theirs) => {}
        (Role::Primary, Role::Standby) => {
            hand_over(primary, standby, &from, transfer, ssh, monitor)?;
        }
        _ => {
            return Err(Error::refused(
                format!("{} is not the primary of {}", primary.display(), standby.display()),
                "name the primary first; `snapsync status` tells which it is",
            ));
        }
    }
    if theirs.volume.role == Role::Standby {
        let mut standbys = ours.standbys;
        standbys.remove(&theirs.volume.id);
        let request = RoleRequest::Promote { name: None, on_drift: OnDrift::Refuse, standbys };
        match to.perform(request, ssh, monitor) {
            Ok(RoleReply::Promoted(done)) => promoted = Some(*done),
            Ok(other) => return Err(strange(&other)),
            Err(error) => return Err(without_primary(&from.path(), &error)),
        }
    }
    let options = Options { owners, ..Options::default() };
    let round = sync(standby, primary, &options, transfer, ssh, monitor)?;
    Ok(Switched {
        verb: "switch",
        promoted,
        round,
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The standby that was promoted has not fed the old primary yet, which it knows as its standby from then on.
fn is_unfinished(old: &Described, new: &Described) -> bool {
    let was_promoted = new.volume.epoch > 1;
    was_promoted && !new.standbys.contains_key(&old.volume.id)
}

/// Both ends; the primary may know a standby that is not there.
fn named(primary: &Path, standby: &Path, ssh: &SshOptions, monitor: &Monitor) -> Result<(End, End)> {
    let is_far = |path| matches!(End::parse(path), Ok(End::There(_)));
    let ask = || End::parse(primary).and_then(|end| end.describe(ssh, monitor));
    ends(primary, standby).map_err(|error| {
        // Naming two other machines is a mistake, whatever they know.
        let ours = if is_far(primary) && is_far(standby) { None } else { ask().ok() };
        match ours {
            Some(ours) => known::explained(&ours.standbys, standby, error),
            None => error,
        }
    })
}

/// Brings the standby everything from the primary until nothing is written in between; then the primary is a
/// standby.
fn hand_over(
    primary: &Path,
    standby: &Path,
    from: &End,
    transfer: &TransferOptions,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<()> {
    let options =
        Options { drift: DriftOptions { check: true, ..DriftOptions::default() }, ..Options::default() };
    for _ in 0..TRIES {
        let newest = sync(primary, standby, &options, transfer, ssh, monitor)?.snapshot.id;
        match from.perform(RoleRequest::Demote { newest }, ssh, monitor)? {
            RoleReply::Demoted(demoted) if demoted.done => return Ok(()),
            RoleReply::Demoted(_) => {}
            other => return Err(strange(&other)),
        }
    }
    Err(Error::refused(
        format!("{} is still being written to", primary.display()),
        "stop what writes to it, and run this again: nothing has changed roles",
    ))
}

fn without_primary(old: &Path, error: &Error) -> Error {
    let told = error.advice();
    let advice = format!(
        "{told}{}both are standbys now: run this again, or `snapsync promote {}` makes that one the primary \
         again",
        if told.is_empty() { "" } else { "; " },
        old.display()
    );
    Error::refused(error.sentence(), advice)
}
