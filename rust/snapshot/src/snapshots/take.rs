//! Taking and deleting snapshots.

use crate::pool::follow::{self, Delta};
use crate::pool::store::PoolStore;
use crate::pool::{objects, remove, take};
use crate::snapshots::garbage::Doomed;
use crate::snapshots::lost::{AGAIN, replace_files};
use crate::store::steady::{Seen, Steady};
use crate::volume::handle::{Volume, name_is_free};
use crate::volume::locked::LockedVolume;
use crate::volume::record::TakenFor;
use snapsync_manifest::{FILES, ObjectTable};
use snapsync_model::{Context, Error, Monitor, Provider, Result, Role, SnapshotInfo, Subset, Successor};
use snapsync_sys::{Spot, btrfs, fault, mounts_beneath, sync_filesystem};
use snapsync_walk::{Matcher, note_mounts};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use uuid::Uuid;

/// Which snapshot to take.
#[derive(Clone, Debug)]
pub enum Request {
    /// The next snapshot of this volume, named after the time by default. A subset also applies to later
    /// snapshots.
    New { name: Option<String>, subset: Option<Subset> },
    /// The same snapshot that another volume has, of an equal tree.
    Same(SnapshotInfo),
}

/// What is done around the moment of a snapshot, for as short as the snapshot takes.
pub trait Around {
    /// Just before the tree is looked at. If this fails no snapshot is taken.
    fn before(&self, _snapshot: &SnapshotInfo) -> Result<()> {
        Ok(())
    }

    /// As soon as the snapshot has been taken or has failed, also if `before` has.
    fn after(&self, _snapshot: &SnapshotInfo, _is_taken: bool) -> Result<()> {
        Ok(())
    }

    /// Whether it does anything.
    fn is_any(&self) -> bool {
        false
    }
}

impl Around for () {}

impl LockedVolume {
    /// Takes a snapshot.
    pub fn take(&mut self, request: Request, monitor: &Monitor) -> Result<SnapshotInfo> {
        self.take_around(request, &(), monitor)
    }

    /// Takes a snapshot, and does what belongs around it.
    pub fn take_around(
        &mut self,
        request: Request,
        around: &dyn Around,
        monitor: &Monitor,
    ) -> Result<SnapshotInfo> {
        let is_new = matches!(request, Request::New { .. });
        let info = self.describe(request)?;
        self.take_described(info, is_new, around, monitor)
    }

    fn take_described(
        &mut self,
        info: SnapshotInfo,
        is_new: bool,
        around: &dyn Around,
        monitor: &Monitor,
    ) -> Result<SnapshotInfo> {
        self.keep_what_is_only_in_tree(monitor)?;
        if info.provider == Provider::Btrfs && is_new {
            let mounts =
                mounts_beneath(&self.root().own_path()).context("read what is mounted in", self.path())?;
            note_mounts(&mounts, &Matcher::new(&info.subset)?, monitor)?;
        }
        if around.is_any() {
            // What is written out now does not have to be written while everything stands still.
            sync_filesystem(self.root().fd()).context("sync the file system of", self.path())?;
        }
        self.take_with(info, around, |store, subset, round, dir| {
            take::take(&store, subset, round, dir, monitor)
        })
    }

    /// Takes a snapshot that a standby is to have.
    pub fn take_for(
        &mut self,
        by: TakenFor,
        request: Request,
        around: &dyn Around,
        monitor: &Monitor,
    ) -> Result<SnapshotInfo> {
        let info = self.describe(request)?;
        self.note_taken_for(info.id, by)?;
        self.take_described(info, true, around, monitor)
    }

    /// Takes the snapshot that another volume has, after the changes since the last one were applied. `delta`
    /// says how the tree came to be, or why that is not known; `successors` are files that changed in place,
    /// and of which only that was kept.
    pub fn follow(
        &mut self,
        info: SnapshotInfo,
        delta: Result<Delta, &str>,
        successors: Vec<Successor>,
        monitor: &Monitor,
    ) -> Result<SnapshotInfo> {
        let info = self.describe(Request::Same(info))?;
        let successors = successors.into_iter().map(|successor| (successor.ino, successor)).collect();
        self.take_with(info, &(), |store, subset, round, dir| {
            follow::take(&PoolStore { successors, ..store }, subset, round, dir, delta, monitor)
        })
    }

