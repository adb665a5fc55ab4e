//! A volume that no other command works on meanwhile: only such a one can be changed.

use crate::store::bound::Bound;
use crate::store::frozen::Frozen;
use crate::store::steady::{Steady, TakenNow};
use crate::volume::handle::Volume;
use crate::volume::listed::Listed;
use crate::volume::record::{Absent, CloneRecord, RECORD, Record, is_none, read_record, unreadable};
use snapsync_model::{
    Accounts, Context, Error, History, Monitor, Promotions, Provider, Result, Role, SnapshotInfo, Subset,
};
use snapsync_sys::{Lock, Spot, btrfs};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a process that only checks whether the lock is free may hold it.
pub(crate) const GLANCE: Duration = Duration::from_millis(100);

/// A volume whose lock is held, whose record is what the command before has left, and whose store holds
/// nothing that an interrupted one left half done. `Volume::lock` makes one; dropped, it is free.
#[derive(Debug)]
pub struct LockedVolume {
    volume: Volume,
    _held: Held,
    recovered: Vec<String>,
}

/// While this is there, nobody else changes the volume.
#[derive(Debug)]
struct Held {
    _lock: Lock,
    listed: Arc<Listed>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.listed.end();
    }
}

impl Deref for LockedVolume {
    type Target = Volume;

    fn deref(&self) -> &Volume {
        &self.volume
    }
}

