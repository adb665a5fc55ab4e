//! Taking and deleting snapshots, and clearing what an interrupted take or delete left.

use crate::volume::{Volume, name_is_free};
use crate::{Delta, PoolSnapshot, follow, pool};
use snapsync_model::{Context, Error, Monitor, Provider, Result, Role, SnapshotInfo, Subset};
use snapsync_sys::{Root, btrfs, fault, make_dir_durable, remove_tree, sync_filesystem, write_file};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use uuid::Uuid;

/// Which snapshot to take.
#[derive(Clone, Debug)]
pub enum Request {
    /// The next of this volume; without a name it is named after the time. A subset is the volume's from then on.
    New { name: Option<String>, subset: Option<Subset> },
    /// The same snapshot as another volume has, of a tree that was made the same.
    Same(SnapshotInfo),
}

/// Until it is deleted wholly, a snapshot's directory has this ending.
const DELETING: &str = "deleting";

impl Volume {
    /// Takes a snapshot. The caller holds the lock.
    pub fn take(&mut self, request: Request, monitor: &Monitor) -> Result<SnapshotInfo> {
        let info = self.describe(request)?;
        self.take_with(info, |volume, subset, round, dir| pool::take(volume, subset, round, dir, monitor))
    }

    /// Takes the snapshot that another volume has, after the changes since the last one were applied. `delta`
    /// says how the tree came to be, or why that is not known. The caller holds the lock.
    pub fn follow(
        &mut self,
        info: SnapshotInfo,
        delta: Result<Delta, &str>,
        monitor: &Monitor,
    ) -> Result<SnapshotInfo> {
        let info = self.describe(Request::Same(info))?;
        self.take_with(info, |volume, subset, round, dir| {
            follow::take(volume, subset, round, dir, delta, monitor)
        })
    }

    /// `table` writes the table of a pool snapshot.
    fn take_with(
        &mut self,
        mut info: SnapshotInfo,
        table: impl FnOnce(&Volume, &Subset, u64, &Path) -> Result<pool::Counts>,
    ) -> Result<SnapshotInfo> {
        let dir = self.dir_of(info.id);
        std::fs::create_dir(&dir).context("create the directory", &dir)?;
        fault::point("snapshot.begin");
        match info.provider {
            Provider::Btrfs => self.take_btrfs(&dir)?,
            Provider::Pool => {
                let round = self.claim_round()?;
                write_file(&dir, "round", round.to_string().as_bytes()).context("write", &dir)?;
                let counts = table(self, &info.subset, round, &dir)?;
                (info.entries, info.bytes) = (Some(counts.entries), Some(counts.bytes));
            }
        }
        fault::point("snapshot.table");
        self.note_taken(&info)?;
        self.record_snapshot(&info)?;
        let snapshots = self.store().join("snapshots");
        make_dir_durable(&snapshots).context("sync", &snapshots)?;
        fault::point("snapshot.recorded");
        self.point_latest()?;
        Ok(info)
    }

    fn describe(&self, request: Request) -> Result<SnapshotInfo> {
        let provider = self.info().provider;
        let (name, subset) = match request {
            Request::Same(info) => return Ok(SnapshotInfo { provider, entries: None, bytes: None, ..info }),
            Request::New { name, subset } => (name, subset),
        };
        let taken = self.snapshots()?;
        let now = jiff::Timestamp::now();
        let name = match name {
            Some(name) => {
                name_is_free(&name, &taken)?;
                name
            }
            None => unused_name(&now, &taken),
        };
        Ok(SnapshotInfo {
            id: Uuid::new_v4(),
            name,
            sequence: self.next_sequence(),
            parent: taken.last().map(|s| s.id),
            created: now.to_string(),
            provider,
            entries: None,
            bytes: None,
            subset: subset.unwrap_or_else(|| self.subset().clone()),
        })
    }

    fn take_btrfs(&self, dir: &Path) -> Result<()> {
        let (volume, into) = (Root::open(self.path())?, Root::open(dir)?);
        // What the snapshot's own transaction holds is searched in every comparison with it: this leaves little.
        sync_filesystem(volume.fd()).context("sync the file system of", self.path())?;
        btrfs::create_snapshot(volume.fd(), into.fd(), OsStr::new("tree"))
            .context("take a snapshot of", self.path())
    }

