//! Makes a standby the primary.

use crate::location::directory::open_volume;
use crate::options::OnDrift;
use crate::remote::roles::strange;
use crate::report::volumes::{PromotePreview, Promoted};
use crate::volume::recovery::unfinished;
use crate::volume::roles::{RoleReply, RoleRequest, expect_standby, newest_of, perform};
use snapsync_model::{Monitor, Result};
use snapsync_snapshot::Unkept;
use std::collections::BTreeMap;
use std::path::Path;

/// Makes a standby the primary.
pub fn promote(path: &Path, name: Option<String>, on_drift: OnDrift, monitor: &Monitor) -> Result<Promoted> {
    match perform(path, RoleRequest::Promote { name, on_drift, standbys: BTreeMap::new() }, monitor)? {
        RoleReply::Promoted(promoted) => Ok(*promoted),
        other => Err(strange(&other)),
    }
}

/// Says what that would have to do first. Only reads, and does not look for what was changed by hand.
pub fn promote_preview(path: &Path, monitor: &Monitor) -> Result<PromotePreview> {
    let volume = open_volume(path)?;
    expect_standby(&volume)?;
    let newest = newest_of(&volume)?;
    let Unkept { files, bytes, is_kept, seconds, thins } = volume.unkept(&newest, monitor)?;
    Ok(PromotePreview {
        verb: "promote",
        volume: volume.info(),
        newest,
        clones: is_kept,
        files,
        bytes,
        clone_seconds: seconds,
        thins,
        unfinished: unfinished(&volume)?,
        notes: monitor.take_notes(),
    })
}
