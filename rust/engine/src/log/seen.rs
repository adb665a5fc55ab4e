//! What a log shows of itself, in the words of a volume.

use crate::location::logs::{info, read};
use crate::report::snapshots::{Hold, Listed};
use crate::report::volumes::{StandbyStatus, Status};
use crate::volume::roles::Described;
use snapsync_log::{LogAddress, LogHistory};
use snapsync_model::{Result, Role};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What a volume that follows it, or followed it once, is to know.
pub(crate) fn describe(address: &LogAddress) -> Result<Described> {
    let (log, head, history) = read(address)?;
    Ok(Described {
        volume: info(&log, head.as_ref(), Role::Primary),
        line: history.infos(),
        promotions: head.map(|head| head.promotions).unwrap_or_default(),
        standbys: BTreeMap::new(),
    })
}

fn holds(history: &LogHistory) -> Vec<Hold> {
    let held = history.snapshots.iter().filter_map(|(_, info)| Some((info, history.holds.get(&info.id)?)));
    held.map(|(info, reason)| Hold {
        snapshot: info.id,
        name: info.name.clone(),
        reason: reason.clone(),
        standby: None,
    })
    .collect()
}

pub(crate) fn list(address: &LogAddress) -> Result<Listed> {
    let (log, head, history) = read(address)?;
    Ok(Listed {
        verb: "list",
        volume: info(&log, head.as_ref(), Role::Standby),
        holds: holds(&history),
        snapshots: history.infos(),
        alone: Vec::new(),
        clones: Vec::new(),
        parts: Vec::new(),
    })
}

pub(crate) fn status(address: &LogAddress) -> Result<Status> {
    let (log, head, history) = read(address)?;
    let snapshots = history.infos();
    let lag = |id: Uuid| {
        let at = snapshots.iter().position(|info| info.id == id);
        at.map_or(snapshots.len(), |at| snapshots.len() - 1 - at) as u64
    };
    // Who cannot read it does not see what standbys have said.
    let readers = if log.can_open() { log.readers()? } else { Vec::new() };
    let standbys = readers.into_iter().map(|reader| StandbyStatus {
        volume: reader.volume.to_string(),
        path: reader.path,
        snapshot: reader.snapshot.to_string(),
        name: reader.name,
        at: reader.at,
        lag: lag(reader.snapshot),
        scrub: None,
        claim: None,
    });
    Ok(Status {
        verb: "status",
        volume: info(&log, head.as_ref(), Role::Standby),
        snapshots: snapshots.len() as u64,
        unfinished: None,
        busy: false,
        standbys: standbys.collect(),
        holds: holds(&history),
        latest: snapshots.last().cloned(),
        replaced: None,
        by_name: false,
        read_only: false,
        history: None,
        manifests: 0,
        manifest_bytes: 0,
        parts: Vec::new(),
    })
}
