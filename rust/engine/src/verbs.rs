//! The verbs that concern one volume.

use crate::hold::{holds, is_free};
use crate::place::{self, existing_directory, open_directory};
use crate::recover::{recover, unfinished};
use crate::report::{Deleted, Initialised, Listed, Replaced, StandbyStatus, Status, Taken};
use crate::standby::can_be_kept;
use snapsync_model::{Error, Monitor, Result, Role, SnapshotInfo, Stage};
use snapsync_snapshot::{Request, Volume, is_vacant_in, name_is_free};
use snapsync_sys::Root;
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

/// Takes a snapshot; a directory without a store becomes a primary.
pub fn snapshot(path: &Path, name: Option<String>, monitor: &Monitor) -> Result<Taken> {
    let started = Instant::now();
    let root = open_directory(path)?;
    let found = Volume::find_in(root.again()?)?;
    let taken = found.as_ref().map_or_else(|| Ok(Vec::new()), Volume::snapshots)?;
    name.iter().try_for_each(|name| name_is_free(name, &taken))?;
    let mut volume = match found {
        Some(volume) => volume,
        None => place::source(&root).and_then(|_| Volume::init_in(root, Role::Primary, Uuid::new_v4(), 1))?,
    };
    let _lock = volume.lock()?;
    volume.reload()?;
    recover(&mut volume, monitor)?;
    volume.expect_primary("take a snapshot of")?;
    monitor.start(Stage::Snapshot, 0);
    let snapshot = volume.take(Request::New { name, subset: None }, monitor)?;
    Ok(Taken {
        verb: "snapshot",
        volume: volume.info(),
        snapshot,
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Makes a directory a volume, or changes how one is kept. With `read_only` a directory that is none yet is to be a
/// standby: of whichever primary is synced to it first.
pub fn init(path: &Path, read_only: Option<bool>, monitor: &Monitor) -> Result<Initialised> {
    let path = existing_directory(path)?;
    let root = Root::open(&path)?;
    can_be_kept(&root, read_only == Some(true))?;
    let mut volume = match Volume::find_in(root.again()?)? {
        Some(volume) => volume,
        None if read_only == Some(true) => {
            if !is_vacant_in(&root)? {
                return Err(Error::refused(
                    format!("{} is not empty, and a standby begins empty", path.display()),
                    "name an empty directory; a primary is made without --read-only",
                ));
            }
            Volume::init_in(root, Role::Standby, Uuid::nil(), 1)?
        }
        None => Volume::init_in(root, Role::Primary, Uuid::new_v4(), 1)?,
    };
    let _lock = volume.lock()?;
    volume.reload()?;
    let recovered = recover(&mut volume, monitor)?;
    if let Some(read_only) = read_only {
        volume.set_read_only(read_only)?;
    }
    Ok(Initialised { verb: "init", volume: volume.info(), read_only: volume.is_read_only(), recovered })
}

pub fn list(path: &Path) -> Result<Listed> {
    let volume = Volume::open(&existing_directory(path)?)?;
    let (snapshots, holds) = (volume.snapshots()?, holds(&volume)?);
    let clones = crate::clones::clones(&volume)?;
    Ok(Listed { verb: "list", volume: volume.info(), snapshots, holds, clones })
}

/// Deletes a snapshot that nobody holds.
pub fn delete(path: &Path, name: &str, monitor: &Monitor) -> Result<Deleted> {
    let mut volume = Volume::open(&existing_directory(path)?)?;
    volume.find_snapshot(name)?;
    let _lock = volume.lock()?;
    volume.reload()?;
    recover(&mut volume, monitor)?;
    let info = volume.find_snapshot(name)?;
    is_not_needed(&volume, &info)?;
    volume.delete(&info, monitor)?;
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

/// Reads only: what is unfinished stays so.
pub fn status(path: &Path) -> Result<Status> {
    let volume = Volume::open(&existing_directory(path)?)?;
    let snapshots = volume.line()?;
    let lag = |id: Uuid| {
        let at = snapshots.iter().position(|s| s.id == id);
        at.map_or(snapshots.len(), |at| snapshots.len() - 1 - at) as u64
    };
    let standbys = volume.standbys().iter().map(|(id, standby)| StandbyStatus {
        volume: id.to_string(),
        path: standby.path.clone(),
        snapshot: standby.snapshot.to_string(),
        name: standby.name.clone(),
        at: standby.at.clone(),
        lag: lag(standby.snapshot),
        scrub: standby.scrub.as_ref().map(crate::report::ScrubStatus::of),
        claim: standby.claim.clone(),
    });
    let claims = volume.standbys().values().filter_map(|standby| standby.claim.as_ref().zip(Some(standby)));
    let replaced = claims.max_by_key(|(claim, _)| claim.epoch);
    Ok(Status {
        verb: "status",
        volume: volume.info(),
        snapshots: snapshots.len() as u64,
        unfinished: unfinished(&volume)?,
        busy: volume.is_busy(),
        standbys: standbys.collect(),
        holds: holds(&volume)?,
        latest: snapshots.last().cloned(),
        replaced: replaced.map(|(claim, at)| Replaced { epoch: claim.epoch, path: at.path.clone() }),
        read_only: volume.is_read_only(),
    })
}
