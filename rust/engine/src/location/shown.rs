//! Snapshots of a volume or a log as a mount shows them: one, or all that there are.

use crate::jobs::with_jobs;
use crate::location::logs;
use snapsync_log::{Commit, Log, LogAddress, LogHistory, LogSnapshot, fold};
use snapsync_model::{
    Context, Details, Inode, Monitor, ROOT, RelPath, Result, Role, Side, SnapshotInfo, VolumeInfo, locked,
};
use snapsync_mount::Snapshots;
use snapsync_snapshot::Volume;
use snapsync_sys::Root;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

/// How long the listing of a store on this machine is relied on, and of one elsewhere, which is asked.
const NEAR: Duration = Duration::from_secs(1);
const FAR: Duration = Duration::from_secs(10);

fn only(found: Vec<SnapshotInfo>, one: Option<Uuid>) -> Vec<SnapshotInfo> {
    found.into_iter().filter(|info| one.is_none_or(|one| info.id == one)).collect()
}

/// Of a volume on this machine.
pub(crate) struct ShownVolume {
    volume: Volume,
    /// None for all.
    one: Option<Uuid>,
    jobs: usize,
}

impl ShownVolume {
    pub(crate) fn new(volume: Volume, one: Option<Uuid>, jobs: usize) -> ShownVolume {
        ShownVolume { volume, one, jobs }
    }

    /// As it is now: it may have another role by now, and its bytes lie elsewhere then.
    fn now(&self) -> Result<Volume> {
        Volume::open_in(self.volume.root().again()?)
    }
}

impl Snapshots for ShownVolume {
    fn list(&self) -> Result<Vec<SnapshotInfo>> {
        Ok(only(self.volume.snapshots()?, self.one))
    }

    fn lasts(&self) -> Duration {
        NEAR
    }

    fn open(&self, info: &SnapshotInfo, monitor: &Monitor) -> Result<Box<dyn Side>> {
        let volume = self.now()?;
        with_jobs(self.jobs, || volume.open_snapshot(info, monitor))
    }

    fn root(&self, info: &SnapshotInfo) -> Result<Option<Inode>> {
        let volume = self.now()?;
        match volume.tree_of(info) {
            Some(tree) => Ok(Some(root_of(&tree.tree()?)?)),
            // Rows are in order of number, and it has the first.
            None => volume.open_snapshot(info, &Monitor::default())?.inodes()?.next().transpose(),
        }
    }

    fn has(&self, info: &SnapshotInfo) -> bool {
        self.volume.lists(info.id)
    }
}

fn root_of(tree: &Root) -> Result<Inode> {
    let look = || {
        let entry = tree.entry(&RelPath::root())?;
        Ok::<_, io::Error>((entry.stat()?, entry.xattrs()?))
    };
    let (stat, xattrs) = look().context("read the attributes of", tree.path())?;
    Ok(Inode {
        ino: ROOT,
        generation: stat.generation,
        kind: stat.kind,
        attributes: stat.attributes.bare(),
        ctime: stat.ctime,
        blocks: 0,
        links: Vec::new(),
        details: Some(Box::new(Details { xattrs, ..Details::default() })),
        object: 0,
        shared: false,
    })
}

/// Of a log.
pub(crate) struct ShownLog {
    log: Arc<Log>,
    one: Option<Uuid>,
    jobs: usize,
    /// What was read last: the history that a commit ends.
    seen: Mutex<Option<(Commit, LogHistory)>>,
}

impl ShownLog {
    pub(crate) fn open(address: &LogAddress, one: Option<Uuid>, jobs: usize) -> Result<ShownLog> {
        let log = Arc::new(logs::open(address)?);
        log.expect_open()?;
        Ok(ShownLog { log, one, jobs, seen: Mutex::default() })
    }

    pub(crate) fn info(&self) -> Result<VolumeInfo> {
        let head = self.log.head()?.map(|(head, _)| head);
        Ok(logs::info(&self.log, head.as_ref(), Role::Standby))
    }

    fn history(&self) -> Result<LogHistory> {
        let Some((head, _)) = self.log.head()? else { return Ok(LogHistory::default()) };
        let mut seen = locked(&self.seen);
        match &*seen {
            Some((known, history)) if known.sequence == head.sequence => Ok(history.clone()),
            _ => {
                let history = self.log.history(&head)?;
                *seen = Some((head, history.clone()));
                Ok(history)
            }
        }
    }
}

impl Snapshots for ShownLog {
    fn list(&self) -> Result<Vec<SnapshotInfo>> {
        Ok(only(self.history()?.infos(), self.one))
    }

    fn lasts(&self) -> Duration {
        if matches!(self.log.address(), LogAddress::Directory(_)) { NEAR } else { FAR }
    }

    fn open(&self, info: &SnapshotInfo, monitor: &Monitor) -> Result<Box<dyn Side>> {
        let history = self.history()?;
        let at = history.place_of(info.id).unwrap_or_default();
        let deltas = self.log.deltas_to(&self.log.there(at)?.0, &history)?;
        let whole = with_jobs(self.jobs, || fold(&self.log, &deltas, monitor))?;
        Ok(Box::new(LogSnapshot::new(&self.log, whole)?))
    }

    fn root(&self, _: &SnapshotInfo) -> Result<Option<Inode>> {
        Ok(None)
    }

    /// No pack gets other bytes, and each frame is compared with its digest.
    fn has(&self, _: &SnapshotInfo) -> bool {
        true
    }
}
