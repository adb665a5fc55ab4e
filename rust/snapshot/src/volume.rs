//! A volume and the records in its store.

use crate::clones::Clones;
use crate::standbys::TakenFor;
use crate::{CloneRecord, STORE_FORMAT, Standby};
use serde::{Deserialize, Serialize};
use snapsync_model::{
    Context, Error, Monitor, Origin, Provider, Result, Role, Side, SnapshotInfo, Subset, VolumeInfo,
};
use snapsync_sys::{Entry, FileSystem, Lock, Root, btrfs, fault, is_locked, stat_of, write_file};
use snapsync_walk::{STORE, Tree, locked_away};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What a primary knows of the one that was promoted in its stead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    pub epoch: u64,
    /// Where it was met, or a standby that follows it.
    pub path: String,
}

/// `volume.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    id: Uuid,
    lineage: Uuid,
    epoch: u64,
    role: Role,
    provider: Provider,
    /// Never given twice, even when snapshots are deleted.
    next_sequence: u64,
    /// Each pool snapshot puts its objects in a directory of its own, never used twice.
    next_round: u64,
    #[serde(default)]
    pub(crate) standbys: BTreeMap<Uuid, Standby>,
    /// Snapshots that rounds took, until their standbys have them or do not need them any more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) taken_for: BTreeMap<Uuid, TakenFor>,
    /// What its primary knows this standby by, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
    /// Snapshots that somebody wants to stay, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    holds: BTreeMap<Uuid, String>,
    /// That of the newest snapshot, and so of the next where no other is asked for.
    #[serde(default, skip_serializing_if = "Subset::is_everything")]
    subset: Subset,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<Replaced>,
    /// While it is a standby, its tree is read-only between rounds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    /// By name.
    #[serde(default, skip_serializing_if = "Clones::is_empty")]
    clones: Clones,
    /// Inodes whose rows are not to be believed: their bytes changed, and nothing else told it.
    #[serde(default, skip_serializing_if = "std::collections::BTreeSet::is_empty")]
    doubted: std::collections::BTreeSet<u64>,
}

/// Only what every format has, to tell a newer one.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Clone, Debug)]
pub struct Volume {
    path: PathBuf,
    pub(crate) record: Record,
    filesystem: FileSystem,
}