    /// Takes a snapshot of the tree as it is, of what patterns let in. Nothing lists it until it is kept, and
    /// the next command removes it. What it is compared to is the newest of the line.
    pub fn probe(&mut self, prefix: &str, subset: Subset, monitor: &Monitor) -> Result<SnapshotInfo> {
        let (taken, now) = (self.snapshots()?, jiff::Timestamp::now());
        let newest = taken.iter().rfind(|snapshot| !snapshot.aside);
        let info = SnapshotInfo {
            id: Uuid::new_v4(),
            name: unused_name(prefix, &now, &taken),
            sequence: newest.map_or(0, |newest| newest.sequence),
            parent: newest.map(|newest| newest.id),
            created: now.to_string(),
            provider: self.info().provider,
            entries: None,
            bytes: None,
            subset,
            aside: true,
        };
        self.make(info, &(), |store, subset, round, dir| {
            take::take_whole(&store, subset, round, dir, monitor)
        })
    }

    /// Lists a probe as a snapshot that is kept aside.
    pub fn keep(&self, probe: &SnapshotInfo) -> Result<()> {
        self.record_snapshot(probe)?;
        let snapshots = self.store().join("snapshots");
        snapshots.sync().context("sync", snapshots.show())?;
        fault::point("snapshot.kept");
        Ok(())
    }

    /// Removes a probe.
    pub fn drop_probe(&self, probe: &SnapshotInfo) -> Result<()> {
        self.remove_incomplete(&self.dir_of(probe.id))
    }

    /// Keeps a snapshot of the line aside.
    pub fn set_aside(&self, info: &SnapshotInfo) -> Result<()> {
        self.record_snapshot(&SnapshotInfo { aside: true, ..info.clone() })?;
        fault::point("snapshot.aside");
        self.point_latest()
    }

    /// `table` writes the table of a pool snapshot.
    fn take_with(
        &mut self,
        info: SnapshotInfo,
        around: &dyn Around,
        table: impl FnOnce(PoolStore, &Subset, u64, &Spot) -> Result<objects::Counts>,
    ) -> Result<SnapshotInfo> {
        let is_standby = self.info().role == Role::Standby;
        if !is_standby {
            // What is in it now is of another moment.
            self.plain.forget();
        }
        let info = self.make(info, around, table)?;
        if is_standby {
            self.plain.forget();
        }
        self.note_taken(&info)?;
        self.record_snapshot(&info)?;
        let snapshots = self.store().join("snapshots");
        snapshots.sync().context("sync", snapshots.show())?;
        fault::point("snapshot.recorded");
        self.point_latest()?;
        if self.is_light() {
            self.read_as(info.id, Steady::Fresh(Seen::default()));
        }
        Ok(info)
    }

    /// Everything of a snapshot except its record.
    fn make(
        &mut self,
        mut info: SnapshotInfo,
        around: &dyn Around,
        table: impl FnOnce(PoolStore, &Subset, u64, &Spot) -> Result<objects::Counts>,
    ) -> Result<SnapshotInfo> {
        let dir = self.dir_of(info.id);
        dir.create_dir().context("create the directory", dir.show())?;
        fault::point("snapshot.begin");
        let taken = around.before(&info).and_then(|()| self.take_into(&dir, &info, table));
        let after = around.after(&info, taken.is_ok());
        if let Some(counts) = taken? {
            (info.entries, info.bytes) = (Some(counts.entries), Some(counts.bytes));
        }
        after?;
        fault::point("snapshot.table");
        Ok(info)
    }

    fn take_into(
        &mut self,
        dir: &Spot,
        info: &SnapshotInfo,
        table: impl FnOnce(PoolStore, &Subset, u64, &Spot) -> Result<objects::Counts>,
    ) -> Result<Option<objects::Counts>> {
        if info.provider == Provider::Btrfs {
            return self.take_btrfs(dir, "tree").map(|()| None);
        }
        let round = self.claim_round()?;
        write(dir, "round", round.to_string().as_bytes())?;
        table(self.as_pool_store()?, &info.subset, round, dir).map(Some)
    }

    /// The kernel writes out what is in memory alone before it makes a snapshot, and commits it.
    fn take_btrfs(&self, dir: &Spot, name: &str) -> Result<()> {
        let (volume, into) = (self.root(), dir.directory().context("open the directory", dir.show())?);
        if self.info().role == Role::Primary && self.snapshots()?.is_empty() {
            // The next comparison searches everything in the snapshot's own transaction. That should not be
            // the whole tree, as it is where somebody has just put it there.
            sync_filesystem(volume.fd()).context("sync the file system of", self.path())?;
        }
        btrfs::create_snapshot(volume.fd(), into, OsStr::new(name))
            .context("take a snapshot of", self.path())
            .map_err(|error| self.is_swapped_to(error))
    }

