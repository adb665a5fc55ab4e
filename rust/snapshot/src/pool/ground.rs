//! Determines what the file system of a pool volume proves about its files: measured before each snapshot,
//! never derived from a name alone.

use crate::pool::store::PoolStore;
use snapsync_manifest::TableInfo;
use snapsync_model::{Context, Monitor, Result};
use snapsync_sys::{FileSystem, Root, Times, has_lasting_identity, has_stable_numbers, mounting, stat_of};

const MEASURE: &str = "measure the times of the file system of";

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
    /// A file keeps its number and birth time for as long as it exists.
    has_lasting_identity: bool,
    /// The tree was made by another command, and nothing but its bytes proves what did not change.
    pub(crate) is_frozen: bool,
    started: i64,
    times: Times,
    /// The identity of the mounting.
    pub(crate) mounting: Option<String>,
    /// What the last table describes was written by commits alone.
    is_standby: bool,
    /// The tree keeps the bytes until a commit changes them, and its times tell when somebody else does: an
    /// object has its file only from then on.
    pub(crate) is_in_tree: bool,
    /// Nor does it get one then.
    pub(crate) is_light: bool,
}

impl Ground {
    /// The tree is not looked at before this returns.
    pub(crate) fn of(store: &PoolStore, root: &Root) -> Result<Ground> {
        let ground = Ground::of_all(store, root)?;
        if !ground.leaves_bytes_in_tree(store) {
            return Ok(ground);
        }
        // What was committed just now has a change time that no later change can have again.
        let dir = store.dir.directory();
        let unsettled = dir.and_then(|dir| ground.times.once_all_are_earlier(dir, store.filesystem));
        let unsettled = unsettled.context(MEASURE, store.dir.show())?;
        Ok(Ground { is_in_tree: true, started: now(), unsettled, ..ground })
    }

    /// The same for a snapshot that is to hold all that it has by itself.
    pub(crate) fn of_all(store: &PoolStore, root: &Root) -> Result<Ground> {
        let times = store.dir.directory().and_then(|dir| {
            let times = Times::measure(&dir, store.filesystem)?;
            Ok((times, times.of_changes_to_come(dir, store.filesystem)?))
        });
        let (times, unsettled) = times.context(MEASURE, store.dir.show())?;
        let is_by_path = store.frozen.as_ref().is_some_and(|frozen| frozen.is_by_path);
        Ok(Ground {
            unsettled,
            dev: stat_of(root.fd()).context("read the attributes of", root.path())?.dev,
            is_numbered: !is_by_path && is_numbered(root, store.filesystem)?,
            started: now(),
            times,
            mounting: match &store.frozen {
                Some(frozen) => Some(frozen.mounting.clone()),
                None => mounting(root.in_own_mount()),
            },
            is_frozen: store.frozen.is_some(),
            is_standby: store.is_standby,
            has_lasting_identity: !is_by_path
                && has_lasting_identity(root.fd(), store.filesystem)
                    .context("read the attributes of", root.path())?,
            is_in_tree: false,
            is_light: store.is_light,
        })
    }

    /// Only commits write there, or no history is kept, and its times tell who else has written.
    pub(crate) fn leaves_bytes_in_tree(&self, store: &PoolStore) -> bool {
        (store.stays_standby || store.is_light) && self.tells_changes()
    }

    /// A file is known again, and its times tell whether its bytes are still the same.
    pub(crate) fn tells_changes(&self) -> bool {
        self.has_lasting_identity && self.times.doubt.is_none() && self.mounting.is_some()
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
        if self.is_frozen {
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

/// In ns since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}
