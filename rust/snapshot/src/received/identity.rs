//! The identity of a received snapshot.

use crate::store::bound::hold;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use snapsync_model::{
    Context, Details, Error, Identity, Kind, Monitor, Origin, ROOT as TOP, Result, Side, Subset,
};
use snapsync_sys::btrfs::{self, Subvolume};
use snapsync_sys::{PROTECTIVE, Root, Spot, Stat, stat_at, stat_of, sync_filesystem};
use snapsync_walk::{STORE, Tree};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// The format that this version reads and writes below `received/`.
pub(super) const FORMAT: u32 = 1;
pub(super) const TREE: &str = "tree";

/// The content of `received/ID.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format: u32,
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// The name under which it was published. It may have been renamed since.
    pub(super) name: String,
    pub(super) inode: u64,
    /// The birth time in ns; 0 if the file system keeps none.
    pub(super) born: u64,
    /// Set on Btrfs, where all snapshots of a subvolume have its inode number and birth time.
    pub(super) subvolume: Option<Uuid>,
    /// Set elsewhere, where nothing protects it from changes.
    #[serde(default)]
    pub(super) state: Option<State>,
}

/// Shows whether a directory was changed: any change sets a newer change time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    entries: u64,
    /// The newest change time below the root in ns. The root's own is that of its last rename.
    newest: i64,
    mtime: i64,
    mode: u32,
    uid: u32,
    gid: u32,
    /// The root's other details, which its change time does not cover; None if an older version received it.
    #[serde(default)]
    root: Option<Details>,
}

impl State {
    pub(super) fn of(root: &Root) -> Result<State> {
        let tree = Tree::of(root.underneath()?, &Subset::default(), &Monitor::default())?;
        let mut state = State { entries: 0, newest: i64::MIN, mtime: 0, mode: 0, uid: 0, gid: 0, root: None };
        for inode in tree.inodes()? {
            let inode = inode?;
            state.entries += 1 + inode.links.len() as u64;
            if inode.ino == TOP {
                let root = inode.attributes;
                (state.mtime, state.mode, state.uid, state.gid) = (root.mtime, root.mode, root.uid, root.gid);
                let details = tree.details(&inode)?;
                // Flags that protect it are set when it is published.
                state.root = Some(Details { flags: details.flags & !PROTECTIVE, ..details });
            } else {
                state.newest = state.newest.max(inode.ctime);
            }
        }
        Ok(state)
    }

    fn is_still(&self, root: &Root) -> Result<bool> {
        let now = State::of(root)?;
        let root = self.root.clone().or(now.root.clone());
        Ok(now == State { root, ..self.clone() })
    }
}

/// A directory that may be a snapshot.
#[derive(Debug)]
pub(crate) struct Place {
    above: Arc<Root>,
    pub(crate) path: PathBuf,
    stat: Stat,
    pub(crate) subvolume: Option<Subvolume>,
}

impl Place {
    /// The entry `name` of `dir`; None if it is not a directory, or lies on another file system.
    pub(crate) fn at(dir: &Arc<Root>, name: &OsStr) -> Result<Option<Place>> {
        let path = dir.path().join(name);
        let top = stat_at(dir.fd(), OsStr::new(".")).context("read the attributes of", dir.path())?;
        let stat = match stat_at(dir.fd(), name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.context("read the attributes of", &path)?,
        };
        if stat.kind != Kind::Directory || stat.mount != top.mount {
            return Ok(None);
        }
        let subvolume = if stat.ino == btrfs::ROOT_INODE { subvolume_at(dir, name)? } else { None };
        let is_here = stat.dev == top.dev || subvolume.is_some();
        Ok(is_here.then(|| Place { above: dir.clone(), path, stat, subvolume }))
    }

