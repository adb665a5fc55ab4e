//! A volume and the records in its store.

use crate::store::bound::Bound;
use crate::volume::record::{CloneRecord, Record, STORE_FORMAT, is_none, read_record, unreadable};
use snapsync_model::{
    Context, Error, Monitor, Origin, Promotions, Provider, Result, Role, SnapshotInfo, Subset, VolumeInfo,
};
use snapsync_sys::{FileSystem, Lock, Root, Spot, btrfs};
use snapsync_walk::STORE;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// For so long those have a lock who only look whether another has it.
const GLANCE: Duration = Duration::from_millis(100);

/// Its root and its store are opened once: whatever is done with it is done beneath them, and nothing is
/// looked for again.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Holds its `.snapsync`.
    pub(crate) root: Arc<Root>,
    pub(crate) store: Arc<Root>,
    pub(crate) record: Record,
    pub(crate) filesystem: FileSystem,
    /// By this command: nobody else has written to its tree since its last snapshot.
    pub(crate) has_just_been_promoted: bool,
}

impl Volume {
    pub fn info(&self) -> VolumeInfo {
        VolumeInfo {
            path: self.path().to_path_buf(),
            id: self.record.id,
            lineage: self.record.lineage,
            epoch: self.record.epoch,
            role: self.record.role,
            provider: self.record.provider,
            filesystem: self.filesystem.name(),
            subset: self.record.subset.clone(),
        }
    }

