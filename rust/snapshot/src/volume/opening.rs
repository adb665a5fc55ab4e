//! Finds, makes and removes volumes, always in an open directory.

use crate::store::bound::{
    ASIDE, Bound, PARTS, hold, hold_or_make, if_in_use, is_of_another, look_through, parts_in, remove_part,
    store_in,
};
use crate::volume::handle::Volume;
use crate::volume::locked::{GLANCE, LockedVolume};
use crate::volume::record::{RECORD, Record, is_no_part, is_none, read_record};
use rustix::fs::{Mode, OFlags};
use snapsync_model::{Context, Error, Monitor, Provider, RelPath, Result, Role};
use snapsync_sys::{Entry, FileSystem, Root, Spot, btrfs, fault, is_locked, read_dir, stat_of};
use snapsync_walk::{STORE, locked_away};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

impl Volume {
    /// None if the directory has no store.
    pub fn find(path: &Path) -> Result<Option<Volume>> {
        match Root::open(path) {
            Err(Error::Io { source, .. })
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            root => Volume::find_in(root?),
        }
    }

    /// The same for an open directory.
    pub fn find_in(root: Root) -> Result<Option<Volume>> {
        let Some(found) = Volume::find_any(root)? else { return Ok(None) };
        match (&found.record.root, Bound::of(&found.root)?) {
            (Some(known), Some(now)) if !known.is(&now) => Err(is_of_another(&found.root)),
            _ => Ok(Some(found)),
        }
    }

    /// The same, whatever directory the store belongs to.
    fn find_any(root: Root) -> Result<Option<Volume>> {
        let root = hold(root)?;
        let Some(store) = store_in(&root)?.map(Arc::new) else {
            return if is_locked_away(&root) { Err(locked_away(root.path())) } else { Ok(None) };
        };
        let Some(record) = read_record(&Spot::top(store.clone()))? else { return Ok(None) };
        let filesystem = filesystem_of(&root)?;
        let root = Arc::new(root);
        Ok(Some(Volume::of(root, store, record, filesystem)))
    }

    pub fn open(path: &Path) -> Result<Volume> {
        Volume::open_in(Root::open(path)?)
    }

    /// The same for an open directory.
    pub fn open_in(root: Root) -> Result<Volume> {
        let again = root.again()?;
        if let Some(found) = Volume::find_in(root)? {
            return Ok(found);
        }
        Volume::expect_own_store(&again)?;
        Err(match again.part() {
            Some(part) => is_no_part(again.path(), part, &recorded_parts(&again)?),
            None => is_none(again.path()),
        })
    }

    /// The names of the parts of its tree that have a lineage of their own.
    pub fn parts(&self) -> Result<Vec<String>> {
        recorded_parts(&self.root)
    }

    /// Binds the store in a directory to it, after it was moved, copied or restored. Refuses a store with
    /// content that somebody else could have put there.
    pub fn adopt(root: Root) -> Result<Volume> {
        let path = &root.title().to_path_buf();
        let found = Volume::find_any(root)?.ok_or_else(|| is_none(path))?;
        let lock = found.take_lock(GLANCE, &Monitor::default())?;
        look_through(&found.own())?;
        let record = read_record(&found.store())?.ok_or_else(|| is_none(path))?;
        let mut adopted = LockedVolume::of(Volume { record, ..found }, lock);
        adopted.save()?;
        Ok(adopted.unlock())
    }

    /// Gives a directory a store, and completes one that a crash left half made. Keeps the modification time
    /// of the directory.
    pub fn init(path: &Path, role: Role, lineage: Uuid, epoch: u64) -> Result<Volume> {
        Volume::init_in(Root::open(path)?, role, lineage, epoch)
    }

    /// The same for an open directory.
    ///
    /// A part of a tree lies in the volume of that tree, which is made as well where there is none.
    pub fn init_in(root: Root, role: Role, lineage: Uuid, epoch: u64) -> Result<Volume> {
        if root.part().is_none() {
            return Volume::make_in(root, role, lineage, epoch, false);
        }
        let whole = root.whole()?;
        if Volume::find_in(whole.again()?)?.is_none() {
            let made = Volume::make_in(whole.again()?, Role::Primary, Uuid::new_v4(), 1, true);
            // Another part may just have done the same.
            made.or_else(|error| Volume::find_in(whole)?.ok_or(error))?;
        }
        Volume::make_in(root, role, lineage, epoch, false)
    }

    fn make_in(root: Root, role: Role, lineage: Uuid, epoch: u64, for_parts: bool) -> Result<Volume> {
        let root = hold(root)?;
        let path = root.path().to_path_buf();
        crate::store::restoring::none_in(&root)?;
        Volume::expect_own_store(&root)?;
        let filesystem = filesystem_of(&root)?;
        let subvolume = btrfs::is_subvolume(root.fd()).context("read the subvolume of", &path)?;
        let top = Entry::from_open(root.fd().try_clone_to_owned().context("open", &path)?);
        let before = top.stat().context("read the attributes of", &path)?;
        // If its time cannot be restored, nothing is made in it.
        top.set_mtime(before.attributes.mtime).context("set the time of", &path)?;
        let provider = if subvolume { Provider::Btrfs } else { Provider::Pool };
        let record = Record { for_parts, ..Record::new(role, lineage, epoch, provider) };
        let (root, store) = make_store(root, subvolume)?;
        let (root, store) = (Arc::new(root), Arc::new(store));
        let volume = Volume::of(root, store, record, filesystem);
        let lock = volume.take_lock(GLANCE, &Monitor::default())?;
        let mut volume = LockedVolume::of(volume, lock);
        if read_record(&volume.store())?.is_some() {
            return Err(Error::refused(
                format!("another command has just made {} a volume", path.display()),
                "run this again",
            ));
        }
        top.set_time(&before.attributes).context("set the time of", &path)?;
        fault::point("init.store");
        volume.save()?;
        Ok(volume.unlock())
    }
}

