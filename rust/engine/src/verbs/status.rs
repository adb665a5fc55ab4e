//! Reports the state of a volume, or of a log.

use crate::location::directory::open_volume;
use crate::log::seen;
use crate::report::volumes::{Replaced, StandbyStatus, Status};
use crate::volume::holds::holds;
use crate::volume::kept;
use crate::volume::parts::parts;
use crate::volume::recovery::unfinished;
use snapsync_log::LogAddress;
use snapsync_model::Result;
use snapsync_snapshot::Volume;
use std::path::Path;
use uuid::Uuid;

/// Only reads: unfinished work stays unfinished. To tell what history costs, every file of the store is
/// looked at.
pub fn status(path: &Path, history: bool) -> Result<Status> {
    if let Some(log) = LogAddress::parse(path)? {
        return seen::status(&log);
    }
    status_in(&open_volume(path)?, history)
}

/// The same of a volume that is open.
pub(crate) fn status_in(volume: &Volume, history: bool) -> Result<Status> {
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
        scrub: standby.scrub.as_ref().map(crate::report::rounds::ScrubStatus::of),
        claim: standby.claim.clone(),
    });
    let claims = volume.standbys().values().filter_map(|standby| standby.claim.as_ref().zip(Some(standby)));
    let replaced = claims.max_by_key(|(claim, _)| claim.epoch);
    let (manifests, manifest_bytes) = kept::weight(volume)?;
    Ok(Status {
        verb: "status",
        volume: volume.info(),
        snapshots: snapshots.len() as u64,
        unfinished: unfinished(volume)?,
        busy: volume.is_busy(),
        standbys: standbys.collect(),
        holds: holds(volume)?,
        latest: snapshots.last().cloned(),
        replaced: replaced.map(|(claim, at)| Replaced { epoch: claim.epoch, path: at.path.clone() }),
        read_only: volume.is_read_only(),
        by_name: volume.accounts().is_some(),
        history: if history { volume.weight_of_history()? } else { None },
        manifests,
        manifest_bytes,
        parts: parts(volume)?,
    })
}
