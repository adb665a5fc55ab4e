//! Looks up one path in one snapshot after another without opening them.

use crate::pool::pack::Pool;
use crate::pool::snapshot::PoolSnapshot;
use crate::volume::handle::Volume;
use snapsync_manifest::PathFinder;
use snapsync_model::{
    Address, Attributes, Content, Context, Inode, Kind, Provider, Range, RelPath, Result, Side, SnapshotInfo,
};
use snapsync_sys::{Root, Spot, btrfs};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// What proves that two files are equal without reading their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Their objects, which are never rewritten.
    Object(u64),
    /// The addresses of all data, which both hold on to.
    Places(Vec<(Range, Address)>),
    /// Nothing does.
    None,
}

/// What is at a path.
#[derive(Clone)]
pub struct Found {
    pub kind: Kind,
    pub attributes: Attributes,
    pub target: Option<Box<[u8]>>,
    pub proof: Proof,
    content: Place,
}

/// Where the bytes of a file are.
#[derive(Clone)]
enum Place {
    Spot(Spot),
    Row(Arc<Late>, Box<Inode>),
}

/// A pool snapshot that is opened when its bytes are asked for.
struct Late {
    volume: Arc<Volume>,
    info: SnapshotInfo,
    pool: Arc<Pool>,
    opened: OnceLock<PoolSnapshot>,
}

impl Late {
    fn open(&self) -> Result<&PoolSnapshot> {
        if let Some(snapshot) = self.opened.get() {
            return Ok(snapshot);
        }
        let snapshot = self.volume.open_pool(&self.info)?;
        Ok(self.opened.get_or_init(|| snapshot))
    }

    /// Where the bytes of a file are, for people.
    fn place_of(&self, inode: &Inode) -> PathBuf {
        let in_pool = || self.pool.place_of(inode.object).show();
        let is_in_pool = inode.object != 0 && self.pool.has(inode.object);
        if is_in_pool { in_pool() } else { self.open().map_or_else(|_| in_pool(), |it| it.place_of(inode)) }
    }
}

impl Found {
    /// The path of a file's bytes, for people.
    pub fn content(&self) -> PathBuf {
        match &self.content {
            Place::Spot(spot) => spot.show(),
            Place::Row(late, inode) => late.place_of(inode),
        }
    }

    /// Where they begin in it: many small files are in one.
    pub fn content_offset(&self) -> u64 {
        match &self.content {
            Place::Spot(_) => 0,
            Place::Row(late, inode) => late.pool.start_of(inode.object),
        }
    }

    /// The bytes of a file.
    pub fn open(&self) -> Result<Content> {
        match &self.content {
            Place::Spot(spot) => spot.open_in_tree().map(Content::from).context("open", spot.show()),
            Place::Row(late, inode) => late.open()?.open(inode),
        }
    }

    /// Fails where what was read of it may be other bytes.
    pub fn holds_still(&self, file: &Content) -> Result<()> {
        match &self.content {
            Place::Spot(_) => Ok(()),
            Place::Row(late, inode) => late.open()?.holds_still(inode, file),
        }
    }
}

/// Finds what is at one path in the snapshots of a volume.
pub struct Finding<'a> {
    volume: Arc<Volume>,
    path: &'a RelPath,
    pool: Arc<Pool>,
    tables: PathFinder,
}

impl<'a> Finding<'a> {
    pub fn new(volume: &Volume, path: &'a RelPath) -> Finding<'a> {
        let pool = Arc::new(Pool::new(volume.store().join("pool")));
        Finding { volume: Arc::new(volume.clone()), path, pool, tables: PathFinder::new(path) }
    }

    /// The entry of a snapshot; None if there is none.
    pub fn find_in(&mut self, info: &SnapshotInfo) -> Result<Option<Found>> {
        let (dir, path) = (self.volume.dir_of(info.id), self.path);
        match info.provider {
            Provider::Btrfs => {
                let root = Arc::new(dir.join("tree").tree()?);
                let found =
                    find_at(&root, path)?.map(|found| Found { proof: places(&root, path, &found), ..found });
                let is_left_out = || snapsync_walk::left_out(&root, path, false, &info.subset);
                if found.is_some() && is_left_out()?.is_some() { Ok(None) } else { Ok(found) }
            }
            Provider::Pool => {
                self.volume.expect_there(info)?;
                Ok(self.tables.find(&dir)?.map(|inode| self.found(info, inode)))
            }
        }
    }

    fn found(&self, info: &SnapshotInfo, inode: Inode) -> Found {
        let (volume, pool) = (self.volume.clone(), self.pool.clone());
        let late = Late { volume, info: info.clone(), pool, opened: OnceLock::new() };
        Found {
            kind: inode.kind,
            attributes: inode.attributes,
            target: inode.details.as_ref().and_then(|details| details.symlink_target.clone()),
            proof: Proof::Object(inode.object),
            content: Place::Row(Arc::new(late), Box::new(inode)),
        }
    }
}

/// Times prove nothing: a write in progress when a snapshot is taken continues under the time at which it
/// began.
fn places(root: &Root, path: &RelPath, found: &Found) -> Proof {
    let size = found.attributes.size;
    if found.kind != Kind::File || size == 0 {
        return Proof::None;
    }
    // Without the privilege nothing proves it.
    let layout =
        root.read(path).and_then(|file| btrfs::layout(&file, file.metadata()?.ino(), size, u64::MAX));
    let Ok(layout) = layout else { return Proof::None };
    let places = layout.placed().into_iter().map(|placed| placed.address.map(|at| (placed.range, at)));
    places.collect::<Option<_>>().map_or(Proof::None, Proof::Places)
}

/// The present entry of a directory at `path`.
pub fn find_at(root: &Arc<Root>, path: &RelPath) -> Result<Option<Found>> {
    let stat = match root.entry(path).and_then(|entry| entry.stat()) {
        Err(e) if is_absent(&e) => return Ok(None),
        other => other.context("read the attributes of", root.show(path))?,
    };
    let target = if stat.kind == Kind::Symlink {
        let target =
            root.parent(path).and_then(|(dir, name)| Ok(rustix::fs::readlinkat(dir, name, Vec::new())?));
        Some(target.context("read the link", root.show(path))?.into_bytes().into())
    } else {
        None
    };
    Ok(Some(Found {
        kind: stat.kind,
        attributes: stat.attributes,
        target,
        proof: Proof::None,
        content: Place::Spot(Spot::new(root.clone(), path.clone())),
    }))
}

/// Whether there is nothing, or something on the way that is not a directory of this tree.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV))
}
