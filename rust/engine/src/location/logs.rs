//! Logs, and their snapshots as places to read from.

use snapsync_log::{Commit, Log, LogAddress, LogHistory, LogKey, LogSnapshot, Published, fold};
use snapsync_model::{Error, Monitor, Provider, Result, Role, Side, SnapshotInfo, Subset, VolumeInfo};
use snapsync_snapshot::find_among;
use std::sync::Arc;
use uuid::Uuid;

/// What stands for the name of a file system.
const STORE: &str = "log";

/// A snapshot of a log.
#[derive(Clone)]
pub(crate) struct LogPlace {
    pub(crate) log: Arc<Log>,
    pub(crate) head: Commit,
    pub(crate) info: SnapshotInfo,
    /// What leads to it from nothing.
    pub(crate) deltas: Vec<Published>,
}

impl LogPlace {
    /// The snapshot that a name means.
    pub(crate) fn find(address: &LogAddress, snapshot: &str) -> Result<LogPlace> {
        let (log, head, history) = read(address)?;
        let info = find_among(history.infos(), snapshot, &address.to_string())?;
        let at = history.place_of(info.id);
        let (Some(head), Some(at)) = (head, at) else {
            return Err(Error::failed(format!("{address} is empty"), "sync its primary to it first"));
        };
        let deltas = log.deltas_to(&log.there(at)?.0, &history)?;
        Ok(LogPlace { log: Arc::new(log), head, info, deltas })
    }

    /// The same with the log of another place: addresses of both can be compared then.
    pub(crate) fn beside(&self, other: &LogPlace) -> LogPlace {
        LogPlace { log: other.log.clone(), ..self.clone() }
    }

    /// The volume whose inode numbers it has, and the epoch: one that was a standby meanwhile has others.
    pub(crate) fn numbers(&self) -> Option<(Option<Uuid>, u64)> {
        self.deltas.last().map(|published| (published.delta.volume, published.delta.epoch))
    }

    pub(crate) fn open(&self, monitor: &Monitor) -> Result<Box<dyn Side>> {
        let whole = fold(&self.log, &self.deltas, monitor)?;
        Ok(Box::new(LogSnapshot::new(&self.log, whole)?))
    }

    pub(crate) fn volume(&self) -> VolumeInfo {
        info(&self.log, Some(&self.head), Role::Standby)
    }
}

/// What one round brought to a log, and whether its own tables are needed there.
pub(crate) fn round_of(address: &LogAddress, snapshot: &str) -> Result<(Log, Published, bool)> {
    let (log, _, history) = read(address)?;
    let info = find_among(history.infos(), snapshot, &address.to_string())?;
    let at = history.place_of(info.id);
    let commit = at.map(|at| log.there(at)).transpose()?;
    let published = commit.as_ref().and_then(|(commit, _)| commit.published().cloned());
    let empty = || Error::failed(format!("{address} is empty"), "sync its primary to it first");
    let is_whole = history.checkpoints.iter().any(|checkpoint| Some(checkpoint.sequence) >= at);
    Ok((log, published.ok_or_else(empty)?, !is_whole))
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

/// Believes from now on what a key signs in a log; returns the id of that.
pub(crate) fn trust(address: &LogAddress, key: LogKey) -> Result<Uuid> {
    let log = open(address)?;
    log.trust(key)?;
    Ok(log.id())
}

/// A log, its newest commit, and the snapshots that it lists.
pub(crate) fn read(address: &LogAddress) -> Result<(Log, Option<Commit>, LogHistory)> {
    let log = open(address)?;
    let head = log.head()?.map(|(head, _)| head);
    let history = head.as_ref().map(|head| log.history(head)).transpose()?.unwrap_or_default();
    Ok((log, head, history))
}

/// A log as if it were a volume, whose newest commit is `head`.
pub(crate) fn info(log: &Log, head: Option<&Commit>, role: Role) -> VolumeInfo {
    VolumeInfo {
        path: log.address().to_string().into(),
        id: log.id(),
        lineage: head.map_or(Uuid::nil(), |head| head.lineage),
        epoch: head.map_or(0, |head| head.epoch),
        role,
        provider: Provider::Pool,
        filesystem: STORE.to_owned(),
        subset: head.and_then(Commit::info).map_or_else(Subset::default, |info| info.subset.clone()),
        history: None,
    }
}
