//! Makes a standby the primary.

use crate::options::OnDrift;
use crate::remote::roles::strange;
use crate::report::volumes::Promoted;
use crate::volume::roles::{RoleReply, RoleRequest, perform};
use snapsync_model::{Monitor, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Makes a standby the primary.
pub fn promote(path: &Path, name: Option<String>, on_drift: OnDrift, monitor: &Monitor) -> Result<Promoted> {
    match perform(path, RoleRequest::Promote { name, on_drift, standbys: BTreeMap::new() }, monitor)? {
        RoleReply::Promoted(promoted) => Ok(*promoted),
        other => Err(strange(&other)),
    }
}