impl LockedVolume {
    /// Removes a store without snapshots, as if it had never been made.
    ///
    /// With the last part goes the volume that was made for it, unless that has snapshots of its own.
    pub fn remove_store(self) -> Result<()> {
        let whole = self.root.part().map(|_| self.root.whole()).transpose()?;
        self.remove_own_store()?;
        let Some(volume) = whole.map(Volume::find_in).transpose()?.flatten() else { return Ok(()) };
        if !volume.record.for_parts || !parts_in(&volume.root)?.is_empty() || !volume.snapshots()?.is_empty()
        {
            return Ok(());
        }
        LockedVolume::reloaded(&volume, GLANCE, &Monitor::default())?.remove_own_store()
    }

    fn remove_own_store(self) -> Result<()> {
        // From here on it is no volume: what is left is completed by whoever makes it one again.
        let record = self.store().join(RECORD);
        record.remove_file().context("remove", record.show())?;
        fault::point("init.undone");
        // Some FUSE file systems keep an open file, and with it its directory.
        self.unlock().remove_unrecorded()
    }
}

impl Volume {
    fn remove_unrecorded(self) -> Result<()> {
        let dir = self.own();
        let top = Entry::from_open(self.root.fd().try_clone_to_owned().context("open", self.path())?);
        let before = top.stat().context("read the attributes of", self.path())?;
        if self.info().provider == Provider::Btrfs {
            let parent = dir.directory().context("open", dir.show())?;
            btrfs::delete_subvolume(parent, OsStr::new("store"))
                .context("delete the subvolume", dir.show())?;
        }
        let stays = |name: &[u8]| matches!(name, ASIDE | PARTS);
        for entry in dir.list().context("list", dir.show())?.iter().filter(|entry| !stays(&entry.name)) {
            dir.join(&entry.name).remove_tree().context("remove", dir.show())?;
        }
        match self.root.part() {
            Some(part) => remove_part(&self.root, part)?,
            None => dir.remove_dir().or_else(if_in_use).context("remove", dir.show())?,
        }
        top.set_time(&before.attributes).map(drop).context("set the time of", self.path())
    }
}

/// The parts of a directory that are more than what a crash has left.
fn recorded_parts(root: &Root) -> Result<Vec<String>> {
    let whole = hold(root.whole()?)?;
    let mut found = parts_in(root)?;
    let above = RelPath::new(STORE.as_bytes())?.join(PARTS)?;
    let record = |part: &str| above.join(part.as_bytes())?.join(b"store")?.join(RECORD.as_bytes());
    found.retain(|part| record(part).is_ok_and(|record| whole.entry(&record).is_ok()));
    Ok(found)
}

fn filesystem_of(root: &Root) -> Result<FileSystem> {
    snapsync_sys::filesystem(root.fd()).context("read the file system of", root.path())
}

fn make_store(root: Root, subvolume: bool) -> Result<(Root, Root)> {
    let root = hold_or_make(root)?;
    let own = RelPath::new(STORE.as_bytes())?;
    let dir = root.open_at(&own, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    let dir = dir.context("open", root.show(&own))?;
    let store = own.join(b"store")?;
    let is_there = root.entry(&store).is_ok();
    if subvolume && !is_there {
        btrfs::create_subvolume(&dir, OsStr::new("store"))
            .context("create the subvolume", root.show(&store))?;
    } else if !is_there {
        root.create_dir(&store, 0o700).context("create the directory", root.show(&store))?;
    }
    let made = store_in(&root)?.map(Arc::new).ok_or_else(|| is_none(root.path()))?;
    for name in ["snapshots", "pool"] {
        let dir = Spot::top(made.clone()).join(name);
        dir.ensure_dir().context("create the directory", dir.show())?;
    }
    let made = made.again()?;
    Ok((root, made))
}

/// Whether there may be a store that cannot be seen.
fn is_locked_away(root: &Root) -> bool {
    stat_of(root.fd()).is_ok_and(|top| top.encrypted) && is_locked(root.fd()).unwrap_or(false)
}

/// Whether a directory is empty, apart from a store without a record, which a crash can leave, and the empty
/// `lost+found` of a new file system.
pub fn is_vacant(path: &Path) -> Result<bool> {
    is_vacant_in(&Root::open(path)?)
}

/// The same for an open directory.
pub fn is_vacant_in(root: &Root) -> Result<bool> {
    let list = |path: &RelPath| {
        let dir = root.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        dir.and_then(read_dir)
    };
    for entry in list(&RelPath::root()).context("read the directory", root.path())? {
        let empty_dir = || list(&RelPath::new(&entry.name).unwrap_or_default()).is_ok_and(|d| d.is_empty());
        let is_lost_found = *entry.name == *b"lost+found" && empty_dir();
        if *entry.name != *STORE.as_bytes() && !is_lost_found {
            return Ok(false);
        }
    }
    Ok(true)
}
