//! Objects for bytes that only the tree has: made before others may write there, and before the table goes
//! that says where they are.

use crate::pool::before::over;
use crate::pool::ground::Ground;
use crate::pool::hand_over::has_before_images;
use crate::pool::objects::store;
use crate::pool::pack::{Pool, object_at};
use crate::pool::snapshot::PoolSnapshot;
use crate::volume::handle::Volume;
use crate::volume::locked::LockedVolume;
use rayon::prelude::*;
use snapsync_manifest::{FILES, Table};
use snapsync_model::{
    Content, Context, Error, Inode, Kind, Monitor, Pack, Provider, Result, Role, Side, SnapshotInfo,
    UNSETTLED, object_path, size,
};
use snapsync_sys::{filesystem, has_lasting_identity, mounting, supports_reflinks, sync_filesystem};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use uuid::Uuid;

const CHUNK: usize = 4096;
const READ: usize = 1 << 20;

/// What became of the files that had no object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptBytes {
    pub files: u64,
    /// Files whose bytes neither the pool nor the tree has.
    pub lost: u64,
}

impl Volume {
    /// Whether its next snapshot copies data, where no blocks can be shared.
    pub fn copies_for_snapshots(&self) -> Result<bool> {
        if self.info().provider != Provider::Pool || self.store().directory().is_ok_and(supports_reflinks) {
            return Ok(false);
        }
        let (store, root) = (self.as_pool_store()?, self.root().underneath()?);
        Ok(!Ground::of_all(&store, &root)?.leaves_bytes_in_tree(&store))
    }

    /// Whether a snapshot has a table: those on Btrfs have none.
    pub fn has_table(&self, snapshot: Uuid) -> bool {
        self.dir_of(snapshot).join(FILES[0]).is_there()
    }

    /// Whether a snapshot finds bytes in the tree, by numbers and change times that mean something there.
    pub fn keeps_bytes_in_tree(&self, snapshot: Uuid) -> Result<bool> {
        let root = self.root().fd();
        let lasts = || has_lasting_identity(root, filesystem(root)?);
        let lasts = lasts().context("read the file system of", self.path())?;
        Ok(lasts && self.is_partly_in_tree() && self.has_table(snapshot))
    }

    /// The objects of some inodes of a pool snapshot, by number, with the change time at which the tree has
    /// the bytes of each.
    pub fn objects_of(&self, snapshot: Uuid, inos: &BTreeSet<u64>) -> Result<HashMap<u64, (u64, i64)>> {
        let mut found = self.times_of(snapshot, inos)?;
        found.retain(|_, (object, _)| *object != 0);
        Ok(found)
    }

    /// The same of all that the snapshot has; those without bytes have object 0.
    pub fn times_of(&self, snapshot: Uuid, inos: &BTreeSet<u64>) -> Result<HashMap<u64, (u64, i64)>> {
        let rows = Table::open(&self.dir_of(snapshot))?.pick(inos)?;
        Ok(rows.into_iter().map(|row| (row.ino, (row.object, row.ctime))).collect())
    }

    /// Whether a file has the bytes of an object; false where the object has none of its own.
    pub fn has_bytes_of(&self, file: &File, object: u64) -> Result<bool> {
        let pool = Pool::new(self.store().join("pool"));
        let compare = || match pool.open(object)? {
            Some(content) => has_bytes(file, &content),
            None => Ok(false),
        };
        compare().context("read", pool.place_of(object).show())
    }

    /// The same without objects that a pack has: those need no file of their own.
    pub fn unpacked_objects_of(
        &self,
        snapshot: Uuid,
        inos: &BTreeSet<u64>,
    ) -> Result<HashMap<u64, (u64, i64)>> {
        let (mut found, pool) = (self.objects_of(snapshot, inos)?, Pool::new(self.store().join("pool")));
        found.retain(|_, (object, _)| Pack::of(*object).is_none() || !pool.has(*object));
        Ok(found)
    }
}