impl Volume {
    /// None where the directory has no store.
    pub fn find(path: &Path) -> Result<Option<Volume>> {
        let file = path.join(STORE).join("store/volume.json");
        let text = match std::fs::read(&file) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return if is_locked_away(path) { Err(locked_away(path)) } else { Ok(None) };
            }
            other => other.context("read", &file)?,
        };
        let record = read_record(&file, &text)?;
        let root = Root::open(path)?;
        let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", path)?;
        Ok(Some(Volume { path: path.to_path_buf(), record, filesystem }))
    }

    pub fn open(path: &Path) -> Result<Volume> {
        if let Some(found) = Volume::find(path)? {
            return Ok(found);
        }
        Volume::expect_own_store(path)?;
        Err({
            Error::usage(
                format!("{} is not a volume: it has no store", path.display()),
                "make it one with `snapsync snapshot` or `snapsync sync`",
            )
        })
    }

    /// Gives a directory a store. A store that a crash left half made is completed. The directory's own
    /// modification time stays what it was.
    pub fn init(path: &Path, role: Role, lineage: Uuid, epoch: u64) -> Result<Volume> {
        crate::restoring::none_in(path)?;
        Volume::expect_own_store(path)?;
        let root = Root::open(path)?;
        let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", path)?;
        let subvolume = btrfs::is_subvolume(root.fd()).context("read the subvolume of", path)?;
        let top = Entry::from_open(root.fd().try_clone_to_owned().context("open", path)?);
        let before = top.stat().context("read the attributes of", path)?;
        // Where its time could not be put back, nothing is made in it.
        top.set_mtime(before.attributes.mtime).context("set the time of", path)?;
        let record = Record {
            format: STORE_FORMAT,
            id: Uuid::new_v4(),
            lineage,
            epoch,
            role,
            provider: if subvolume { Provider::Btrfs } else { Provider::Pool },
            next_sequence: 0,
            next_round: 1,
            standbys: BTreeMap::new(),
            taken_for: BTreeMap::new(),
            secret: None,
            holds: BTreeMap::new(),
            subset: Subset::default(),
            replaced: None,
            read_only: false,
            clones: Clones::new(),
            doubted: std::collections::BTreeSet::new(),
        };
        let mut volume = Volume { path: path.to_path_buf(), record, filesystem };
        volume.make_store(subvolume)?;
        let _lock = volume.lock()?;
        if Volume::find(path)?.is_some() {
            return Err(Error::refused(
                format!("another command has just made {} a volume", path.display()),
                "run this again",
            ));
        }
        top.set_time(&before.attributes).context("set the time of", path)?;
        fault::point("init.store");
        volume.save()?;
        Ok(volume)
    }

    fn make_store(&self, subvolume: bool) -> Result<()> {
        let (dir, store) = (self.path.join(STORE), self.store());
        make_dir(&dir)?;
        rustix::fs::chmod(&dir, rustix::fs::Mode::from_raw_mode(0o700)).context("set the mode of", &dir)?;
        if subvolume && !store.exists() {
            let parent = Root::open(&dir)?;
            btrfs::create_subvolume(parent.fd(), OsStr::new("store"))
                .context("create the subvolume", &store)?;
        }
        [store.clone(), store.join("snapshots"), store.join("pool")].iter().try_for_each(|dir| make_dir(dir))
    }

    /// Takes away a store that holds no snapshot, as if it had never been made.
    pub fn remove_store(self) -> Result<()> {
        let (root, dir) = (Root::open(&self.path)?, self.path.join(STORE));
        let top = Entry::from_open(root.fd().try_clone_to_owned().context("open", &self.path)?);
        let before = top.stat().context("read the attributes of", &self.path)?;
        if self.record.provider == Provider::Btrfs {
            let parent = Root::open(&dir)?;
            btrfs::delete_subvolume(parent.fd(), OsStr::new("store"))
                .context("delete the subvolume", &dir)?;
        }
        snapsync_sys::remove_tree(root.fd(), OsStr::new(STORE)).context("remove", &dir)?;
        top.set_time(&before.attributes).context("set the time of", &self.path)
    }

    pub fn info(&self) -> VolumeInfo {
        VolumeInfo {
            path: self.path.clone(),
            id: self.record.id,
            lineage: self.record.lineage,
            epoch: self.record.epoch,
            role: self.record.role,
            provider: self.record.provider,
            filesystem: self.filesystem.name(),
            subset: self.record.subset.clone(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn store(&self) -> PathBuf {
        self.path.join(STORE).join("store")
    }

    pub fn filesystem(&self) -> FileSystem {
        self.filesystem
    }

    /// Keeps every other command that writes away, until dropped.
    pub fn lock(&self) -> Result<Lock> {
        let file = self.store().join("lock");
        Lock::try_exclusive(&file).context("lock", &file)?.ok_or_else(|| {
            Error::refused(
                format!("another command is working on {}", self.path.display()),
                "wait until it has ended, then run this again",
            )
        })
    }

    /// Whether another command holds the lock.
    pub fn is_busy(&self) -> bool {
        matches!(Lock::try_exclusive(&self.store().join("lock")), Ok(None))
    }

    /// What changed since it was opened, by a command that held the lock before.
    pub fn reload(&mut self) -> Result<()> {
        *self = Volume::open(&self.path)?;
        Ok(())
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

    /// Its primary was promoted: deltas of an older epoch are refused from now on.
    pub fn follow_epoch(&mut self, epoch: u64) -> Result<()> {
        if epoch <= self.record.epoch {
            return Ok(());
        }
        self.record.epoch = epoch;
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

    pub fn replaced(&self) -> Option<&Replaced> {
        self.record.replaced.as_ref()
    }

    /// Another primary of this lineage was met, with a higher epoch.
    pub fn note_replaced(&mut self, replaced: Replaced) -> Result<()> {
        self.record.replaced = Some(replaced);
        self.save()
    }

    /// Makes a standby the primary of a new epoch.
    pub fn become_primary(&mut self) -> Result<()> {
        self.unseal()?;
        self.record.epoch += 1;
        self.record.role = Role::Primary;
        self.forget_standbys();
        self.save()
    }

    /// Makes a primary a standby in the epoch of the primary that it is to follow.
    pub fn become_standby(&mut self, epoch: u64) -> Result<()> {
        self.record.epoch = epoch;
        self.record.role = Role::Standby;
        self.record.replaced = None;
        self.forget_standbys();
        self.save()
    }

    /// Makes a standby that has followed nobody yet one of this lineage.
    pub fn join_lineage(&mut self, lineage: Uuid, epoch: u64) -> Result<()> {
        (self.record.lineage, self.record.epoch) = (lineage, epoch);
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
        let root = Root::open(&self.path)?;
        let is = btrfs::is_read_only(root.fd()).context("read the flags of", &self.path)?;
        if is == read_only {
            return Ok(());
        }
        let action = if read_only { "make read-only" } else { "make writable" };
        btrfs::set_read_only(root.fd(), read_only).context(action, &self.path)
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
        for entry in std::fs::read_dir(&dir).context("list", &dir)? {
            let file = entry.context("list", &dir)?.path().join("snapshot.json");
            match std::fs::read(&file) {
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(e).context("read", &file),
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
                format!("{} has more than one snapshot named {name:?}", self.path.display()),
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
                format!("{} has no snapshot {name:?}", self.path.display()),
                format!("`snapsync list {}` shows those it has", self.path.display()),
            )
        })
    }

    pub(crate) fn dir_of(&self, id: Uuid) -> PathBuf {
        self.store().join("snapshots").join(id.to_string())
    }

    /// Where manifests are while their deltas travel; removed with all that is in it by the next command.
    pub fn outgoing(&self) -> PathBuf {
        self.store().join("outgoing")
    }

    /// Who a snapshot's subvolume is to `btrfs send`.
    pub fn origin_of(&self, info: &SnapshotInfo) -> Option<Origin> {
        crate::identity_of(&self.tree_of(info)?).ok()??.origin
    }

    /// The directory that holds a snapshot's tree, where it is one.
    pub fn tree_of(&self, info: &SnapshotInfo) -> Option<PathBuf> {
        (info.provider == Provider::Btrfs).then(|| self.dir_of(info.id).join("tree"))
    }

    /// Opens a snapshot to be compared or read.
    pub fn open_snapshot(&self, info: &SnapshotInfo, monitor: &Monitor) -> Result<Box<dyn Side>> {
        self.expect_there(info)?;
        let dir = self.dir_of(info.id);
        Ok(match info.provider {
            Provider::Btrfs => Box::new(Tree::walk(&dir.join("tree"), &info.subset, monitor)?),
            Provider::Pool => Box::new(self.open_pool(info)?),
        })
    }

    pub(crate) fn open_pool(&self, info: &SnapshotInfo) -> Result<crate::PoolSnapshot> {
        self.expect_there(info)?;
        crate::PoolSnapshot::open(&self.dir_of(info.id), self.store().join("pool"), self.filesystem)
    }

    pub(crate) fn record_snapshot(&self, info: &SnapshotInfo) -> Result<()> {
        let dir = self.dir_of(info.id);
        let text = serde_json::to_vec_pretty(info).map_err(|e| unreadable(&dir, &e))?;
        write_file(&dir, "snapshot.json", &text).context("record the snapshot in", &dir)
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
        self.record.next_sequence = self.record.next_sequence.max(info.sequence + 1);
        self.record.subset.clone_from(&info.subset);
        self.save()
    }

    /// A number for the objects of one pool snapshot, never given again.
    pub(crate) fn claim_round(&mut self) -> Result<u64> {
        let round = self.record.next_round;
        self.record.next_round += 1;
        self.save()?;
        Ok(round)
    }

    pub(crate) fn save(&mut self) -> Result<()> {
        let store = self.store();
        // An older version cannot know all that this one writes.
        self.record.format = STORE_FORMAT;
        let text = serde_json::to_vec_pretty(&self.record).map_err(|e| unreadable(&store, &e))?;
        write_file(&store, "volume.json", &text).context("write the record of", &store)
    }
}

/// Whether there may be a store that cannot be seen.
fn is_locked_away(path: &Path) -> bool {
    let Ok(root) = Root::open(path) else { return false };
    stat_of(root.fd()).is_ok_and(|top| top.encrypted) && is_locked(root.fd()).unwrap_or(false)
}

fn read_record(file: &Path, text: &[u8]) -> Result<Record> {
    let found: Format = serde_json::from_slice(text).map_err(|e| unreadable(file, &e))?;
    if found.format > STORE_FORMAT {
        return Err(Error::refused(
            format!(
                "the store of {} has format {}, and this version knows formats up to {STORE_FORMAT}",
                file.ancestors().nth(3).unwrap_or(file).display(),
                found.format
            ),
            "use the newer snapsync that made it",
        ));
    }
    serde_json::from_slice(text).map_err(|e| unreadable(file, &e))
}

fn unreadable(file: &Path, error: &serde_json::Error) -> Error {
    Error::integrity(
        format!("cannot understand {}: {error}", file.display()),
        "the store is damaged: restore that file from a backup, or make the volume anew",
    )
}

fn make_dir(dir: &Path) -> Result<()> {
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        other => other.context("create the directory", dir),
    }
}

/// Whether a directory holds nothing: a store without a record, which a crash can leave, and the empty
/// `lost+found` of a new file system do not count.
pub fn is_vacant(path: &Path) -> Result<bool> {
    let root = Root::open(path)?;
    for entry in snapsync_sys::read_dir(root.fd()).context("read the directory", path)? {
        let empty_dir = || std::fs::read_dir(path.join("lost+found")).is_ok_and(|mut d| d.next().is_none());
        let is_lost_found = *entry.name == *b"lost+found" && empty_dir();
        if *entry.name != *STORE.as_bytes() && !is_lost_found {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a name can be given to a snapshot: one that cannot be taken for a path, a number or a word.
pub fn name_is_free(name: &str, taken: &[SnapshotInfo]) -> Result<()> {
    if !snapsync_model::can_name_snapshot(name) {
        return Err(Error::usage(
            format!("{name:?} cannot be the name of a snapshot"),
            "use at most 200 bytes of characters that are seen, without `/` or `@`; not only digits, not `latest`, and no \
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