impl Volume {
    /// Waits for so long for another command to give the lock back.
    pub(super) fn take_lock(&self, patience: Duration, monitor: &Monitor) -> Result<Lock> {
        let (file, deadline) = (self.store().join("lock"), Instant::now() + patience);
        loop {
            if let Some(lock) = file.try_lock().context("lock", file.show())? {
                return Ok(lock);
            }
            monitor.check()?;
            if Instant::now() >= deadline {
                return Err(self.is_held(&file));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_held(&self, lock: &Spot) -> Error {
        let who = lock.locked_by().map(|who| format!(": {who}")).unwrap_or_default();
        Error::refused(
            format!("another command is working on {}{who}", self.path().display()),
            "wait until it has ended, then run this again",
        )
    }

    /// Whether another command has the lock.
    pub fn is_busy(&self) -> bool {
        self.store().join("lock").is_locked().unwrap_or(false)
    }
}

impl LockedVolume {
    pub(super) fn of(volume: Volume, lock: Lock) -> LockedVolume {
        let listed = Arc::new(Listed::under_lock());
        let held = Held { _lock: lock, listed: listed.clone() };
        LockedVolume { volume: Volume { listed, ..volume }, _held: held, recovered: Vec::new() }
    }

    /// With what others have changed since the volume was opened, and before anything is cleared. A store
    /// that is of no directory yet is of this one from then on.
    pub(crate) fn reloaded(volume: &Volume, patience: Duration, monitor: &Monitor) -> Result<LockedVolume> {
        let lock = volume.take_lock(patience, monitor)?;
        let record = read_record(&volume.store())?.ok_or_else(|| is_none(volume.path()))?;
        let mut locked = LockedVolume::of(Volume { record, ..volume.clone() }, lock);
        if locked.record.root.is_none() && Bound::of(locked.root())?.is_some() {
            locked.save()?;
        }
        Ok(locked)
    }

    pub(crate) fn note_recovered(&mut self, done: Vec<String>) {
        self.recovered = done;
    }

    /// What an interrupted command had left and was cleared when the lock was taken; told once.
    pub fn recovered(&mut self) -> Vec<String> {
        std::mem::take(&mut self.recovered)
    }

    /// Gives the lock back.
    pub fn unlock(self) -> Volume {
        self.volume
    }

    pub(super) fn record_mut(&mut self) -> &mut Record {
        &mut self.volume.record
    }

    pub(crate) fn save(&mut self) -> Result<()> {
        let store = self.store();
        // An older version cannot know everything that this one writes.
        self.volume.record.set_format();
        if let Some(now) = Bound::of(&self.volume.root)? {
            self.volume.record.root = Some(now);
        }
        let text = serde_json::to_vec_pretty(&self.volume.record).map_err(|e| unreadable(&store, &e))?;
        store.write_file(RECORD, &text).context("write the record of", store.show())
    }

    /// Restores the subset from before a deleted snapshot.
    pub fn restore_subset(&mut self, subset: Subset) -> Result<()> {
        if self.record.subset == subset {
            return Ok(());
        }
        self.volume.record.subset = subset;
        self.save()
    }

    /// Records that its primary was promoted: deltas of an older epoch are refused from now on.
    pub fn follow_epoch(&mut self, epoch: u64, promotions: Promotions) -> Result<()> {
        if epoch <= self.record.epoch {
            return Ok(());
        }
        (self.volume.record.epoch, self.volume.record.promotions) = (epoch, promotions);
        self.save()
    }

    /// Records that the tree is about to go back to a snapshot, which is taken again with what it then has.
    pub fn renumber(&mut self, snapshot: Uuid) -> Result<()> {
        if self.record.renumbered == Some(snapshot) {
            return Ok(());
        }
        self.volume.record.renumbered = Some(snapshot);
        self.save()
    }

    /// Records which numbers its users and groups have in place of those of the lineage. What has one keeps
    /// it.
    pub fn set_accounts(&mut self, accounts: Accounts) -> Result<()> {
        if self.record.accounts.as_ref().is_some_and(|before| !accounts.extends(before)) {
            let what = "the numbers of users and groups of a volume do not change";
            return Err(Error::failed(what, "report this"));
        }
        self.volume.record.accounts = Some(accounts);
        self.save()
    }

    /// The volume goes back to a snapshot: which numbers the lineage has for accounts that were met later,
    /// another volume decides.
    pub fn forget_accounts_after(&mut self, sequence: u64) -> Result<()> {
        let until = self.record.accounts.as_ref().and_then(|accounts| accounts.until(sequence));
        if self.record.accounts == until {
            return Ok(());
        }
        self.volume.record.accounts = until;
        self.save()
    }

    pub fn doubt(&mut self, doubted: BTreeSet<u64>) -> Result<()> {
        if self.record.doubted == doubted {
            return Ok(());
        }
        self.volume.record.doubted = doubted;
        self.save()
    }

    /// The next epoch and the promotions that lead to it, if this standby, which holds the snapshot `after`,
    /// is promoted.
    pub fn next_epoch(&self, after: Uuid) -> Result<(u64, Promotions)> {
        let at = jiff::Timestamp::now().to_string();
        let Record { epoch, id, .. } = self.record;
        self.record.promotions.promoted(epoch, Uuid::new_v4(), id, after, at)
    }

    /// Makes a standby the primary of a new epoch.
    pub fn become_primary(&mut self, raised: (u64, Promotions)) -> Result<()> {
        self.unseal()?;
        (self.volume.record.epoch, self.volume.record.promotions) = raised;
        self.volume.record.role = Role::Primary;
        self.volume.has_just_been_promoted = true;
        self.volume.record.forget_standbys();
        self.save()
    }

    /// Makes a primary a standby in the epoch of the primary that it is to follow.
    pub fn become_standby(&mut self, epoch: u64, promotions: Promotions) -> Result<()> {
        (self.volume.record.epoch, self.volume.record.promotions) = (epoch, promotions);
        self.volume.record.role = Role::Standby;
        self.volume.record.forget_standbys();
        self.save()
    }

    /// Makes a standby that has followed nobody yet one of this lineage.
    pub fn join_lineage(&mut self, lineage: Uuid, epoch: u64, promotions: Promotions) -> Result<()> {
        (self.volume.record.lineage, self.volume.record.epoch) = (lineage, epoch);
        self.volume.record.promotions = promotions;
        self.save()
    }

    pub(crate) fn note_history(&mut self, history: History) -> Result<()> {
        self.volume.record.history = Some(history);
        self.volume.record.for_parts = false;
        self.save()
    }

    /// How the snapshot is read that this command has just taken.
    pub(crate) fn read_as(&mut self, snapshot: Uuid, steady: Steady) {
        self.volume.taken_now = Some(TakenNow { snapshot, steady });
    }

    /// Reads `frozen` in place of the tree from now on; without one the tree again.
    pub fn read_in_place(&mut self, frozen: Option<Frozen>) {
        self.volume.frozen = frozen.map(Arc::new);
    }

    /// Sets whether a standby's tree is read-only between rounds.
    pub fn set_read_only(&mut self, read_only: bool) -> Result<()> {
        self.volume.record.read_only = read_only;
        self.save()?;
        if read_only { self.seal() } else { self.unseal() }
    }

    /// Makes a standby's tree read-only, if that is set, until `unseal`.
    pub fn seal(&self) -> Result<()> {
        let is_sealed = self.record.read_only && self.record.role == Role::Standby;
        if is_sealed { self.make_read_only(true) } else { Ok(()) }
    }

    /// Makes the tree writable if it was read-only between rounds.
    pub fn unseal(&self) -> Result<()> {
        self.make_read_only(false)
    }

    fn make_read_only(&self, read_only: bool) -> Result<()> {
        // A part does not own the tree.
        if self.record.provider != Provider::Btrfs || self.root.part().is_some() {
            return Ok(());
        }
        let (root, path) = (&self.root, self.path());
        let is = btrfs::is_read_only(root.fd()).context("read the flags of", path)?;
        if is == read_only {
            return Ok(());
        }
        let action = if read_only { "make read-only" } else { "make writable" };
        btrfs::set_read_only(root.fd(), read_only).context(action, path)
    }

    pub fn remember_clone(&mut self, name: &str, clone: CloneRecord) -> Result<()> {
        self.volume.record.clones.insert(name.to_owned(), clone);
        self.save()
    }

    pub fn forget_clone(&mut self, name: &str) -> Result<()> {
        self.volume.record.clones.remove(name);
        self.save()
    }

    pub fn hold(&mut self, id: Uuid, reason: String) -> Result<()> {
        self.volume.record.holds.insert(id, reason);
        self.save()
    }

    /// The reason of the hold, if there was one.
    pub fn release(&mut self, id: Uuid) -> Result<Option<String>> {
        let reason = self.volume.record.holds.remove(&id);
        self.save()?;
        Ok(reason)
    }

    pub(crate) fn record_snapshot(&self, info: &SnapshotInfo) -> Result<()> {
        let dir = self.dir_of(info.id);
        let text = serde_json::to_vec_pretty(info).map_err(|e| unreadable(&dir, &e))?;
        let written = dir.write_file("snapshot.json", &text);
        self.listed.forget();
        written.context("record the snapshot in", dir.show())
    }

    /// Adds the counts of a walk to a snapshot's record.
    pub fn record_counts(&self, info: &mut SnapshotInfo, entries: u64, bytes: u64) -> Result<()> {
        if (info.entries, info.bytes) == (Some(entries), Some(bytes)) {
            return Ok(());
        }
        (info.entries, info.bytes) = (Some(entries), Some(bytes));
        self.record_snapshot(info)
    }

    /// Records what follows from a new snapshot for the next one.
    pub(crate) fn note_taken(&mut self, info: &SnapshotInfo) -> Result<()> {
        self.volume.record.next_sequence = self.record.next_sequence.max(after(info.sequence, self.path())?);
        self.volume.record.subset.clone_from(&info.subset);
        self.save()
    }

    /// Which files of its newest snapshot the tree does not have.
    pub(crate) fn set_absent(&mut self, absent: Option<Absent>) -> Result<()> {
        if self.record.absent == absent {
            return Ok(());
        }
        self.volume.record.absent = absent;
        self.save()
    }

    /// All snapshots have their bytes in the pool.
    pub fn note_all_kept(&mut self) -> Result<()> {
        self.volume.record.partly_in_tree = false;
        self.save()
    }

    /// A number for the objects of one pool snapshot, never given again.
    pub fn claim_round(&mut self) -> Result<u64> {
        let round = self.record.next_round;
        self.volume.record.next_round = after(round, self.path())?;
        self.volume.record.partly_in_tree |= self.record.role == Role::Standby || self.is_light();
        self.save()?;
        Ok(round)
    }
}

/// The number after one from a file or a peer.
fn after(number: u64, volume: &Path) -> Result<u64> {
    number.checked_add(1).ok_or_else(|| {
        Error::integrity(
            format!("there is no number after {number} for a snapshot of {}", volume.display()),
            "its store says so, and is damaged: restore it from a backup, or make the volume anew",
        )
    })
}
