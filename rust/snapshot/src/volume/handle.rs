//! A volume and the records in its store.

use crate::store::frozen::Frozen;
use crate::store::steady::TakenNow;
use crate::volume::listed::Listed;
use crate::volume::moment::newest_at;
use crate::volume::record::{Absent, CloneRecord, Record, is_none, read_record, unreadable};
use snapsync_model::{
    Accounts, Context, Error, History, Origin, PlainFiles, Promotions, Provider, Result, Role, SnapshotInfo,
    Subset, VolumeInfo,
};
use snapsync_sys::{FileSystem, Root, Spot};
use snapsync_walk::STORE;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// A volume. Its root and its store are opened once, everything is done beneath them, and nothing is looked
/// up again.
#[derive(Clone, Debug)]
pub struct Volume {
    /// The root of its `.snapsync`.
    pub(crate) root: Arc<Root>,
    pub(crate) store: Arc<Root>,
    pub(super) record: Record,
    pub(crate) filesystem: FileSystem,
    /// By this command: nobody else has written to its tree since its last snapshot.
    pub(crate) has_just_been_promoted: bool,
    /// The snapshot that this command has just taken of a light primary.
    pub(crate) taken_now: Option<TakenNow>,
    /// What this command has seen of its tree's files.
    pub(crate) plain: Arc<PlainFiles>,
    pub(crate) listed: Arc<Listed>,
    /// What another command has made of its tree, and what is read in its place.
    pub(crate) frozen: Option<Arc<Frozen>>,
}

impl Volume {
    pub(super) fn of(root: Arc<Root>, store: Arc<Root>, record: Record, filesystem: FileSystem) -> Volume {
        Volume {
            root,
            store,
            record,
            filesystem,
            has_just_been_promoted: false,
            taken_now: None,
            plain: Arc::default(),
            listed: Arc::default(),
            frozen: None,
        }
    }

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
            history: self.record.history,
        }
    }

    /// How it is written, for messages: the path of its root, or `PATH@PART/` for a part of a tree.
    pub fn path(&self) -> &Path {
        self.root.title()
    }

    /// How one of its snapshots is written.
    pub fn address_of(&self, snapshot: &str) -> PathBuf {
        let mut address = OsString::from(self.path());
        address.push(if self.root.part().is_some() { "" } else { "@" });
        address.push(snapshot);
        address.into()
    }

    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// The tree that snapshots are taken of.
    pub fn tree(&self) -> &Arc<Root> {
        self.frozen.as_ref().map_or(&self.root, |frozen| &frozen.root)
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

    /// Its present description, which whoever holds the lock may change at any moment.
    pub fn info_now(&self) -> Result<VolumeInfo> {
        let record = read_record(&self.store())?.ok_or_else(|| is_none(self.path()))?;
        Ok(Volume { record, ..self.clone() }.info())
    }

    pub(crate) fn absent(&self) -> Option<&Absent> {
        self.record.absent.as_ref()
    }

    /// Whether its snapshots keep no bytes that the tree has no more: its standbys have them.
    pub fn is_light(&self) -> bool {
        self.record.role == Role::Primary && self.record.history == Some(History::Light)
    }

    /// Whether some snapshots may have bytes that only the tree holds.
    pub fn is_partly_in_tree(&self) -> bool {
        self.record.partly_in_tree
    }

    pub fn subset(&self) -> &Subset {
        &self.record.subset
    }

    /// The promotions that led to its epoch.
    pub fn promotions(&self) -> &Promotions {
        &self.record.promotions
    }

    /// The snapshot that was taken last with other inode numbers than it had before.
    pub fn renumbered(&self) -> Option<Uuid> {
        self.record.renumbered
    }

    /// Inodes that the next pool snapshot must read, whatever their times say.
    pub fn doubted(&self) -> &std::collections::BTreeSet<u64> {
        &self.record.doubted
    }

    /// Those of its tree's files of which this command has seen that they have nothing but data.
    pub fn plain_files(&self) -> &Arc<PlainFiles> {
        &self.plain
    }

    /// The numbers of its users and groups in place of those of its lineage; None where they are the same.
    pub fn accounts(&self) -> Option<&Accounts> {
        self.record.accounts.as_ref()
    }

    /// The same for one of its snapshots.
    pub fn accounts_of(&self, snapshot: &SnapshotInfo) -> Option<&Accounts> {
        self.accounts().filter(|accounts| accounts.begun <= snapshot.sequence)
    }

    pub fn is_read_only(&self) -> bool {
        self.record.read_only
    }

    /// The snapshots of the line, oldest first, without those that were kept aside.
    pub fn line(&self) -> Result<Vec<SnapshotInfo>> {
        let mut snapshots = self.snapshots()?;
        snapshots.retain(|snapshot| !snapshot.aside);
        Ok(snapshots)
    }

    /// Writable copies of snapshots by name; some may not exist any more.
    pub fn clones(&self) -> &BTreeMap<String, CloneRecord> {
        &self.record.clones
    }

    pub fn holds(&self) -> &BTreeMap<Uuid, String> {
        &self.record.holds
    }

    /// The complete snapshots, oldest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        if let Some(known) = self.listed.known() {
            return Ok(known);
        }
        let (dir, changes) = (self.store().join("snapshots"), self.listed.changes());
        let entries = dir.list().context("list", dir.show())?;
        let infos = entries.iter().filter_map(|entry| info_in(&dir.join(&entry.name)).transpose());
        let snapshots = in_order(infos.collect::<Result<_>>()?);
        self.listed.keep(&snapshots, changes);
        Ok(snapshots)
    }

    /// The snapshot with this id.
    pub fn snapshot(&self, id: Uuid) -> Result<Option<SnapshotInfo>> {
        match self.listed.known() {
            Some(known) => Ok(known.into_iter().find(|info| info.id == id)),
            None => info_in(&self.dir_of(id)),
        }
    }

    /// Whether the snapshot with this id is on the list: one that is deleted goes from it before its bytes.
    pub fn lists(&self, id: Uuid) -> bool {
        self.dir_of(id).join("snapshot.json").is_there()
    }

    /// The snapshot that `name` means: a name, an id, a sequence number, `latest`, or a date or time.
    pub fn find_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        find_among(self.snapshots()?, name, &self.path().display().to_string())
    }

    /// Whether a snapshot is called so, by anything but a date or time.
    pub fn has_called(&self, name: &str) -> bool {
        let found = self.snapshots().and_then(|all| called(&all, name, &self.path().display().to_string()));
        found.is_ok_and(|found| found.is_some())
    }

    pub(crate) fn dir_of(&self, id: Uuid) -> Spot {
        self.store().join("snapshots").join(id.to_string())
    }

    /// The identity of a snapshot's subvolume for `btrfs send`.
    pub fn origin_of(&self, info: &SnapshotInfo) -> Option<Origin> {
        crate::received::identity::identity_in(&self.tree_of(info)?.tree().ok()?).ok()??.origin
    }

    /// The directory that holds a snapshot's tree, if it is one.
    pub fn tree_of(&self, info: &SnapshotInfo) -> Option<Spot> {
        (info.provider == Provider::Btrfs).then(|| self.dir_of(info.id).join("tree"))
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.record.next_sequence
    }
}

