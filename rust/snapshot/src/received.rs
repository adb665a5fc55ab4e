//! Snapshots that were received as plain directories, side by side in one directory: its shelf. What is known of them is
//! kept beside them, never in them.
//!
//! ```text
//! DIR/NAME                           a snapshot: a read-only subvolume on Btrfs, elsewhere a directory
//! DIR/.snapsync/received/ID.json     which snapshot that is, and which directory holds it
//! DIR/.snapsync/limits.json          what the file system could not hold of them
//! DIR/.snapsync/receiving/lock       flock(2): held for a moment by who looks for what is unfinished, or begins
//! DIR/.snapsync/receiving/ID/        one that is on its way
//!     lock                           flock(2)
//!     tree                           the base, or nothing yet; then the snapshot
//!     made                           the tree was made wholly, and from which base; written last
//!     root.json                      what the tree's root is to be given back when it is published
//! ```
//!
//! A snapshot is published by one rename of its tree. A subvolume cannot be moved once it is read-only, so that comes
//! after the rename; the next command does it where a crash came between.

use crate::bases::Bases;
use crate::bound::{hold, hold_or_make};
use crate::copy::copy_tree;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use snapsync_model::{
    Attributes, Context, Details, Error, Identity, Kind, Monitor, Origin, ROOT as TOP, RelPath, Result, Side,
    Subset,
};
use snapsync_sys::btrfs::{self, Subvolume};
use snapsync_sys::{
    Entry, FileSystem, Lock, PROTECTIVE, Root, Spot, Stat, clear_flags_of, fault, flags_of, read_dir,
    remove_tree, set_flags_of, stat_at, stat_of, sync_filesystem,
};
use snapsync_walk::{STORE, Tree};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// What this version writes and reads below `received/`.
const FORMAT: u32 = 1;
const TREE: &str = "tree";
const LOCK: &str = "lock";
const MADE: &str = "made";
const ROOT: &str = "root.json";

/// `received/ID.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// What it was published as. It may have been renamed since.
    name: String,
    inode: u64,
    /// Birth time in ns, 0 where the file system keeps none.
    born: u64,
    /// On Btrfs, where every snapshot of a subvolume has its inode and birth time.
    subvolume: Option<Uuid>,
    /// Elsewhere, where nothing keeps it from being changed.
    #[serde(default)]
    state: Option<State>,
}

/// What tells that a directory is as it was: whatever is changed in it gets a newer change time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    entries: u64,
    /// The newest change time below the root, ns. The root's own is that of its last rename.
    newest: i64,
    mtime: i64,
    mode: u32,
    uid: u32,
    gid: u32,
    /// What else the root has, which its change time does not tell; None of what an older version received.
    #[serde(default)]
    root: Option<Details>,
}

impl State {
    fn of(root: &Root) -> Result<State> {
        let tree = Tree::of(root.underneath()?, &Subset::default(), &Monitor::default())?;
        let mut state = State { entries: 0, newest: i64::MIN, mtime: 0, mode: 0, uid: 0, gid: 0, root: None };
        for inode in tree.inodes()? {
            let inode = inode?;
            state.entries += 1 + inode.links.len() as u64;
            if inode.ino == TOP {
                let root = inode.attributes;
                (state.mtime, state.mode, state.uid, state.gid) = (root.mtime, root.mode, root.uid, root.gid);
                let details = tree.details(&inode)?;
                // Those that protect it are set when it is published.
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

/// `made`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Made {
    base: Option<Identity>,
}

/// `root.json`: what the root of a tree has besides its content, and loses while it is published.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct RootState {
    flags: u32,
    mtime: i64,
    /// As in `Attributes`.
    #[serde(default)]
    far_second: i64,
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
    /// `name` of `dir`; None for what is no directory, or lies on another file system.
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

    /// The directory itself. Who may write in the one above can put another in its place at any moment.
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
            format!("{} is another directory now than a moment ago", self.path.display()),
            "somebody exchanged it: look who may write there, then run this again",
        ))
    }

    pub(crate) fn is_of(&self, record: &Record) -> bool {
        match self.subvolume {
            Some(subvolume) => record.subvolume == Some(Uuid::from_bytes(subvolume.uuid)),
            None => (record.inode, record.born) == (self.stat.ino, self.stat.generation),
        }
    }
}