    /// Points `.snapsync/latest` to the newest snapshot, if snapshots are directories.
    pub(super) fn point_latest(&self) -> Result<()> {
        if self.info().provider != Provider::Btrfs {
            return Ok(());
        }
        // The link is in the tree, which may be read-only between rounds.
        self.unseal()?;
        let result = self.write_latest();
        self.seal()?;
        result
    }

    fn write_latest(&self) -> Result<()> {
        let (link, temporary) = (self.own().join("latest"), self.own().join("latest.new"));
        temporary.remove_file().context("remove", temporary.show())?;
        match self.line()?.last() {
            Some(info) => {
                let target = Path::new("store/snapshots").join(info.id.to_string()).join("tree");
                temporary.create_link(&target).context("create", temporary.show())?;
                temporary.rename(&link).context("replace", link.show())
            }
            None => remove_file(&link),
        }
    }

    /// Takes a snapshot again after the tree went back to it: what was made anew has other inodes, by which
    /// later snapshots are compared with this one. `delta` says how it went.
    pub fn take_again(
        &mut self,
        info: &SnapshotInfo,
        delta: Result<Delta, &str>,
        monitor: &Monitor,
    ) -> Result<()> {
        match info.provider {
            Provider::Btrfs => self.replace_tree(&self.dir_of(info.id)),
            Provider::Pool => self.replace_table(info, delta, monitor),
        }
    }

    fn replace_tree(&self, dir: &Spot) -> Result<()> {
        let (again, tree) = (dir.join(AGAIN), dir.join("tree"));
        self.take_btrfs(dir, AGAIN)?;
        fault::point("again.made");
        again.exchange(&tree).context("replace", tree.show())?;
        dir.sync().context("sync", dir.show())?;
        fault::point("again.replaced");
        self.settle(dir)
    }

    fn replace_table(
        &mut self,
        info: &SnapshotInfo,
        delta: Result<Delta, &str>,
        monitor: &Monitor,
    ) -> Result<()> {
        let dir = self.dir_of(info.id);
        let again = dir.join(AGAIN);
        // A killed delete may have left a list that does not belong to this one.
        remove_file(&dir.join("garbage"))?;
        dir.sync().context("sync", dir.show())?;
        again.create_dir().context("create the directory", again.show())?;
        let round = self.claim_round()?;
        write(&again, "round", round.to_string().as_bytes())?;
        let is_repaired = matches!(&delta, Ok(delta) if delta.base == info.id);
        let store = PoolStore { is_repaired, ..self.as_pool_store()? };
        follow::take(&store, &info.subset, round, &again, delta, monitor)?;
        self.put_absent(info, &dir, &again)?;
        self.replace_with_again(&dir, &self.objects_without(info, &again, monitor)?)
    }

    /// The objects that nothing needs once the table in `again` is that of a snapshot.
    pub(super) fn objects_without(
        &self,
        info: &SnapshotInfo,
        again: &Spot,
        monitor: &Monitor,
    ) -> Result<BTreeSet<u64>> {
        let now = Doomed { info: Some(info.clone()), dir: self.dir_of(info.id) };
        let mut objects = self.objects_of_only(&[now], monitor)?;
        ObjectTable::open(again)?.each(|object| _ = objects.remove(&object))?;
        Ok(objects)
    }

    /// Puts the table that was made in `again` in the place of a snapshot's, which named `garbage` alone.
    pub(super) fn replace_with_again(&self, dir: &Spot, garbage: &BTreeSet<u64>) -> Result<()> {
        fault::point("again.made");
        write_garbage(dir, garbage)?;
        replace_files(&dir.join(AGAIN), dir)?;
        fault::point("again.replaced");
        self.settle(dir)
    }

    /// Finishes or discards taking a snapshot again.
    pub(super) fn settle(&self, dir: &Spot) -> Result<()> {
        let again = dir.join(AGAIN);
        if self.info().provider == Provider::Btrfs {
            return delete_subvolume(dir, AGAIN);
        }
        let pool = self.store().join("pool");
        if dir.join("garbage").is_there() && !again.join(FILES[0]).is_there() {
            replace_files(&again, dir)?;
            remove_garbage(&pool, dir)?;
        } else if let Some(round) = read_round(&again) {
            remove::remove_round(&pool, round)?;
        }
        remove_file(&dir.join("garbage"))?;
        again.remove_tree().context("remove", again.show())
    }