/// The record of the snapshot whose directory this is; None if it is of none that is complete.
pub(crate) fn info_in(dir: &Spot) -> Result<Option<SnapshotInfo>> {
    let file = dir.join("snapshot.json");
    match file.read() {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e).context("read", file.show()),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| unreadable(&file, &e)),
    }
}

/// Oldest first.
pub(crate) fn in_order(mut snapshots: Vec<SnapshotInfo>) -> Vec<SnapshotInfo> {
    snapshots.sort_by_key(|info| (info.sequence, info.id));
    snapshots
}

/// Refuses a snapshot name that is taken, or could be taken for a path, a number or a word.
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

/// The snapshot of a volume or a log, called `show`, that a name, an id, a number, `latest` or `-N` means, or
/// a date or time: then it is the newest of the line at or before it.
pub fn find_among(mut snapshots: Vec<SnapshotInfo>, name: &str, show: &str) -> Result<SnapshotInfo> {
    let at = match called(&snapshots, name, show)? {
        Some(at) => Some(at),
        None => newest_at(&snapshots, name, show)?,
    };
    at.map(|at| snapshots.swap_remove(at)).ok_or_else(|| {
        Error::usage(
            format!("{show} has no snapshot {name:?}"),
            format!("`snapsync list {show}` shows those it has"),
        )
    })
}

/// How many snapshots before the newest are meant: none by `latest`, N by `-N`.
fn before_newest(name: &str) -> Option<usize> {
    if name == "latest" { Some(0) } else { name.strip_prefix('-')?.parse().ok() }
}

/// The place of the snapshot that is so many before the newest of the line.
fn nth_of_line(snapshots: &[SnapshotInfo], before: usize) -> Option<usize> {
    let line = snapshots.iter().enumerate().rev().filter(|(_, snapshot)| !snapshot.aside);
    line.map(|(at, _)| at).nth(before)
}

/// The place of the snapshot that is called so.
fn called(snapshots: &[SnapshotInfo], name: &str, show: &str) -> Result<Option<usize>> {
    // A primary may reuse a name that its standby still knows.
    if snapshots.iter().filter(|s| s.name == name).count() > 1 {
        return Err(Error::usage(
            format!("{show} has more than one snapshot named {name:?}"),
            "name it by its id or sequence number",
        ));
    }
    Ok(snapshots
        .iter()
        .position(|s| s.name == name)
        .or_else(|| snapshots.iter().position(|s| s.id.to_string() == name))
        .or_else(|| snapshots.iter().position(|s| !s.aside && s.sequence.to_string() == name))
        .or_else(|| before_newest(name).and_then(|before| nth_of_line(snapshots, before))))
}
