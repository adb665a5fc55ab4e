//! Looks up one path in a snapshot without opening all of it.

use crate::pool::snapshot::PoolSnapshot;
use crate::volume::handle::Volume;
use snapsync_manifest::{Table, identity};
use snapsync_model::{
    Address, Attributes, Content, Context, Inode, Kind, Link, Provider, ROOT, Range, RelPath, Result, Side,
    SnapshotInfo,
};
use snapsync_sys::{Root, Spot, btrfs};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

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
    Row(Arc<PoolSnapshot>, Box<Inode>),
}

impl Found {
    /// The path of a file's bytes, for people.
    pub fn content(&self) -> PathBuf {
        match &self.content {
            Place::Spot(spot) => spot.show(),
            Place::Row(snapshot, inode) => snapshot.place_of(inode),
        }
    }

    /// Where they begin in it: many small files are in one.
    pub fn content_offset(&self) -> u64 {
        match &self.content {
            Place::Spot(_) => 0,
            Place::Row(snapshot, inode) => snapshot.start_of(inode),
        }
    }

    /// The bytes of a file.
    pub fn open(&self) -> Result<Content> {
        match &self.content {
            Place::Spot(spot) => spot.open_in_tree().map(Content::from).context("open", spot.show()),
            Place::Row(snapshot, inode) => snapshot.open(inode),
        }
    }

    /// Fails where what was read of it may be other bytes.
    pub fn holds_still(&self, file: &Content) -> Result<()> {
        match &self.content {
            Place::Spot(_) => Ok(()),
            Place::Row(snapshot, inode) => snapshot.holds_still(inode, file),
        }
    }
}

impl Volume {
    /// The entry of a snapshot at `path`; None if there is none.
    pub fn look_up(&self, info: &SnapshotInfo, path: &RelPath) -> Result<Option<Found>> {
        let dir = self.dir_of(info.id);
        match info.provider {
            Provider::Btrfs => {
                let root = Arc::new(dir.join("tree").tree()?);
                let found =
                    find_at(&root, path)?.map(|found| Found { proof: places(&root, path, &found), ..found });
                let is_left_out = || snapsync_walk::left_out(&root, path, false, &info.subset);
                if found.is_some() && is_left_out()?.is_some() { Ok(None) } else { Ok(found) }
            }
            Provider::Pool => {
                let snapshot = Arc::new(self.open_pool(info)?);
                Ok(row_of(&snapshot.table, path)?.map(|inode| Found::of_row(&snapshot, inode)))
            }
        }
    }

    /// A file that is the same one in two pool snapshots between which nothing changed.
    pub fn table_of(&self, info: &SnapshotInfo) -> Spot {
        identity(&self.dir_of(info.id))
    }
}

impl Found {
    fn of_row(snapshot: &Arc<PoolSnapshot>, inode: Inode) -> Found {
        Found {
            kind: inode.kind,
            attributes: inode.attributes,
            target: inode.details.as_ref().and_then(|details| details.symlink_target.clone()),
            proof: Proof::Object(inode.object),
            content: Place::Row(snapshot.clone(), Box::new(inode)),
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

/// Finds the row in one pass, keeping all rows whose names are part of the path.
fn row_of(table: &Table, path: &RelPath) -> Result<Option<Inode>> {
    let names: Vec<&[u8]> = path.as_bytes().split(|b| *b == b'/').collect();
    let Some((last, above)) = names.split_last() else { return Ok(None) };
    let (mut directories, mut candidates) = (Vec::new(), Vec::new());
    for inode in table.rows()? {
        let inode = inode?;
        if inode.kind == Kind::Directory
            && let Some(link) = inode.links.first().filter(|link| above.contains(&&*link.name))
        {
            directories.push((inode.ino, link.clone()));
        }
        if inode.links.iter().any(|link| *link.name == **last) {
            candidates.push(inode);
        }
    }
    let mut parent = ROOT;
    for name in above {
        let is_next = |link: &Link| link.parent == parent && *link.name == **name;
        match directories.iter().find(|(_, link)| is_next(link)) {
            Some((ino, _)) => parent = *ino,
            None => return Ok(None),
        }
    }
    let is_it = |link: &Link| link.parent == parent && *link.name == **last;
    Ok(candidates.into_iter().find(|inode| inode.links.iter().any(is_it)))
}
