//! Deletes a snapshot.

use crate::location::directory::open_volume;
use crate::log::keeping;
use crate::report::snapshots::Deleted;
use crate::volume::holds::is_free;
use crate::volume::kept;
use crate::volume::recovery;
use snapsync_log::LogAddress;
use snapsync_model::{Error, Monitor, Result, Role, SnapshotInfo};
use snapsync_snapshot::Volume;
use std::path::Path;

/// Deletes a snapshot unless it is held.
pub fn delete(path: &Path, name: &str, monitor: &Monitor) -> Result<Deleted> {
    if let Some(log) = LogAddress::parse(path)? {
        return keeping::delete(&log, name, monitor);
    }
    let volume = open_volume(path)?;
    volume.find_snapshot(name)?;
    let (mut volume, _) = recovery::lock(&volume, monitor)?;
    let info = volume.find_snapshot(name)?;
    is_not_needed(&volume, &info)?;
    kept::delete_all(&mut volume, std::slice::from_ref(&info), monitor)?;
    Ok(Deleted { verb: "delete", volume: volume.info(), deleted: info })
}

fn is_not_needed(volume: &Volume, info: &SnapshotInfo) -> Result<()> {
    if volume.missing(info).is_some() {
        return Ok(());
    }
    is_free(volume, info)?;
    let is_newest = volume.line()?.last().is_some_and(|s| s.id == info.id);
    if volume.info().role == Role::Standby && is_newest {
        let path = volume.path().display();
        return Err(Error::refused(
            format!("cannot delete snapshot {} of {path}: it is what this standby holds", info.name),
            "sync first, so that a newer snapshot takes its place",
        ));
    }
    Ok(())
}
