//! Determines what the file system of a pool volume proves about its files: measured before each snapshot,
//! never derived from a name alone.

use crate::pool::store::PoolStore;
use snapsync_manifest::TableInfo;
use snapsync_model::{Context, Monitor, Result};
use snapsync_sys::{FileSystem, Root, Times, has_stable_numbers, mounting, stat_of};

pub(crate) fn is_numbered(root: &Root, filesystem: FileSystem) -> Result<bool> {
    has_stable_numbers(root.fd(), filesystem).context("read the attributes of", root.path())
}

/// The file system of a volume in its present mounting.
pub(crate) struct Ground {
    /// Change times from here on may be used again, in ns since 1970.
    pub(crate) unsettled: i64,
    pub(crate) dev: (u32, u32),
    /// Whether inodes are identified by number; otherwise by path.
    pub(crate) is_numbered: bool,
    started: i64,
    times: Times,
    /// The identity of the mounting.
    pub(crate) mounting: Option<String>,
    is_standby: bool,
}

impl Ground {
    /// `started` is when the examination of the tree begins.
    pub(crate) fn of(store: &PoolStore, root: &Root, started: i64) -> Result<Ground> {
        let times = store.dir.directory().and_then(|dir| Times::measure(dir, store.filesystem));
        let times = times.context("measure the times of the file system of", store.dir.show())?;
        Ok(Ground {
            unsettled: started.saturating_sub(times.grain),
            dev: stat_of(root.fd()).context("read the attributes of", root.path())?.dev,
            is_numbered: is_numbered(root, store.filesystem)?,
            started,
            times,
            mounting: mounting(root.in_own_mount()),
            is_standby: store.is_standby,
        })
    }

    /// The metadata of a table whose rows were all checked against the files.
    pub(crate) fn info(&self) -> TableInfo {
        let mounting = self.mounting.clone().filter(|_| self.times.doubt.is_none());
        TableInfo { walk_started: self.started, mounting, ..TableInfo::default() }
    }

    /// Rows of a table with change times before this are valid if the file has the same one. Notes the reason
    /// if none are.
    pub(crate) fn settled_before(&self, last: &TableInfo, store: &PoolStore, monitor: &Monitor) -> i64 {
        let path = store.path().display();
        if let Some(doubt) = self.times.doubt {
            monitor.note(format!("the bytes of all files of {path} are compared in each round: {doubt}"));
            return i64::MIN;
        }
        // Data written just before a crash may be there without its times. A standby is written only by
        // commits, which end with a sync.
        if !self.is_standby && (self.mounting.is_none() || self.mounting != last.mounting) {
            monitor.note(format!(
                "all files of {path} are compared once with the snapshot before, because the file system was \
                 mounted anew: \
                 nothing proves that it was unmounted cleanly"
            ));
            return i64::MIN;
        }
        // An older version did not keep everything about an inode.
        if last.is_current() { i64::MAX } else { i64::MIN }
    }
}