    /// Opens the directory itself. Whoever may write to its parent can put another in its place at any
    /// moment.
    pub(crate) fn open(&self) -> Result<Root> {
        let name = self.path.file_name().unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self.above.fd(), name, flags, Mode::empty()).context("open", &self.path)?;
        let now = stat_of(&fd).context("read the attributes of", &self.path)?;
        let mut is_it = now.is_same_inode(&self.stat);
        if let Some(seen) = self.subvolume {
            let now = btrfs::subvolume(&fd).context("read the subvolume of", &self.path)?;
            is_it = now.uuid == seen.uuid;
        }
        if is_it {
            return Ok(Root::of(fd, self.path.clone()));
        }
        Err(Error::refused(
            format!("{} is not the directory that it was a moment ago", self.path.display()),
            "somebody exchanged it: check who may write there, then run this again",
        ))
    }

    pub(crate) fn is_of(&self, record: &Record) -> bool {
        match self.subvolume {
            Some(subvolume) => record.subvolume == Some(Uuid::from_bytes(subvolume.uuid)),
            None => (record.inode, record.born) == (self.stat.ino, self.stat.generation),
        }
    }
}

pub(super) fn subvolume_at(dir: &Root, name: &OsStr) -> Result<Option<Subvolume>> {
    let path = dir.path().join(name);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat(dir.fd(), name, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        other => other.context("open the directory", &path)?,
    };
    if !btrfs::is_subvolume(&fd).context("read the subvolume of", &path)? {
        return Ok(None);
    }
    btrfs::subvolume(&fd).map(Some).context("read the subvolume of", &path)
}

/// The snapshot that a directory holds: a received one, or any read-only Btrfs subvolume. None for anything
/// else, because a snapshot cannot be writable.
pub fn identity_of(path: &Path) -> Result<Option<Identity>> {
    let path = path.canonicalize().context("find", path)?;
    let root = Root::open(&path)?;
    let above = path.parent().map(shelf_at).transpose()?;
    let records = above.as_ref().map_or_else(|| Ok(Vec::new()), records)?;
    if btrfs::is_subvolume(root.fd()).context("read the subvolume of", &path)? {
        // Data in memory changes it once more when it is written out. In a store there is none of a snapshot.
        sync_filesystem(root.fd()).context("sync the file system of", &path)?;
        return identity_of_subvolume(&root, &records);
    }
    let (Some(above), Some(name)) = (above, path.file_name()) else { return Ok(None) };
    let Some(place) = Place::at(&above, name)? else { return Ok(None) };
    let Some(record) = records.iter().find(|record| place.is_of(record)) else { return Ok(None) };
    if record.is_changed(&place.open()?)? {
        return Err(Error::refused(
            format!("{} is not what was received any more: it was changed", path.display()),
            "delete it and receive it again, or send from where it came from",
        ));
    }
    Ok(Some(record.identity))
}

/// Opens a directory that may be a shelf. The records of another user are not read.
pub(crate) fn shelf_at(dir: &Path) -> Result<Arc<Root>> {
    let root = Root::open(dir)?;
    Ok(Arc::new(held_if_own(root)?))
}

pub(super) fn held_if_own(root: Root) -> Result<Root> {
    match hold(root.again()?) {
        Err(Error::Refused { .. }) => Ok(root),
        other => other,
    }
}

impl Record {
    pub(crate) fn is_changed(&self, root: &Root) -> Result<bool> {
        self.state.as_ref().map_or(Ok(false), |state| state.is_still(root).map(|is_still| !is_still))
    }
}

/// The same for a snapshot of a volume.
pub(crate) fn identity_in(root: &Root) -> Result<Option<Identity>> {
    identity_of_subvolume(root, &[])
}

fn identity_of_subvolume(root: &Root, records: &[Record]) -> Result<Option<Identity>> {
    let subvolume = btrfs::subvolume(root.fd()).context("read the subvolume of", root.path())?;
    if !subvolume.read_only {
        return Ok(None);
    }
    let uuid = Uuid::from_bytes(subvolume.uuid);
    let record = records.iter().find(|record| record.subvolume == Some(uuid));
    Ok(Some(match mark_of(&subvolume) {
        Some(origin) if !is_changed(root, &subvolume)? => {
            Identity { id: record.map_or(origin.uuid, |record| record.identity.id), origin: Some(origin) }
        }
        // It was never received, or changed since: it is a snapshot of its own.
        _ => {
            Identity::of_origin(Origin { constant: is_constant(root, &subvolume), ..own_origin(&subvolume) })
        }
    }))
}