fn has_bytes(file: &File, content: &Content) -> io::Result<bool> {
    let size = content.size()?;
    if file.metadata()?.len() != size {
        return Ok(false);
    }
    let (mut one, mut other, mut at) = (vec![0; READ], vec![0; READ], 0);
    while at < size {
        let length = content.read_at(&mut one, at)?;
        file.read_exact_at(&mut other[..length], at)?;
        if length == 0 || one[..length] != other[..length] {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

impl LockedVolume {
    /// Makes the objects that a snapshot lacks, as long as the tree has their bytes.
    pub fn keep_bytes(&self, info: &SnapshotInfo, monitor: &Monitor) -> Result<KeptBytes> {
        let snapshot = self.open_pool(info)?;
        let rows = snapshot.table.rows()?;
        self.keep_rows(&snapshot, rows, monitor)
    }

    /// The same of some files, which are about to be replaced.
    pub fn keep_bytes_of(
        &self,
        info: &SnapshotInfo,
        inos: &BTreeSet<u64>,
        monitor: &Monitor,
    ) -> Result<KeptBytes> {
        let snapshot = self.open_pool(info)?;
        let mut rows = snapshot.table.pick(inos)?;
        rows.retain(|row| snapshot.is_without_object(row));
        let needed: u64 = rows.iter().map(|row| row.blocks * 512).sum();
        let free = filesystem(self.root().fd()).context("look at", self.path())?.available;
        if needed > free && !self.store().directory().is_ok_and(supports_reflinks) {
            return Err(Error::NoSpace {
                what: format!(
                    "{} has {} free, and what would be replaced there takes {}",
                    self.path().display(),
                    size(free),
                    size(needed)
                ),
                advice: "only the tree has it, so it is to be copied first: free space there, or restore \
                         elsewhere with --to"
                    .to_owned(),
            });
        }
        self.keep_rows(&snapshot, rows.into_iter().map(Ok), monitor)
    }

    /// The files of a snapshot that a later change could leave with the times that its table has: a commit
    /// does not keep them.
    pub fn unsettled_in(&self, info: &SnapshotInfo) -> Result<BTreeSet<u64>> {
        let is_so = |row: &Inode| row.kind == Kind::File && row.ctime == UNSETTLED;
        let table = Table::open(&self.dir_of(info.id))?;
        let rows = table.rows()?.filter(|row| row.as_ref().map_or(true, is_so));
        rows.map(|row| Ok(row?.ino)).collect()
    }

    /// A primary that was promoted without copies makes them before its next snapshot, where there is room:
    /// until then its history thins out as its tree changes.
    pub fn keep_what_is_only_in_tree(&mut self, monitor: &Monitor) -> Result<()> {
        let is_due = self.is_partly_in_tree() && self.info().role == Role::Primary && !self.is_light();
        if !is_due || self.has_just_been_promoted || self.frozen.is_some() {
            return Ok(());
        }
        let newest = self.line()?.pop().filter(|newest| self.has_table(newest.id));
        let Some(newest) = newest else { return Ok(()) };
        let (path, snapshot) = (self.path().display().to_string(), self.open_pool(&newest)?);
        if mounting(self.root().in_own_mount()) != snapshot.table.info().mounting {
            monitor.note(format!(
                "what the snapshots of {path} had in its tree alone is lost, because the file system was \
                 mounted anew: nothing proves that the tree still has it"
            ));
            return self.note_all_kept();
        }
        let (mut needed, free) =
            (0_u64, filesystem(self.root().fd()).context("look at", self.path())?.available);
        for row in snapshot.table.rows()? {
            let row = row?;
            needed += if snapshot.is_without_object(&row) { row.blocks * 512 } else { 0 };
        }
        if needed > free - free / 10 {
            monitor.note(format!(
                "{path} has no room for a copy of what its snapshots have in its tree alone: they lose what \
                 changes"
            ));
            return Ok(());
        }
        self.keep_bytes(&newest, monitor)?;
        self.note_all_kept()
    }

    /// The same for what the newest snapshot alone says where it is, before that goes.
    pub(crate) fn keep_before_newest_goes(&self, newest: &SnapshotInfo, monitor: &Monitor) -> Result<()> {
        let mut line = self.line()?;
        line.retain(|info| info.id != newest.id && info.provider == newest.provider);
        let Some(next) = line.last() else { return Ok(()) };
        let (before, after) = match self.differing(next, newest)? {
            Some(both) => both,
            None => (self.open_pool(next)?, self.open_pool(newest)?),
        };
        self.keep_rows(&before, before.inodes()?, monitor)?;
        let pool = self.store().join("pool");
        if has_before_images(&pool) {
            // Older ones may lie over what no other snapshot names.
            let is_under = |row: &Inode| over(&pool, row.object).context("read", pool.show());
            let rows =
                after.inodes()?.filter_map(|row| match row.and_then(|row| Ok((is_under(&row)?, row))) {
                    Ok((None, _)) => None,
                    Ok((Some(_), row)) => Some(Ok(row)),
                    Err(error) => Some(Err(error)),
                });
            self.keep_rows(&after, rows, monitor)?;
        }
        Ok(())
    }

    fn keep_rows(
        &self,
        snapshot: &PoolSnapshot,
        mut rows: impl Iterator<Item = Result<Inode>>,
        monitor: &Monitor,
    ) -> Result<KeptBytes> {
        let (files, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        loop {
            monitor.check()?;
            let chunk: Vec<Inode> = rows.by_ref().take(CHUNK).collect::<Result<_>>()?;
            if chunk.is_empty() {
                break;
            }
            let only_in_tree = chunk.par_iter().filter(|row| snapshot.is_without_object(row));
            only_in_tree.try_for_each(|row| match keep(self, snapshot, row, monitor) {
                Err(Error::Lost { .. }) => Ok(_ = lost.fetch_add(1, Relaxed)),
                kept => kept.map(|()| _ = files.fetch_add(1, Relaxed)),
            })?;
        }
        sync_filesystem(self.root().fd()).context("sync the file system of", self.path())?;
        Ok(KeptBytes { files: files.into_inner(), lost: lost.into_inner() })
    }
}

/// The object appears with all of its bytes, or not at all.
fn keep(volume: &Volume, snapshot: &PoolSnapshot, row: &Inode, monitor: &Monitor) -> Result<()> {
    let pool = volume.store().join("pool");
    let object = object_at(&pool, row.object);
    let fresh = pool.join(format!("{}.new", object_path(row.object)));
    let content = snapshot.open(row)?;
    let layout = snapshot.layout(row, &content)?;
    // Of others there are before-images already.
    let Some(file) = content.file() else { return Ok(()) };
    fresh.remove_file().context("remove", fresh.show())?;
    store(file, &layout, row.attributes.size, &fresh, monitor).context("copy to the pool", fresh.show())?;
    if let Err(error) = snapshot.holds_still(row, &content) {
        fresh.remove_file().context("remove", fresh.show())?;
        return Err(error);
    }
    fresh.rename(&object).context("copy to the pool", object.show())
}

impl PoolSnapshot {
    /// Whether a row names an object that has no file.
    pub(crate) fn is_without_object(&self, row: &Inode) -> bool {
        row.kind == Kind::File && row.object != 0 && !self.pool.has(row.object)
    }
}
