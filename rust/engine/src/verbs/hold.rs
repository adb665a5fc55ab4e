//! Holds and releases snapshots.

use crate::location::directory::open_volume;
use crate::log::keeping;
use crate::report::snapshots::{HeldSnapshot, Released};
use snapsync_log::LogAddress;
use snapsync_model::{Error, Result};
use snapsync_snapshot::{Standby, Volume};
use std::path::Path;
use uuid::Uuid;

/// Keeps a snapshot from being deleted or pruned until it is released. Holding it again replaces the reason.
pub fn hold(path: &Path, name: &str, reason: &str) -> Result<HeldSnapshot> {
    if let Some(log) = LogAddress::parse(path)? {
        return keeping::hold(&log, name, reason);
    }
    let mut volume = open_volume(path)?.lock()?;
    let snapshot = volume.find_snapshot(name)?;
    volume.hold(snapshot.id, reason.to_owned())?;
    Ok(HeldSnapshot { verb: "hold", volume: volume.info(), snapshot, reason: reason.to_owned() })
}

/// Releases a snapshot that a user holds.
pub fn release(path: &Path, name: &str) -> Result<Released> {
    if let Some(log) = LogAddress::parse(path)? {
        return keeping::release(&log, name);
    }
    let mut volume = open_volume(path)?.lock()?;
    let snapshot = volume.find_snapshot(name)?;
    let Some(reason) = volume.release(snapshot.id)? else {
        return Err(Error::usage(
            format!("snapshot {} of {} is not held by hand", snapshot.name, volume.path().display()),
            format!("`snapsync list {}` shows what is held, and why", volume.path().display()),
        ));
    };
    let volume = volume.info();
    Ok(Released { verb: "release", volume, snapshot: Some(snapshot), reason, standby: None })
}

/// Forgets a standby by its path or id, so that its base may be deleted.
pub fn forget_standby(path: &Path, standby: &str) -> Result<Released> {
    if let Some(log) = LogAddress::parse(path)? {
        return keeping::forget_standby(&log, standby);
    }
    let mut volume = open_volume(path)?.lock()?;
    let id = which_standby(&volume, standby)?;
    let forgotten = volume.forget_standby(id)?;
    let snapshot = forgotten.as_ref().and_then(|standby| {
        volume.snapshots().ok()?.into_iter().find(|snapshot| snapshot.id == standby.snapshot)
    });
    let standby = forgotten.map(|standby| standby.path);
    let (volume, reason) = (volume.info(), String::new());
    Ok(Released { verb: "release", volume, snapshot, reason, standby })
}

fn which_standby(volume: &Volume, wanted: &str) -> Result<Uuid> {
    let is_meant = |id: &Uuid, standby: &Standby| {
        let full = std::path::absolute(wanted).ok();
        id.to_string() == wanted
            || standby.path == wanted
            || full.as_deref().is_some_and(|full| full == Path::new(&standby.path))
    };
    let found: Vec<Uuid> =
        volume.standbys().iter().filter(|(id, standby)| is_meant(id, standby)).map(|(id, _)| *id).collect();
    let path = volume.path().display();
    match found.as_slice() {
        [id] => Ok(*id),
        [] => Err(Error::usage(
            format!("{path} knows no standby {wanted:?}"),
            format!("`snapsync status {path}` shows those it knows"),
        )),
        several => Err(Error::usage(
            format!("{path} knows {} standbys at {wanted:?}, one made after the other", several.len()),
            format!("name the one by its id: `snapsync status {path} --json` shows them"),
        )),
    }
}
