//! What a log shows of itself, in the words of a volume.

use crate::report::snapshots::Listed;
use crate::report::volumes::Status;
use crate::volume::roles::Described;
use snapsync_log::{Commit, Log, LogAddress, Published};
use snapsync_model::{Error, Provider, Result, Role, SnapshotInfo, Subset, VolumeInfo};
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

/// All of its commits, oldest first.
fn line(log: &Log) -> Result<Vec<Commit>> {
    let newest = log.head()?.map(|(newest, _)| log.line(newest, |_| false));
    Ok(newest.transpose()?.unwrap_or_default())
}

fn snapshots(line: &[Commit]) -> Vec<SnapshotInfo> {
    line.iter().filter_map(|commit| commit.info().cloned()).collect()
}

/// The newest commit, and what led to a snapshot, oldest first.
pub(crate) fn line_to(log: &Log, snapshot: &str) -> Result<(Commit, Vec<Published>)> {
    let mut line = line(log)?;
    let found = find_among(snapshots(&line), snapshot, &log.address().to_string())?;
    let head = line.last().cloned();
    let at = line.iter().position(|commit| commit.is_of(found.id));
    line.truncate(at.map_or(0, |at| at + 1));
    let head = head.ok_or_else(|| Error::failed("the log is empty", "sync its primary to it first"))?;
    Ok((head, line.into_iter().filter_map(|commit| commit.published).collect()))
}

/// What a volume that follows it, or followed it once, is to know.
pub(crate) fn describe(address: &LogAddress) -> Result<Described> {
    let log = open(address)?;
    let line = line(&log)?;
    Ok(Described {
        volume: info(&log, line.last(), Role::Primary),
        line: snapshots(&line),
        promotions: line.last().map(|head| head.promotions.clone()).unwrap_or_default(),
        standbys: BTreeMap::new(),
    })
}

pub(crate) fn list(address: &LogAddress) -> Result<Listed> {
    let log = open(address)?;
    let line = line(&log)?;
    Ok(Listed {
        verb: "list",
        volume: info(&log, line.last(), Role::Standby),
        snapshots: snapshots(&line),
        alone: Vec::new(),
        holds: Vec::new(),
        clones: Vec::new(),
        parts: Vec::new(),
    })
}

pub(crate) fn status(address: &LogAddress) -> Result<Status> {
    let log = open(address)?;
    let line = line(&log)?;
    let snapshots = snapshots(&line);
    Ok(Status {
        verb: "status",
        volume: info(&log, line.last(), Role::Standby),
        snapshots: snapshots.len() as u64,
        unfinished: None,
        busy: false,
        standbys: Vec::new(),
        holds: Vec::new(),
        latest: snapshots.last().cloned(),
        replaced: None,
        read_only: false,
        history: None,
        parts: Vec::new(),
    })
}
