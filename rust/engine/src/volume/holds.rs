//! Snapshots that must not be deleted: users hold them, or standbys continue from them.

use crate::report::snapshots::Hold;
use snapsync_model::{Error, Result, SnapshotInfo};
use snapsync_snapshot::Volume;
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

/// Refuses to delete a held snapshot.
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
            format!("`snapsync release {}` lets it go", volume.address_of(&info.name).display()),
        ),
    })
}
