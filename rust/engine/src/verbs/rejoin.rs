//! Makes an old primary a standby of the new one.

use crate::location::directory::open_volume;
use crate::options::{Options, SshOptions, TransferOptions};
use crate::remote::roles::{End, ends, same_lineage, strange};
use crate::report::volumes::{Preview, Rejoined};
use crate::verbs::sync::sync;
use crate::volume::recovery;
use crate::volume::roles::{RoleReply, RoleRequest, common};
use snapsync_model::{Error, Monitor, Naming, Result, Role, VolumeInfo};
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

/// Makes `old` a standby of `new`: its own changes are kept as snapshots, it goes back to the newest common
/// snapshot, and gets everything that changed on `new` since; `owners` is for what it gets.
pub fn rejoin(
    old: &Path,
    new: &Path,
    owners: Option<Naming>,
    transfer: &TransferOptions,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<Rejoined> {
    let started = Instant::now();
    let (old_end, new_end) = ends(old, new)?;
    let theirs = new_end.describe(ssh, monitor)?;
    let ours = old_end.describe(ssh, monitor)?;
    can_follow(&old_end.path(), &ours.volume, &new_end.path(), &theirs.volume)?;
    if matches!(new_end, End::Log(_)) {
        was_replaced(&old_end.path(), &ours.volume, &new_end.path(), &theirs.volume)?;
    }
    let line = theirs.line.iter().map(|snapshot| snapshot.id).collect();
    let (epoch, promotions) = (theirs.volume.epoch, theirs.promotions);
    let followed = match old_end.perform(RoleRequest::Follow { epoch, promotions, line }, ssh, monitor)? {
        RoleReply::Followed(followed) => *followed,
        other => return Err(strange(&other)),
    };
    let options = Options { owners, ..Options::default() };
    let round = sync(new, old, &options, transfer, ssh, monitor)?;
    let mut notes = followed.notes;
    notes.extend(monitor.take_notes());
    Ok(Rejoined {
        verb: "rejoin",
        common: followed.common,
        left: followed.left,
        back: followed.changes,
        recovered: followed.recovered,
        notes,
        round,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A log goes on under a primary: not under one that is asked to follow it.
fn was_replaced(old: &Path, ours: &VolumeInfo, log: &Path, theirs: &VolumeInfo) -> Result<()> {
    if ours.role == Role::Standby || ours.epoch < theirs.epoch {
        return Ok(());
    }
    Err(Error::refused(
        format!(
            "{} is the primary that publishes to {}: no other was promoted",
            old.display(),
            log.display()
        ),
        "promote a standby of the log first",
    ))
}

fn can_follow(old: &Path, ours: &VolumeInfo, new: &Path, theirs: &VolumeInfo) -> Result<()> {
    same_lineage((old, ours), (new, theirs))?;
    if theirs.role != Role::Primary {
        return Err(Error::refused(
            format!("{} is a standby: nobody can follow it", new.display()),
            "promote it first, or name the primary",
        ));
    }
    if ours.epoch > theirs.epoch {
        return Err(Error::refused(
            format!(
                "{} is of epoch {}, and {} only of epoch {}",
                old.display(),
                ours.epoch,
                new.display(),
                theirs.epoch
            ),
            "the one with the higher epoch goes on: name them the other way round",
        ));
    }
    Ok(())
}

/// Lists what `old` would leave behind if it followed `new`, and writes the changes to the manifest `output`.
/// Changes nothing.
pub fn rejoin_preview(
    old: &Path,
    new: &Path,
    output: &Path,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<Preview> {
    let (old_end, new_end) = ends(old, new)?;
    let End::Here(path) = &old_end else {
        return Err(Error::usage(
            format!("{} is on another machine", old.display()),
            "run the preview there",
        ));
    };
    let theirs = new_end.describe(ssh, monitor)?;
    let volume = open_volume(path)?;
    can_follow(path, &volume.info(), &new_end.path(), &theirs.volume)?;
    let (mut volume, recovered) = recovery::lock(&volume, monitor)?;
    let line: Vec<Uuid> = theirs.line.iter().map(|snapshot| snapshot.id).collect();
    let (common, left) = common(&volume, &line)?;
    let probe = volume.probe("left-", volume.subset().clone(), monitor)?;
    let written = crate::verbs::diff::of_volume(&volume, &common, &probe, output, monitor);
    volume.drop_probe(&probe)?;
    let changes = written?;
    Ok(Preview {
        verb: "rejoin",
        volume: volume.info(),
        common,
        left,
        changes,
        data_bytes: changes.data_bytes,
        output: output.to_path_buf(),
        recovered,
        notes: monitor.take_notes(),
    })
}
