//! What a log shows of itself, in the words of a volume.

use crate::report::snapshots::{Hold, Listed};
use crate::report::volumes::{StandbyStatus, Status};
use crate::volume::roles::Described;
use snapsync_log::{Commit, History, Log, LogAddress, Published};
use snapsync_model::{Error, Provider, Result, Role, Subset, VolumeInfo};
use snapsync_snapshot::find_among;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What stands for the name of a file system.
const STORE: &str = "log";

/// A log as if it were a volume, whose newest commit is `newest`.
pub(crate) fn info(log: &Log, newest: Option<&Commit>, role: Role) -> VolumeInfo {
    VolumeInfo {
        path: log.address().to_string().into(),
        id: log.id(),
        lineage: newest.map_or(Uuid::nil(), |newest| newest.lineage),
        epoch: newest.map_or(0, |newest| newest.epoch),
        role,
        provider: Provider::Pool,
        filesystem: STORE.to_owned(),
        subset: newest.and_then(Commit::info).map_or_else(Subset::default, |info| info.subset.clone()),
        history: None,
    }
}

/// A log that is there.
pub(crate) fn open(address: &LogAddress) -> Result<Log> {
    Log::open(address)?.ok_or_else(|| {
        Error::usage(
            format!("{address} is no log"),
            "check the address; `snapsync init LOG` begins one, and so does `snapsync sync SOURCE LOG`",
        )
    })
}

/// A log, its newest commit, and the snapshots that it lists.
pub(crate) fn read(address: &LogAddress) -> Result<(Log, Option<Commit>, History)> {
    let log = open(address)?;
    let head = log.head()?.map(|(head, _)| head);
    let history = head.as_ref().map(|head| log.history(head)).transpose()?.unwrap_or_default();
    Ok((log, head, history))
}

/// The newest commit, and what leads from nothing to a snapshot.
pub(crate) fn deltas_to(address: &LogAddress, snapshot: &str) -> Result<(Log, Commit, Vec<Published>)> {
    let (log, head, history) = read(address)?;
    let found = find_among(history.infos(), snapshot, &address.to_string())?;
    let at = history.snapshots.iter().find(|(_, info)| info.id == found.id).map(|(at, _)| *at);
    let (Some(head), Some(at)) = (head, at) else {
        return Err(Error::failed(format!("{address} is empty"), "sync its primary to it first"));
    };
    let commit = log.there(at)?.0;
    let deltas = log.deltas_to(&commit, &history)?;
    Ok((log, head, deltas))
}

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

fn holds(history: &History) -> Vec<Hold> {
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
    let standbys = log.readers()?.into_iter().map(|reader| StandbyStatus {
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
        read_only: false,
        history: None,
        parts: Vec::new(),
    })
}
