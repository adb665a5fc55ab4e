//! Snapshots that must not go: held by hand, and held because a standby goes on from them.

use crate::place::existing_directory;
use crate::report::{Held, Hold, Released};
use snapsync_model::{Error, Result, SnapshotInfo};
use snapsync_snapshot::{Standby, Volume};
use std::path::Path;
use uuid::Uuid;

/// Everything that holds a snapshot of this volume.
pub(crate) fn holds(volume: &Volume) -> Result<Vec<Hold>> {
    let snapshots = volume.snapshots()?;
    let name_of = |id: Uuid| snapshots.iter().find(|s| s.id == id).map(|s| s.name.clone());
    let by_hand = volume.holds().iter().filter_map(|(id, reason)| {
        Some(Hold { snapshot: *id, name: name_of(*id)?, reason: reason.clone(), standby: None })
    });
    let by_standbys = volume.standbys().values().filter_map(|standby| {
        let (snapshot, path) = (standby.snapshot, standby.path.clone());
        Some(Hold { snapshot, name: name_of(snapshot)?, reason: String::new(), standby: Some(path) })
    });
    Ok(by_hand.chain(by_standbys).collect())
}

impl Hold {
    pub(crate) fn why(&self) -> String {
        match (&self.standby, self.reason.as_str()) {
            (Some(path), _) => format!("base of the standby {path}"),
            (None, "") => "held by hand".to_owned(),
            (None, reason) => format!("held by hand: {reason}"),
        }
    }
}

/// Refuses to delete what is held.
pub(crate) fn is_free(volume: &Volume, info: &SnapshotInfo) -> Result<()> {
    let Some(hold) = holds(volume)?.into_iter().find(|hold| hold.snapshot == info.id) else { return Ok(()) };
    let path = volume.path().display();
    let what = |why: String| format!("cannot delete snapshot {} of {path}: {why}", info.name);
    Err(match &hold.standby {
        Some(standby) => Error::refused(
            what(format!("the standby {standby} needs it as its base")),
            format!(
                "sync first, so that a newer snapshot takes its place; \
                 `snapsync release {path} --standby {standby}` forgets a standby that is gone"
            ),
        ),
        None => Error::refused(
            what(format!("it is {}", hold.why())),
            format!("`snapsync release {path}@{}` lets it go", info.name),
        ),
    })
}

/// Keeps a snapshot from being deleted or pruned until it is released. Held again it has the new reason.
pub fn hold(path: &Path, name: &str, reason: &str) -> Result<Held> {
    let mut volume = Volume::open(&existing_directory(path)?)?;
    let _lock = volume.lock()?;
    volume.reload()?;
    let snapshot = volume.find_snapshot(name)?;
    volume.hold(snapshot.id, reason.to_owned())?;
    Ok(Held { verb: "hold", volume: volume.info(), snapshot, reason: reason.to_owned() })
}

/// Lets a snapshot go that was held by hand.
pub fn release(path: &Path, name: &str) -> Result<Released> {
    let mut volume = Volume::open(&existing_directory(path)?)?;
    let _lock = volume.lock()?;
    volume.reload()?;
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

/// Forgets a standby that is gone, by its path or id: the snapshot it was to go on from is free.
pub fn forget_standby(path: &Path, standby: &str) -> Result<Released> {
    let mut volume = Volume::open(&existing_directory(path)?)?;
    let _lock = volume.lock()?;
    volume.reload()?;
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