    /// Makes `.snapsync/latest` the newest snapshot where snapshots are directories.
    fn point_latest(&self) -> Result<()> {
        if self.info().provider != Provider::Btrfs {
            return Ok(());
        }
        let dir = self.path().join(snapsync_walk::STORE);
        let (link, temporary) = (dir.join("latest"), dir.join("latest.new"));
        let _ = std::fs::remove_file(&temporary);
        match self.snapshots()?.last() {
            Some(info) => {
                let target = Path::new("store/snapshots").join(info.id.to_string()).join("tree");
                std::os::unix::fs::symlink(target, &temporary).context("create", &temporary)?;
                std::fs::rename(&temporary, &link).context("replace", &link)
            }
            None => match std::fs::remove_file(&link) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context("remove", &link),
                _ => Ok(()),
            },
        }
    }

    /// Deletes a snapshot and frees what no other uses. The caller holds the lock.
    pub fn delete(&mut self, info: &SnapshotInfo, monitor: &Monitor) -> Result<()> {
        let dir = self.dir_of(info.id);
        fault::point("delete.begin");
        if info.provider == Provider::Pool {
            // Told before the snapshot is unlisted: nothing that is taken later can come to use these.
            let garbage = self.unshared_objects(info, monitor)?;
            let text: String = garbage.iter().map(|object| format!("{object}\n")).collect();
            write_file(&dir, "garbage", text.as_bytes()).context("write", &dir)?;
        }
        let doomed = dir.with_extension(DELETING);
        std::fs::rename(dir.join("snapshot.json"), dir.join("deleted.json")).context("unlist", &dir)?;
        std::fs::rename(&dir, &doomed).context("unlist", &dir)?;
        let snapshots = self.store().join("snapshots");
        make_dir_durable(&snapshots).context("sync", &snapshots)?;
        fault::point("delete.unlisted");
        self.finish_delete(&doomed)?;
        self.point_latest()
    }

    fn unshared_objects(&self, info: &SnapshotInfo, monitor: &Monitor) -> Result<Vec<u64>> {
        let table = |id: Uuid| PoolSnapshot::objects(&self.dir_of(id).join("table.arrow"));
        let mut garbage: HashSet<u64> = table(info.id)?.collect::<Result<_>>()?;
        for other in self.snapshots()?.iter().filter(|s| s.id != info.id && s.provider == Provider::Pool) {
            monitor.check()?;
            for object in table(other.id)? {
                garbage.remove(&object?);
            }
        }
        let mut garbage: Vec<u64> = garbage.into_iter().collect();
        garbage.sort_unstable();
        Ok(garbage)
    }

    fn finish_delete(&self, doomed: &Path) -> Result<()> {
        if let Ok(text) = std::fs::read_to_string(doomed.join("garbage")) {
            pool::remove_objects(
                &self.store().join("pool"),
                text.lines().filter_map(|line| line.parse().ok()),
            )?;
        }
        self.remove_snapshot_dir(doomed)
    }

    fn remove_snapshot_dir(&self, dir: &Path) -> Result<()> {
        let tree = dir.join("tree");
        if tree.exists() {
            let root = Root::open(dir)?;
            btrfs::delete_subvolume(root.fd(), OsStr::new("tree")).context("delete the subvolume", &tree)?;
        }
        let parent = Root::open(&self.store().join("snapshots"))?;
        let name = dir.file_name().unwrap_or_default();
        remove_tree(parent.fd(), name).context("remove", dir)
    }

    /// Clears what an interrupted take or delete left. Says what it did. The caller holds the lock.
    pub fn recover(&mut self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        self.clear_transfers();
        let snapshots = self.store().join("snapshots");
        for entry in std::fs::read_dir(&snapshots).context("list", &snapshots)? {
            let dir = entry.context("list", &snapshots)?.path();
            if dir.extension().is_some_and(|e| e == DELETING) || dir.join("deleted.json").exists() {
                self.finish_delete(&dir)?;
                done.push("finished deleting a snapshot".to_owned());
            } else if !dir.join("snapshot.json").exists() {
                // No complete snapshot can use the objects of a round that was not completed.
                if let Some(round) = read_round(&dir) {
                    pool::remove_round(&self.store().join("pool"), round)?;
                }
                self.remove_snapshot_dir(&dir)?;
                done.push("removed a snapshot that was not completed".to_owned());
            }
        }
        if !done.is_empty() {
            self.point_latest()?;
        }
        Ok(done)
    }

    /// What a transfer that was killed has left: nobody else works on the volume now.
    fn clear_transfers(&self) {
        let _ = std::fs::remove_dir_all(self.outgoing());
        for entry in std::fs::read_dir(self.store()).into_iter().flatten().flatten() {
            if entry.file_name().as_bytes().starts_with(b"join-") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// A standby's snapshots come from its primary alone.
    pub fn expect_primary(&self, verb: &str) -> Result<()> {
        if self.info().role == Role::Primary {
            return Ok(());
        }
        Err(Error::refused(
            format!("cannot {verb} {}: it is a standby", self.path().display()),
            "name its primary instead",
        ))
    }
}

fn read_round(dir: &Path) -> Option<u64> {
    std::fs::read_to_string(dir.join("round")).ok()?.parse().ok()
}

fn unused_name(now: &jiff::Timestamp, taken: &[SnapshotInfo]) -> String {
    let name = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let candidates = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}-{n}")));
    candidates.into_iter().find(|c| taken.iter().all(|s| s.name != *c)).unwrap_or(name)
}