fn subvolume_at(dir: &Root, name: &OsStr) -> Result<Option<Subvolume>> {
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

/// Which snapshot a directory is: one that was received, or any read-only Btrfs subvolume. None for anything else: what
/// can be written to is no snapshot.
pub fn identity_of(path: &Path) -> Result<Option<Identity>> {
    let path = path.canonicalize().context("find", path)?;
    let root = Root::open(&path)?;
    let above = path.parent().map(shelf_at).transpose()?;
    let records = above.as_ref().map_or_else(|| Ok(Vec::new()), records)?;
    if btrfs::is_subvolume(root.fd()).context("read the subvolume of", &path)? {
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

/// A directory that may be a shelf. What another user says of what lies in his is not asked for.
pub(crate) fn shelf_at(dir: &Path) -> Result<Arc<Root>> {
    let root = Root::open(dir)?;
    Ok(Arc::new(held_if_own(root)?))
}

fn held_if_own(root: Root) -> Result<Root> {
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

/// The same of a snapshot of a volume.
pub(crate) fn identity_in(root: &Root) -> Result<Option<Identity>> {
    identity_of_subvolume(root, &[])
}

fn identity_of_subvolume(root: &Root, records: &[Record]) -> Result<Option<Identity>> {
    let path = root.path();
    // What is still in memory changes it once more when it is written out.
    sync_filesystem(root.fd()).context("sync the file system of", path)?;
    let subvolume = btrfs::subvolume(root.fd()).context("read the subvolume of", path)?;
    if !subvolume.read_only {
        return Ok(None);
    }
    let uuid = Uuid::from_bytes(subvolume.uuid);
    let record = records.iter().find(|record| record.subvolume == Some(uuid));
    Ok(Some(match mark_of(&subvolume) {
        Some(origin) if !is_changed(root, &subvolume)? => {
            Identity { id: record.map_or(origin.uuid, |record| record.identity.id), origin: Some(origin) }
        }
        // Nothing it was received as, or not that any more: a snapshot of its own.
        _ => {
            Identity::of_origin(Origin { constant: is_constant(root, &subvolume), ..own_origin(&subvolume) })
        }
    }))
}

pub(crate) fn own_origin(subvolume: &Subvolume) -> Origin {
    Origin { uuid: Uuid::from_bytes(subvolume.uuid), transid: subvolume.changed, constant: false }
}

/// Whether only what a subvolume lies on was changed since it was made, and nothing that it holds. Not where that cannot be
/// found out.
pub(crate) fn is_constant(root: &Root, subvolume: &Subvolume) -> bool {
    let is_changed =
        || btrfs::is_changed_since(root.fd(), subvolume, subvolume.created, subvolume.created_at);
    subvolume.changed > subvolume.created && !is_changed().unwrap_or(true)
}

/// What it was marked with when it was received.
pub(crate) fn mark_of(subvolume: &Subvolume) -> Option<Origin> {
    let received = subvolume.received?;
    Some(Origin { uuid: Uuid::from_bytes(received.uuid), transid: received.sent, constant: false })
}

/// Whether a subvolume is not what it was received as any more.
pub(crate) fn is_changed(root: &Root, subvolume: &Subvolume) -> Result<bool> {
    // Unmarked is what was made writable by the tools of Btrfs.
    let Some(received) = subvolume.received else { return Ok(true) };
    btrfs::is_changed_since(root.fd(), subvolume, received.transid, received.at)
        .context("find out whether anything changed since it was received in", root.path())
}

/// The records of what was received in a directory, by id.
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

fn received(shelf: &Arc<Root>) -> Spot {
    Spot::top(shelf.clone()).join(STORE).join("received")
}

fn receiving(shelf: &Arc<Root>) -> Spot {
    Spot::top(shelf.clone()).join(STORE).join("receiving")
}

fn record_of(shelf: &Arc<Root>, id: Uuid) -> Result<Option<Record>> {
    if shelf.holds() { read_record(&received(shelf).join(format!("{id}.json"))) } else { Ok(None) }
}

/// None where it has just gone.
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

fn unreadable(file: &Path, error: &serde_json::Error) -> Error {
    Error::integrity(
        format!("cannot understand {}: {error}", file.display()),
        "remove that file: the snapshot it speaks of stays, but what the file said of it is lost",
    )
}

/// A directory that snapshots are received in, each a directory in it.
#[derive(Debug)]
pub struct Shelf {
    /// Holds its `.snapsync`, if it has one.
    pub(crate) root: Arc<Root>,
    pub(crate) is_btrfs: bool,
}

/// The base of a delta: open, so that no other takes its place.
#[derive(Debug)]
pub struct Base {
    pub(crate) root: Root,
    pub(crate) identity: Identity,
    /// What it is recorded as, where nothing keeps it from being changed.
    pub(crate) record: Option<Record>,
}

impl Base {
    pub fn path(&self) -> &Path {
        self.root.path()
    }
}

impl Shelf {
    /// Opens a directory, and finishes what a crash kept from being finished in it.
    pub fn open(dir: &Path) -> Result<Shelf> {
        let dir = dir.canonicalize().context("find", dir)?;
        let root = hold(Root::open_straight(&dir)?)?;
        let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", &dir)?;
        let shelf = Shelf { root: Arc::new(root), is_btrfs: filesystem.magic == FileSystem::BTRFS };
        shelf.heal()?;
        Ok(shelf)
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Another one, which is not written to. None where it is no shelf, or another user's.
    pub(crate) fn beside(&self, above: &Root, name: &[u8]) -> Result<Option<Shelf>> {
        let (name, flags) = (RelPath::new(name)?, OFlags::RDONLY | OFlags::DIRECTORY);
        let Ok(fd) = above.open_at(&name, flags, Mode::empty()) else { return Ok(None) };
        let root = held_if_own(Root::of(fd, above.show(&name)))?;
        Ok(root.holds().then(|| Shelf { root: Arc::new(root), is_btrfs: self.is_btrfs }))
    }

    /// Both are on one file system.
    pub(crate) fn is_on(&self, other: &Shelf) -> Result<bool> {
        let id = |shelf: &Shelf| -> io::Result<u128> {
            if snapsync_sys::filesystem(shelf.root.fd())?.magic == FileSystem::BTRFS {
                return btrfs::filesystem_id(shelf.root.fd());
            }
            let (major, minor) = stat_at(shelf.root.fd(), OsStr::new("."))?.dev;
            Ok(u128::from(major) << 32 | u128::from(minor))
        };
        let ids = id(self).and_then(|one| Ok((one, id(other)?)));
        ids.map(|(one, other)| one == other).context("read the file system of", self.path())
    }

    /// The directory that holds the snapshot `wanted`: here, elsewhere on a Btrfs file system, or on a shelf beside this one.
    /// Refused where there is one that was it, and is not any more.
    pub fn find(&self, wanted: &Identity) -> Result<Option<Base>> {
        if self.is_btrfs {
            // What is still in memory changes a subvolume once more when it is written out.
            sync_filesystem(self.root.fd()).context("sync the file system of", self.path())?;
        }
        Bases::new(wanted).find(self)
    }

    /// The directories that may be snapshots, by name.
    pub(crate) fn places(&self) -> Result<Vec<Place>> {
        let mut found = Vec::new();
        // Opened anew: a directory is read on from where it was read to.
        let dir = self.root.open_at(&RelPath::root(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        for entry in dir.and_then(read_dir).context("read the directory", self.path())? {
            if *entry.name != *STORE.as_bytes() && entry.is_dir != Some(false) {
                found.extend(Place::at(&self.root, OsStr::from_bytes(&entry.name))?);
            }
        }
        found.retain(|place| place.subvolume.is_some() == self.is_btrfs);
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// The directory that a record speaks of, whatever its name is now.
    fn place_of(&self, record: &Record) -> Result<Option<Place>> {
        Ok(self.places()?.into_iter().find(|place| place.is_of(record)))
    }

    /// Whether a snapshot can be published under a name.
    pub fn name_is_free(&self, name: &str) -> Result<()> {
        can_be_a_name(name)?;
        match stat_at(self.root.fd(), OsStr::new(name)) {
            Ok(_) => Err(self.is_taken(name)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).context("look for", self.path().join(name)),
        }
    }

    fn is_taken(&self, name: &str) -> Error {
        Error::refused(
            format!("{} is there already", self.path().join(name).display()),
            "choose another name, or move that away first",
        )
    }

    /// Finishes snapshots that were renamed to their place and no more, and clears what holds no whole tree. A receive
    /// that was interrupted later stays for the next one to take up. What this user cannot write to is left alone.
    fn heal(&self) -> Result<()> {
        let dir = receiving(&self.root);
        if !self.root.holds() || !dir.is_there() {
            return Ok(());
        }
        let Ok(_lock) = dir.join(LOCK).lock() else { return Ok(()) };
        for entry in dir.list().context("list", dir.show())? {
            let id = std::str::from_utf8(&entry.name).ok().and_then(|name| name.parse().ok());
            let Some(id) = id else { continue };
            let area = dir.join(&entry.name);
            let Ok(Some(_lock)) = lock_area(&area) else { continue };
            if area.join(TREE).is_there() {
                if !area.join(MADE).is_there() {
                    remove_area(&area)?;
                }
                continue;
            }
            if let Some(record) = record_of(&self.root, id)?
                && let Some(place) = self.place_of(&record)?
            {
                self.settle(&place.open()?, &area)?;
            }
            remove_area(&area)?;
        }
        Ok(())
    }

    /// The last step of publishing: nothing in the snapshot changes from here on.
    fn settle(&self, root: &Root, area: &Spot) -> Result<()> {
        let snapshot = root.path();
        if let Some(state) = RootState::load(area)?
            && state.flags & PROTECTIVE != 0
            && !(self.is_btrfs && btrfs::is_read_only(root.fd()).context("read the flags of", snapshot)?)
        {
            set_flags_of(root.fd(), state.flags).context("set the flags of", snapshot)?;
        }
        if self.is_btrfs {
            btrfs::set_read_only(root.fd(), true).context("make read-only", snapshot)?;
        }
        sync_filesystem(root.fd()).context("sync the file system of", snapshot)
    }

    /// Gets ready to make `snapshot` from `base`: a working area with a tree that is as the base, or empty. It is kept
    /// from any other command until it is dropped. What an interrupted receive of the same snapshot from the same base
    /// left is taken up again.
    pub fn begin<'a>(
        &'a self,
        snapshot: &Identity,
        base: Option<Base>,
        monitor: &'a Monitor,
    ) -> Result<Work<'a>> {
        let held = self.held()?;
        let (area, lock) = claim_area(&held, snapshot.id)?;
        let mut work =
            Work { shelf: self, held, id: snapshot.id, area, base, is_resumed: false, monitor, _lock: lock };
        if let Some(record) = record_of(&work.held, snapshot.id)?
            && let Some(place) = self.place_of(&record)?
        {
            work.discard()?;
            return Err(Error::refused(
                format!("this snapshot was received before: it is {}", place.path.display()),
                "use that one; to receive it again, delete it first",
            ));
        }
        work.is_resumed = work.is_made()?;
        if !work.is_resumed
            && let Err(e) = work.make()
        {
            // The first error is the one to tell; what cannot be removed now is removed by the next command.
            let _ = work.discard();
            return Err(e);
        }
        Ok(work)
    }

    /// With a `.snapsync` of this user.
    fn held(&self) -> Result<Arc<Root>> {
        if self.root.holds() {
            return Ok(self.root.clone());
        }
        let root = Arc::new(hold_or_make(self.root.again()?)?);
        make_private(&Spot::top(root.clone()).join(STORE))?;
        Ok(root)
    }
}

/// Makes the working area of a snapshot where there is none, and locks it.
fn claim_area(shelf: &Arc<Root>, id: Uuid) -> Result<(Spot, Lock)> {
    let all = receiving(shelf);
    let area = all.join(id.to_string());
    ensure_private(&all)?;
    // Whoever heals holds the locks of all areas, one after the other, and this one meanwhile.
    let _lock = all.join(LOCK).lock().context("lock", all.show())?;
    loop {
        ensure_private(&area)?;
        match lock_area(&area) {
            Ok(Some(lock)) => return Ok((area, lock)),
            Ok(None) => {
                return Err(Error::refused(
                    format!("another command is receiving this snapshot in {}", shelf.path().display()),
                    "wait until it has ended, then run this again",
                ));
            }
            // Removed by a command that has just ended: it is made again.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context("lock", area.show()),
        }
    }
}

/// Nobody may make it anew, or clear it, between its lock and itself.
fn remove_own_area(area: &Spot) -> Result<()> {
    let lock = area.above().map(|all| all.join(LOCK).lock()).transpose();
    let _lock = lock.context("lock", area.show())?;
    remove_area(area)
}

/// The caller holds the lock of all areas.
fn remove_area(area: &Spot) -> Result<()> {
    clear(area)?;
    area.remove_tree().context("remove", area.show())
}

/// Whether a snapshot can be a directory of this name.
pub fn can_be_a_name(name: &str) -> Result<()> {
    if !snapsync_model::can_name_directory(name) {
        return Err(Error::usage(
            format!("{name:?} cannot be the name of a directory for a snapshot"),
            "use at most 255 bytes of characters that are seen, without `/`, and no `-` or `.` in front",
        ));
    }
    Ok(())
}

/// None where another holds it; not found where it is gone, or went while it was locked.
fn lock_area(area: &Spot) -> io::Result<Option<Lock>> {
    let file = area.join(LOCK);
    let Some(lock) = file.try_lock()? else { return Ok(None) };
    if lock.is_of(&file) { Ok(Some(lock)) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Makes a directory for this user alone, where there is none.
fn ensure_private(dir: &Spot) -> Result<()> {
    match dir.create_dir() {
        Ok(()) => make_private(dir),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e).context("create the directory", dir.show()),
    }
}

/// What is made in it must not inherit: default ACLs, the group, flags.
fn make_private(dir: &Spot) -> Result<()> {
    dir.directory().and_then(make_own).context("set the attributes of", dir.show())
}

fn make_own(dir: OwnedFd) -> io::Result<()> {
    clear_flags_of(&dir)?;
    let entry = Entry::from_open(dir);
    for xattr in entry.xattrs()?.iter().filter(|x| x.name.starts_with(b"system.posix_acl")) {
        entry.remove_xattr(&xattr.name)?;
    }
    entry.set_mode(0o700)
}

/// Empties the working area. The marker goes first: without it nothing that is left is taken for a whole tree.
fn clear(area: &Spot) -> Result<()> {
    let show = area.show();
    area.join(MADE).remove_file().context("remove", &show)?;
    area.sync().context("sync", &show)?;
    let root = area.tree()?;
    for entry in area.list().context("read the directory", &show)? {
        let name = OsStr::from_bytes(&entry.name);
        if name == LOCK {
            continue;
        }
        if subvolume_at(&root, name)?.is_some() {
            btrfs::delete_subvolume(root.fd(), name).context("delete the subvolume", show.join(name))?;
        } else {
            remove_tree(root.fd(), name).context("remove", show.join(name))?;
        }
    }
    Ok(())
}

impl RootState {
    fn of(root: impl AsFd) -> io::Result<RootState> {
        let flags = flags_of(&root)?;
        let Attributes { mtime, far_second, .. } = stat_at(&root, OsStr::new("."))?.attributes;
        Ok(RootState { flags, mtime, far_second })
    }

    fn load(area: &Spot) -> Result<Option<RootState>> {
        let file = area.join(ROOT);
        let text = file.read_if_there().context("read", file.show())?;
        text.map(|text| serde_json::from_slice(&text).map_err(|e| unreadable(&file.show(), &e))).transpose()
    }

    /// Makes it possible to change what is in the root.
    fn loosen(self, root: impl AsFd) -> io::Result<()> {
        if self.flags & PROTECTIVE == 0 {
            return Ok(());
        }
        set_flags_of(root, self.flags & !PROTECTIVE)
    }

    fn restore_time(self, root: impl AsFd) -> io::Result<()> {
        let root = root.as_fd().try_clone_to_owned()?;
        let RootState { mtime, far_second, .. } = self;
        Entry::from_open(root).set_time(&Attributes { mtime, far_second, ..Attributes::default() })
    }
}

fn write_json(dir: &Spot, name: &str, value: &impl Serialize) -> Result<()> {
    let show = dir.show().join(name);
    let text = serde_json::to_vec_pretty(value).map_err(|e| unreadable(&show, &e))?;
    dir.write_file(name, &text).context("write", show)
}

/// A snapshot on its way to a shelf. Dropping it leaves the working area for a later `begin`.
pub struct Work<'a> {
    shelf: &'a Shelf,
    /// The shelf's directory, with its `.snapsync`.
    held: Arc<Root>,
    id: Uuid,
    area: Spot,
    base: Option<Base>,
    is_resumed: bool,
    monitor: &'a Monitor,
    _lock: Lock,
}

impl Work<'_> {
    /// The tree to be changed, for messages.
    pub fn tree(&self) -> PathBuf {
        self.area.show().join(TREE)
    }

    /// The same, open: the base's, or an empty one. It holds an empty `.snapsync` for the apply's stage.
    pub fn root(&self) -> Result<Arc<Root>> {
        hold(self.area.join(TREE).tree()?).map(Arc::new)
    }

    /// Where the journal goes. It goes away with the tree, and must not go before.
    pub fn store(&self) -> &Spot {
        &self.area
    }

    /// Where what is known of all snapshots of the shelf goes.
    pub fn shelf(&self) -> Spot {
        Spot::top(self.held.clone()).join(STORE)
    }

    /// The tree is not as the base any more: what was begun goes on, as the journal says.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    fn made(&self) -> Made {
        Made { base: self.base.as_ref().map(|base| base.identity) }
    }

    /// There is a whole tree, from the same base.
    fn is_made(&self) -> Result<bool> {
        let file = self.area.join(MADE);
        // What cannot be understood is made anew.
        let text = file.read_if_there().context("read", file.show())?;
        let is_same =
            |text: Vec<u8>| serde_json::from_slice::<Made>(&text).is_ok_and(|made| made == self.made());
        Ok(text.is_some_and(is_same) && self.area.join(TREE).is_there())
    }

    /// Throws away what was made and received, and makes the tree again.
    pub fn start_over(&mut self) -> Result<()> {
        self.is_resumed = false;
        self.make()
    }

    fn make(&self) -> Result<()> {
        clear(&self.area)?;
        let (area, tree) = (self.area.tree()?, self.area.join(TREE));
        let show = tree.show();
        match (&self.base, self.shelf.is_btrfs) {
            (Some(base), true) => {
                btrfs::create_writable_snapshot(base.root.fd(), area.fd(), OsStr::new(TREE))
                    .context("take a writable snapshot of", base.path())?;
            }
            (None, true) => {
                btrfs::create_subvolume(area.fd(), OsStr::new(TREE))
                    .context("create the subvolume", &show)?;
            }
            (base, false) => {
                area.create_dir(&RelPath::new(TREE.as_bytes())?, 0o777)
                    .context("create the directory", &show)?;
                if let Some(base) = base {
                    let copied = copy_tree(&base.root, tree.tree()?, self.monitor);
                    // What was exchanged there may have kept it from being copied at all.
                    self.expect_unchanged(base)?;
                    copied?;
                }
            }
        }
        self.add_store().context("make a place for the stage in", &show)?;
        sync_filesystem(area.fd()).context("sync the file system of", area.path())?;
        fault::point("receive.tree");
        write_json(&self.area, MADE, &self.made())?;
        fault::point("receive.made");
        Ok(())
    }

    /// Its owner may have changed it while it was copied.
    fn expect_unchanged(&self, base: &Base) -> Result<()> {
        match &base.record {
            Some(record) if record.is_changed(&base.root)? => Err(Error::refused(
                format!("{} was changed while it was copied", base.path().display()),
                "delete it and receive the base again, or send without a base",
            )),
            _ => Ok(()),
        }
    }

    /// Gives the tree an empty `.snapsync`, and leaves its root as it was. A snapshot of a volume has one with an empty
    /// stub of the store.
    fn add_store(&self) -> io::Result<()> {
        let tree = self.area.join(TREE).tree().map_err(io::Error::other)?;
        let state = RootState::of(tree.fd())?;
        state.loosen(tree.fd())?;
        remove_tree(tree.fd(), OsStr::new(STORE))?;
        let own = RelPath::new(STORE.as_bytes()).map_err(io::Error::other)?;
        tree.create_dir(&own, 0o700)?;
        make_own(tree.open_at(&own, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?)?;
        state.restore_time(tree.fd())?;
        if state.flags & PROTECTIVE == 0 { Ok(()) } else { set_flags_of(tree.fd(), state.flags) }
    }

    /// Throws away what was made and received.
    pub fn discard(self) -> Result<()> {
        remove_own_area(&self.area)
    }

    /// Makes the tree the snapshot `name`. On failure nothing has that name, and the working area stays.
    pub fn publish(self, name: &str, snapshot: &Identity) -> Result<PathBuf> {
        self.shelf.name_is_free(name)?;
        // Open from here on: what has its name later may be something else.
        let tree = self.area.join(TREE).tree()?;
        self.strip(&tree)?;
        let record = self.record(&tree, name, snapshot)?;
        let records = received(&self.held);
        ensure_private(&records)?;
        write_json(&records, &format!("{}.json", self.id), &record)?;
        fault::point("receive.recorded");
        self.move_to(name)?;
        fault::point("receive.moved");
        self.shelf.settle(&tree, &self.area)?;
        fault::point("receive.settled");
        remove_own_area(&self.area)?;
        Ok(self.shelf.path().join(name))
    }

    /// Takes everything from the tree that is not the snapshot's, and marks it on Btrfs. Everything is on the disk then.
    fn strip(&self, tree: &Root) -> Result<()> {
        let show = tree.path();
        let state = match RootState::load(&self.area)? {
            // An earlier attempt may have taken it off already.
            Some(state) => state,
            None => {
                let state = RootState::of(tree.fd()).context("read the attributes of", show)?;
                write_json(&self.area, ROOT, &state)?;
                state
            }
        };
        state.loosen(tree.fd()).context("set the flags of", show)?;
        remove_tree(tree.fd(), OsStr::new(STORE)).context("remove", show.join(STORE))?;
        state.restore_time(tree.fd()).context("set the time of", show)?;
        sync_filesystem(tree.fd()).context("sync the file system of", show)?;
        fault::point("receive.stripped");
        Ok(())
    }

    fn record(&self, tree: &Root, name: &str, snapshot: &Identity) -> Result<Record> {
        let show = tree.path();
        let mut subvolume = None;
        if self.shelf.is_btrfs {
            let mark = snapshot.mark();
            btrfs::set_received(tree.fd(), mark.uuid.into_bytes(), mark.transid)
                .context("mark as received", show)?;
            let info = btrfs::subvolume(tree.fd()).context("read the subvolume of", show)?;
            subvolume = Some(Uuid::from_bytes(info.uuid));
        }
        let stat = stat_at(tree.fd(), OsStr::new(".")).context("read the attributes of", show)?;
        let (inode, born) = (stat.ino, stat.generation);
        let state = if subvolume.is_none() { Some(State::of(tree)?) } else { None };
        let name = name.to_owned();
        Ok(Record { format: FORMAT, identity: *snapshot, name, inode, born, subvolume, state })
    }

    fn move_to(&self, name: &str) -> Result<()> {
        let below = format!("{STORE}/receiving/{}/{TREE}", self.id);
        let (from, to) = (RelPath::new(below.as_bytes())?, RelPath::root().join(name.as_bytes())?);
        let root = &self.held;
        match root.rename_to_new(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // It speaks of a tree that is not in the directory.
                let record = received(&self.held).join(format!("{}.json", self.id));
                record.remove_file().context("remove", record.show())?;
                Err(self.shelf.is_taken(name))
            }
            other => other.context("move the snapshot to", root.show(&to)),
        }
    }
}
