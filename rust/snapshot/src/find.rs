//! One path in a snapshot, without opening all of it.

use crate::pool::object_path;
use crate::volume::Volume;
use snapsync_manifest::{Table, identity};
use snapsync_model::{Attributes, Context, Inode, Kind, Link, Provider, ROOT, RelPath, Result, SnapshotInfo};
use snapsync_sys::Root;
use std::io;
use std::path::PathBuf;

/// Longer than the times of Btrfs stand still, in ns.
const TICK: i64 = 100_000_000;

/// What proves two files to hold the same without a look at their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// An object is never written again.
    Object(u64),
    /// The same inode at the same moment: number, birth and change.
    State(u64, u64, i64),
    /// Nothing does.
    None,
}

/// What is at a path.
#[derive(Clone, Debug)]
pub struct Found {
    pub kind: Kind,
    pub attributes: Attributes,
    pub target: Option<Box<[u8]>>,
    pub proof: Proof,
    /// Where the bytes of a file are.
    pub content: PathBuf,
}

impl Volume {
    /// What a snapshot has at `path`; None for nothing.
    pub fn find_in(&self, info: &SnapshotInfo, path: &RelPath) -> Result<Option<Found>> {
        let dir = self.dir_of(info.id);
        match info.provider {
            Provider::Btrfs => {
                let root = Root::open(&dir.join("tree"))?;
                let found = find_at(&root, path)?.map(|found| settled(found, info));
                let is_left_out = || snapsync_walk::left_out(&root, path, false, &info.subset);
                if found.is_some() && is_left_out()?.is_some() { Ok(None) } else { Ok(found) }
            }
            Provider::Pool => {
                let found = row_of(&Table::open(&self.dir_of(info.id))?, path)?;
                Ok(found.map(|inode| self.of_row(inode)))
            }
        }
    }

    /// What is the same file in two pool snapshots between which nothing changed.
    pub fn table_of(&self, info: &SnapshotInfo) -> PathBuf {
        identity(&self.dir_of(info.id))
    }

    fn of_row(&self, inode: Inode) -> Found {
        let content = match inode.object {
            0 => PathBuf::from("/dev/null"),
            object => object_path(&self.store().join("pool"), object),
        };
        Found {
            kind: inode.kind,
            attributes: inode.attributes,
            target: inode.details.and_then(|details| details.symlink_target),
            proof: Proof::Object(inode.object),
            content,
        }
    }
}

/// Two changes within a tick of the clock leave one change time: it proves something only when it is older than the
/// snapshot.
fn settled(found: Found, info: &SnapshotInfo) -> Found {
    let taken = info.created.parse::<jiff::Timestamp>().map_or(i64::MIN, |at| at.as_nanosecond() as i64);
    match found.proof {
        Proof::State(_, _, changed) if changed > taken.saturating_sub(TICK) => {
            Found { proof: Proof::None, ..found }
        }
        _ => found,
    }
}

/// What a directory has at `path`, as it is now.
pub fn find_at(root: &Root, path: &RelPath) -> Result<Option<Found>> {
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
        proof: Proof::State(stat.ino, stat.generation, stat.ctime),
        content: root.show(path),
    }))
}

/// Nothing, or something on the way that is no directory of this tree.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV))
}

/// One pass: rows with a name of the path are kept until all are seen.
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