    /// The path of its root: for messages.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    pub fn store(&self) -> Spot {
        Spot::top(self.store.clone())
    }

    /// Its `.snapsync`.
    pub(crate) fn own(&self) -> Spot {
        Spot::top(self.root.clone()).join(STORE)
    }

    pub fn filesystem(&self) -> FileSystem {
        self.filesystem
    }

    /// Keeps every other command that writes away, until dropped.
    pub fn lock(&self) -> Result<Lock> {
        self.lock_within(GLANCE, &Monitor::default())
    }

    /// The same, and waits for so long for another to give it back.
    pub fn lock_within(&self, patience: Duration, monitor: &Monitor) -> Result<Lock> {
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

    /// Whether another command holds the lock.
    pub fn is_busy(&self) -> bool {
        self.store().join("lock").is_locked().unwrap_or(false)
    }

    /// What changed since it was opened, by a command that held the lock before. The caller holds it now: a
    /// store that is of no directory yet is of this one from then on.
    pub fn reload(&mut self) -> Result<()> {
        self.record = read_record(&self.store())?.ok_or_else(|| is_none(self.path()))?;
        if self.record.root.is_none() && Bound::of(&self.root)?.is_some() { self.save() } else { Ok(()) }
    }

    /// What it is by now: who has the lock may make it another at once.
    pub fn info_now(&self) -> Result<VolumeInfo> {
        let record = read_record(&self.store())?.ok_or_else(|| is_none(self.path()))?;
        Ok(Volume { record, ..self.clone() }.info())
    }

    /// Whether some snapshots may have bytes that only the tree holds.
    pub fn is_partly_in_tree(&self) -> bool {
        self.record.partly_in_tree
    }

    pub fn subset(&self) -> &Subset {
        &self.record.subset
    }

    /// Goes back to the subset from before a snapshot that is no more.
    pub fn restore_subset(&mut self, subset: Subset) -> Result<()> {
        if self.record.subset == subset {
            return Ok(());
        }
        self.record.subset = subset;
        self.save()
    }

    /// How its epoch came to be.
    pub fn promotions(&self) -> &Promotions {
        &self.record.promotions
    }

    /// Its primary was promoted: deltas of an older epoch are refused from now on.
    pub fn follow_epoch(&mut self, epoch: u64, promotions: Promotions) -> Result<()> {
        if epoch <= self.record.epoch {
            return Ok(());
        }
        (self.record.epoch, self.record.promotions) = (epoch, promotions);
        self.save()
    }

    /// Inodes that the next pool snapshot is to read, whatever their times say.
    pub fn doubted(&self) -> &std::collections::BTreeSet<u64> {
        &self.record.doubted
    }

    pub fn doubt(&mut self, doubted: std::collections::BTreeSet<u64>) -> Result<()> {
        if self.record.doubted == doubted {
            return Ok(());
        }
        self.record.doubted = doubted;
        self.save()
    }

    /// Makes a standby that holds the snapshot `after` the primary of a new epoch.
    pub fn become_primary(&mut self, after: Uuid) -> Result<()> {
        let at = jiff::Timestamp::now().to_string();
        let Record { epoch, id, .. } = self.record;
        let raised = self.record.promotions.promoted(epoch, Uuid::new_v4(), id, after, at)?;
        self.unseal()?;
        (self.record.epoch, self.record.promotions) = raised;
        self.record.role = Role::Primary;
        self.has_just_been_promoted = true;
        self.forget_standbys();
        self.save()
    }

    /// Makes a primary a standby in the epoch of the primary that it is to follow.
    pub fn become_standby(&mut self, epoch: u64, promotions: Promotions) -> Result<()> {
        (self.record.epoch, self.record.promotions) = (epoch, promotions);
        self.record.role = Role::Standby;
        self.forget_standbys();
        self.save()
    }

    /// Makes a standby that has followed nobody yet one of this lineage.
    pub fn join_lineage(&mut self, lineage: Uuid, epoch: u64, promotions: Promotions) -> Result<()> {
        (self.record.lineage, self.record.epoch) = (lineage, epoch);
        self.record.promotions = promotions;
        self.save()
    }

    pub fn is_read_only(&self) -> bool {
        self.record.read_only
    }

    /// Whether a standby's tree is to be read-only between rounds.
    pub fn set_read_only(&mut self, read_only: bool) -> Result<()> {
        self.record.read_only = read_only;
        self.save()?;
        if read_only { self.seal() } else { self.unseal() }
    }

    /// Makes a standby's tree read-only if it is to be, until `unseal`.
    pub fn seal(&self) -> Result<()> {
        let is_sealed = self.record.read_only && self.record.role == Role::Standby;
        if is_sealed { self.make_read_only(true) } else { Ok(()) }
    }

    /// Makes the tree writable, where it was read-only between rounds.
    pub fn unseal(&self) -> Result<()> {
        self.make_read_only(false)
    }

    fn make_read_only(&self, read_only: bool) -> Result<()> {
        if self.record.provider != Provider::Btrfs {
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

    /// The snapshots of the line, oldest first: without those that were kept aside.
    pub fn line(&self) -> Result<Vec<SnapshotInfo>> {
        let mut snapshots = self.snapshots()?;
        snapshots.retain(|snapshot| !snapshot.aside);
        Ok(snapshots)
    }

    /// Writable copies of snapshots, by name; some may be gone.
    pub fn clones(&self) -> &BTreeMap<String, CloneRecord> {
        &self.record.clones
    }

    pub fn remember_clone(&mut self, name: &str, clone: CloneRecord) -> Result<()> {
        self.record.clones.insert(name.to_owned(), clone);
        self.save()
    }

    pub fn forget_clone(&mut self, name: &str) -> Result<()> {
        self.record.clones.remove(name);
        self.save()
    }

    pub fn holds(&self) -> &BTreeMap<Uuid, String> {
        &self.record.holds
    }

    pub fn hold(&mut self, id: Uuid, reason: String) -> Result<()> {
        self.record.holds.insert(id, reason);
        self.save()
    }

    /// Why it was held, if it was.
    pub fn release(&mut self, id: Uuid) -> Result<Option<String>> {
        let reason = self.record.holds.remove(&id);
        self.save()?;
        Ok(reason)
    }

    /// The complete snapshots, oldest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let dir = self.store().join("snapshots");
        let mut snapshots = Vec::new();
        for entry in dir.list().context("list", dir.show())? {
            let file = dir.join(&entry.name).join("snapshot.json");
            match file.read() {
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(e).context("read", file.show()),
                Ok(text) => snapshots.push(serde_json::from_slice(&text).map_err(|e| unreadable(&file, &e))?),
            }
        }
        snapshots.sort_by_key(|s: &SnapshotInfo| (s.sequence, s.id));
        Ok(snapshots)
    }

    /// The snapshot that `name` means: a name, an id, a sequence number, or `latest`.
    pub fn find_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let mut snapshots = self.snapshots()?;
        // A primary may give a name again that its standby still knows.
        if snapshots.iter().filter(|s| s.name == name).count() > 1 {
            return Err(Error::usage(
                format!("{} has more than one snapshot named {name:?}", self.path().display()),
                "name it by its id or sequence number",
            ));
        }
        let at = snapshots
            .iter()
            .position(|s| s.name == name)
            .or_else(|| snapshots.iter().position(|s| s.id.to_string() == name))
            .or_else(|| snapshots.iter().position(|s| !s.aside && s.sequence.to_string() == name))
            .or_else(|| (name == "latest").then(|| snapshots.iter().rposition(|s| !s.aside)).flatten());
        at.map(|at| snapshots.swap_remove(at)).ok_or_else(|| {
            Error::usage(
                format!("{} has no snapshot {name:?}", self.path().display()),
                format!("`snapsync list {}` shows those it has", self.path().display()),
            )
        })
    }

    pub(crate) fn dir_of(&self, id: Uuid) -> Spot {
        self.store().join("snapshots").join(id.to_string())
    }

    /// Who a snapshot's subvolume is to `btrfs send`.
    pub fn origin_of(&self, info: &SnapshotInfo) -> Option<Origin> {
        crate::received::identity::identity_in(&self.tree_of(info)?.tree().ok()?).ok()??.origin
    }

    /// The directory that holds a snapshot's tree, where it is one.
    pub fn tree_of(&self, info: &SnapshotInfo) -> Option<Spot> {
        (info.provider == Provider::Btrfs).then(|| self.dir_of(info.id).join("tree"))
    }

    pub(crate) fn record_snapshot(&self, info: &SnapshotInfo) -> Result<()> {
        let dir = self.dir_of(info.id);
        let text = serde_json::to_vec_pretty(info).map_err(|e| unreadable(&dir, &e))?;
        dir.write_file("snapshot.json", &text).context("record the snapshot in", dir.show())
    }

    /// Adds what a walk counted to a snapshot's record.
    pub fn record_counts(&self, info: &mut SnapshotInfo, entries: u64, bytes: u64) -> Result<()> {
        if (info.entries, info.bytes) == (Some(entries), Some(bytes)) {
            return Ok(());
        }
        (info.entries, info.bytes) = (Some(entries), Some(bytes));
        self.record_snapshot(info)
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.record.next_sequence
    }

    /// What a snapshot that was taken says of the next one.
    pub(crate) fn note_taken(&mut self, info: &SnapshotInfo) -> Result<()> {
        self.record.next_sequence = self.record.next_sequence.max(after(info.sequence, self.path())?);
        self.record.subset.clone_from(&info.subset);
        self.save()
    }

    /// A number for the objects of one pool snapshot, never given again.
    pub(crate) fn claim_round(&mut self) -> Result<u64> {
        let round = self.record.next_round;
        self.record.next_round = after(round, self.path())?;
        self.record.partly_in_tree |= self.record.role == Role::Standby;
        self.save()?;
        Ok(round)
    }

    pub(crate) fn save(&mut self) -> Result<()> {
        let store = self.store();
        // An older version cannot know all that this one writes.
        self.record.format = STORE_FORMAT;
        if let Some(now) = Bound::of(&self.root)? {
            self.record.root = Some(now);
        }
        let text = serde_json::to_vec_pretty(&self.record).map_err(|e| unreadable(&store, &e))?;
        store.write_file("volume.json", &text).context("write the record of", store.show())
    }
}

/// The number after one that a file or a peer has told.
fn after(number: u64, volume: &Path) -> Result<u64> {
    number.checked_add(1).ok_or_else(|| {
        Error::integrity(
            format!("there is no number after {number} for a snapshot of {}", volume.display()),
            "its store says so, and is damaged: restore it from a backup, or make the volume anew",
        )
    })
}

/// Whether a name can be given to a snapshot: one that cannot be taken for a path, a number or a word.
pub fn name_is_free(name: &str, taken: &[SnapshotInfo]) -> Result<()> {
    if !snapsync_model::can_name_snapshot(name) {
        return Err(Error::usage(
            format!("{name:?} cannot be the name of a snapshot"),
            "use at most 200 bytes of characters that are seen, without `/` or `@`; not only digits, not \
             `latest`, and no \
             `-` or `.` in front",
        ));
    }
    if taken.iter().any(|s| s.name == name) {
        return Err(Error::usage(
            format!("there is a snapshot named {name:?} already"),
            "choose another name, or delete that one first",
        ));
    }
    Ok(())
}