pub(crate) fn own_origin(subvolume: &Subvolume) -> Origin {
    Origin { uuid: Uuid::from_bytes(subvolume.uuid), transid: subvolume.changed, constant: false }
}

/// Whether a subvolume was changed since it was made, but not its content. False if that cannot be
/// determined.
pub(crate) fn is_constant(root: &Root, subvolume: &Subvolume) -> bool {
    let is_changed =
        || btrfs::is_changed_since(root.fd(), subvolume, subvolume.created, subvolume.created_at);
    subvolume.changed > subvolume.created && !is_changed().unwrap_or(true)
}

/// The mark that it got when it was received.
pub(crate) fn mark_of(subvolume: &Subvolume) -> Option<Origin> {
    let received = subvolume.received?;
    Some(Origin { uuid: Uuid::from_bytes(received.uuid), transid: received.sent, constant: false })
}

/// Whether a subvolume was changed since it was received.
pub(crate) fn is_changed(root: &Root, subvolume: &Subvolume) -> Result<bool> {
    // The tools of Btrfs remove the mark when they make a subvolume writable.
    let Some(received) = subvolume.received else { return Ok(true) };
    btrfs::is_changed_since(root.fd(), subvolume, received.transid, received.at)
        .context("find out whether anything changed since it was received in", root.path())
}

/// The records of the snapshots received in a directory, by id.
pub(crate) fn records(shelf: &Arc<Root>) -> Result<Vec<Record>> {
    if !shelf.holds() {
        return Ok(Vec::new());
    }
    let dir = received(shelf);
    let entries = match dir.list() {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.context("list", dir.show())?,
    };
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| entry.name.ends_with(b".json")) {
        found.extend(read_record(&dir.join(&entry.name))?);
    }
    found.sort_by_key(|record: &Record| record.identity.id);
    Ok(found)
}

pub(super) fn received(shelf: &Arc<Root>) -> Spot {
    Spot::top(shelf.clone()).join(STORE).join("received")
}

pub(super) fn receiving(shelf: &Arc<Root>) -> Spot {
    Spot::top(shelf.clone()).join(STORE).join("receiving")
}

pub(super) fn record_of(shelf: &Arc<Root>, id: Uuid) -> Result<Option<Record>> {
    if shelf.holds() { read_record(&received(shelf).join(format!("{id}.json"))) } else { Ok(None) }
}

/// None if it was removed just now.
fn read_record(spot: &Spot) -> Result<Option<Record>> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let file = &*spot.show();
    let Some(text) = spot.read_if_there().context("read", file)? else { return Ok(None) };
    let found: Format = serde_json::from_slice(&text).map_err(|e| unreadable(file, &e))?;
    if found.format > FORMAT {
        return Err(Error::refused(
            format!(
                "{} has format {}, and this version knows formats up to {FORMAT}",
                file.display(),
                found.format
            ),
            "use the newer snapsync that wrote it",
        ));
    }
    serde_json::from_slice(&text).map(Some).map_err(|e| unreadable(file, &e))
}

pub(super) fn unreadable(file: &Path, error: &serde_json::Error) -> Error {
    Error::integrity(
        format!("cannot understand {}: {error}", file.display()),
        "remove that file: the snapshot it speaks of stays, but what the file said of it is lost",
    )
}

/// The base of a delta, held open so that no other takes its place.
#[derive(Debug)]
pub struct Base {
    pub(crate) root: Root,
    pub(crate) identity: Identity,
    /// Its record, if nothing protects it from changes.
    pub(crate) record: Option<Record>,
}

impl Base {
    pub fn path(&self) -> &Path {
        self.root.path()
    }
}