    /// Its table first: without it nothing is looked for in the rest.
    pub(super) fn remove_snapshot_dir(&self, dir: &Spot) -> Result<()> {
        self.listed.forget();
        remove_file(&dir.join(FILES[0]))?;
        if dir.join("tree").is_there() {
            delete_subvolume(dir, "tree")?;
        }
        dir.remove_tree().context("remove", dir.show())
    }

    /// No complete snapshot can use the objects of an incomplete round.
    pub(super) fn remove_incomplete(&self, dir: &Spot) -> Result<()> {
        if let Some(round) = read_round(dir) {
            remove::remove_round(&self.store().join("pool"), round)?;
        }
        self.remove_snapshot_dir(dir)
    }
}

impl Volume {
    /// A standby gets its snapshots only from its primary.
    pub fn expect_primary(&self, verb: &str) -> Result<()> {
        if self.info().role == Role::Primary {
            return Ok(());
        }
        Err(Error::refused(
            format!("cannot {verb} {}: it is a standby", self.path().display()),
            "name its primary instead",
        ))
    }

    /// Determines id, name, sequence and parent of the next snapshot of the line.
    pub fn describe(&self, request: Request) -> Result<SnapshotInfo> {
        let provider = self.info().provider;
        let (name, subset) = match request {
            Request::Same(info) => {
                return Ok(SnapshotInfo { provider, entries: None, bytes: None, aside: false, ..info });
            }
            Request::New { name, subset } => (name, subset),
        };
        let taken = self.snapshots()?;
        let now = jiff::Timestamp::now();
        let name = match name {
            Some(name) => {
                name_is_free(&name, &taken)?;
                self.is_no_clone(&name)?;
                name
            }
            None => unused_name("", &now, &taken),
        };
        Ok(SnapshotInfo {
            id: Uuid::new_v4(),
            name,
            sequence: self.next_sequence(),
            parent: taken.iter().rfind(|s| !s.aside).map(|s| s.id),
            created: now.to_string(),
            provider,
            entries: None,
            bytes: None,
            subset: subset.unwrap_or_else(|| self.subset().clone()),
            aside: false,
        })
    }

    /// A name after the time that no snapshot has.
    pub fn unused_name(&self, prefix: &str) -> Result<String> {
        Ok(unused_name(prefix, &jiff::Timestamp::now(), &self.snapshots()?))
    }
}

fn delete_subvolume(dir: &Spot, name: &str) -> Result<()> {
    let parent = dir.directory().context("open the directory", dir.show())?;
    let deleted = btrfs::delete_subvolume(parent, OsStr::new(name));
    deleted.context("delete the subvolume", dir.join(name).show())
}

pub(super) fn write(dir: &Spot, name: &str, bytes: &[u8]) -> Result<()> {
    dir.write_file(name, bytes).context("write", dir.show())
}

/// Removes a file if it exists.
fn remove_file(spot: &Spot) -> Result<()> {
    spot.remove_file().context("remove", spot.show())
}

fn write_garbage(dir: &Spot, objects: &BTreeSet<u64>) -> Result<()> {
    let text: String = objects.iter().map(|object| format!("{object}\n")).collect();
    write(dir, "garbage", text.as_bytes())
}

/// Removes the objects that a snapshot's directory lists as unused by others.
fn remove_garbage(pool: &Spot, dir: &Spot) -> Result<()> {
    let list = dir.join("garbage");
    let Some(text) = list.read_if_there().context("read", list.show())? else { return Ok(()) };
    let text = String::from_utf8_lossy(&text);
    remove::remove_objects(pool, text.lines().filter_map(|line| line.parse().ok()))
}

fn read_round(dir: &Spot) -> Option<u64> {
    String::from_utf8(dir.join("round").read().ok()?).ok()?.parse().ok()
}

fn unused_name(prefix: &str, now: &jiff::Timestamp, taken: &[SnapshotInfo]) -> String {
    let name = format!("{prefix}{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let candidates = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}-{n}")));
    candidates.into_iter().find(|c| taken.iter().all(|s| s.name != *c)).unwrap_or(name)
}
