//! One Btrfs tree whose inodes are loaded when they are needed.

use crate::names::{STORE, is_too_long};
use crate::subset::Matcher;
use snapsync_model::{Context, Directories, Inode, Kind, Link, ROOT, RelPath, Result, Subset};
use snapsync_sys::btrfs::{self, DIR_INDEX, INODE_EXTREF, INODE_ITEM, Key, ROOT_INODE, Search, Subvolume};
use snapsync_sys::{FileSystem, Root, Stat, stat_at};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;

/// The entries of a directory with their inode numbers; None for a subvolume.
pub(crate) type Entries = BTreeSet<(Box<[u8]>, Option<u64>)>;

/// Those of these inodes that a subvolume holds within a subset.
pub(crate) fn pick(root: &Root, subset: &Subset, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
    let mut half = Half::open(root, subset)?;
    for ino in inos {
        half.load(if *ino == ROOT { ROOT_INODE } else { *ino })?;
    }
    // They are ordered by number, and the root has the lowest.
    Ok(half.inodes.into_values().collect())
}

/// The path of an entry that `pick` found.
pub(crate) fn path_of(root: &Root, subset: &Subset, link: &Link) -> Result<RelPath> {
    let mut half = Half::open(root, subset)?;
    half.place(link.parent)?;
    half.directories.path(link)
}

/// The transaction in which two read-only subvolumes parted; None if they were never one.
fn parted(a: &Subvolume, b: &Subvolume) -> Option<u64> {
    const NONE: [u8; 16] = [0; 16];
    if !(a.read_only && b.read_only) {
        None
    } else if b.parent_uuid == a.uuid && a.uuid != NONE {
        Some(b.created)
    } else if a.parent_uuid == b.uuid && b.uuid != NONE {
        Some(a.created)
    } else if a.parent_uuid == b.parent_uuid && a.parent_uuid != NONE {
        Some(a.created.min(b.created))
    } else {
        None
    }
}

/// What a tree holds for an inode number.
#[derive(Default)]
pub(crate) struct Loaded {
    /// Whether it is a directory within the subset.
    pub(crate) is_directory: bool,
    /// The name of a directory, also if it is outside the subset.
    pub(crate) place: Option<Link>,
}

/// One of the two trees.
pub(crate) struct Half {
    pub(crate) root: Root,
    pub(crate) filesystem: FileSystem,
    pub(crate) top: Stat,
    subvolume: Option<Subvolume>,
    search: Search,
    pub(crate) visited: u64,
    pub(crate) inodes: BTreeMap<u64, Inode>,
    pub(crate) directories: Directories,
    matcher: Matcher,
    pub(crate) has_patterns: bool,
    /// Directories that are left out or cannot be reached from the root.
    hidden: HashSet<u64>,
    pub(crate) foreign: Vec<RelPath>,
    /// Entries below the root with a store's name.
    pub(crate) stores: BTreeSet<RelPath>,
    /// Entries with longer paths than those that are followed.
    pub(crate) too_long: BTreeSet<RelPath>,
}

impl Half {
    pub(crate) fn open(root: &Root, subset: &Subset) -> Result<Half> {
        let (root, path) = (root.again()?.knowing_ways(), root.path());
        let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", path)?;
        let top = stat_at(root.fd(), OsStr::new(".")).context("read the attributes of", path)?;
        let is_subvolume = filesystem.magic == FileSystem::BTRFS && top.ino == ROOT_INODE;
        Ok(Half {
            subvolume: if is_subvolume { btrfs::subvolume(root.fd()).ok() } else { None },
            root,
            filesystem,
            top,
            search: Search::default(),
            visited: 0,
            inodes: BTreeMap::new(),
            directories: Directories::default(),
            matcher: Matcher::new(subset)?,
            has_patterns: !subset.is_everything(),
            hidden: HashSet::new(),
            foreign: Vec::new(),
            stores: BTreeSet::new(),
            too_long: BTreeSet::new(),
        })
    }

    pub(crate) fn parted_from(&self, other: &Half) -> Result<Option<u64>> {
        let (Some(a), Some(b)) = (&self.subvolume, &other.subvolume) else { return Ok(None) };
        let id = |half: &Half| {
            btrfs::filesystem_id(half.root.fd()).context("read the file system of", half.root.path())
        };
        Ok(if id(self)? == id(other)? { parted(a, b) } else { None })
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.subvolume.is_some_and(|subvolume| subvolume.read_only)
    }

    fn show<T>(&self, result: io::Result<T>) -> Result<T> {
        result.context("search the tree of", self.root.path())
    }

    /// The inodes whose item was changed in `transaction` or later.
    pub(crate) fn changed_since(&mut self, transaction: u64) -> Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        let visited = self.search.each(self.root.fd(), Key::all(), transaction, &mut |key, item| {
            if key.kind == INODE_ITEM {
                let inode = btrfs::inode_item(item).ok_or(io::ErrorKind::InvalidData)?;
                // The node also holds items of inodes that did not change.
                if inode.changed >= transaction {
                    found.insert(key.objectid);
                }
            }
            Ok(())
        });
        self.visited += self.show(visited)?;
        Ok(found)
    }

    /// Loads an inode if it exists.
    pub(crate) fn load(&mut self, number: u64) -> Result<Loaded> {
        let loaded = load(&mut self.search, self.root.fd(), number);
        let (inode, visited) = self.show(loaded)?;
        self.visited += visited;
        let Some(mut inode) = inode else { return Ok(Loaded::default()) };
        let is_directory = inode.kind == Kind::Directory;
        let place = inode.links.first().filter(|_| is_directory).cloned();
        let mut links = Vec::new();
        for link in std::mem::take(&mut inode.links) {
            if self.place(link.parent)? && !self.leaves_out(&link, is_directory)? {
                links.push(link);
            }
        }
        inode.links = links;
        if inode.links.is_empty() && inode.ino != ROOT {
            // It is left out, or was removed while it was open.
            return Ok(Loaded { is_directory: false, place });
        }
        self.directories.add(&inode);
        self.inodes.insert(number, inode);
        Ok(Loaded { is_directory, place })
    }

    /// The length of the path of a link's directory.
    fn length(&self, link: &Link) -> usize {
        let above = |link: &&Link| self.directories.link(link.parent);
        let way = std::iter::successors(above(&link), above);
        way.map(|link| link.name.len() + 1).sum()
    }

    /// Whether an entry of a directory within the subset is left out.
    fn leaves_out(&mut self, link: &Link, is_directory: bool) -> Result<bool> {
        if is_too_long(self.length(link), &link.name) {
            self.too_long.insert(self.directories.path_of(link.parent)?.join(&link.name)?);
            return Ok(true);
        }
        let is_store = *link.name == *STORE.as_bytes();
        if !self.has_patterns && !is_store {
            return Ok(false);
        }
        let above = self.directories.path_of(link.parent)?;
        let is_left_out = self.matcher.leaves_out(&above, &link.name, is_directory)?;
        if is_store && !is_left_out && !above.is_root() {
            self.stores.insert(above.join(&link.name)?);
        }
        Ok(is_store || is_left_out)
    }

    /// Finds the way from the root to a directory; false if there is none, or if it leads through what is
    /// left out.
    fn place(&mut self, directory: u64) -> Result<bool> {
        let mut way = Vec::new();
        let mut at = directory;
        let mut visible = loop {
            if self.directories.contains(at) || self.hidden.contains(&at) {
                break !self.hidden.contains(&at);
            }
            let loaded = load(&mut self.search, self.root.fd(), at);
            let (inode, visited) = self.show(loaded)?;
            self.visited += visited;
            let link = inode.and_then(|inode| inode.links.into_iter().next());
            let next = link.as_ref().map(|link| link.parent);
            way.push((at, link));
            match next {
                Some(parent) => at = parent,
                None => break false,
            }
        };
        for (ino, link) in way.into_iter().rev() {
            visible = match &link {
                Some(link) => visible && !self.leaves_out(link, true)?,
                None => false,
            };
            match link {
                Some(link) if visible => self.directories.insert(ino, link),
                _ => {
                    self.hidden.insert(ino);
                }
            }
        }
        Ok(visible)
    }

    pub(crate) fn entries(&mut self, directory: u64) -> Result<Entries> {
        let mut entries = Entries::new();
        let keys = Key::of(directory, DIR_INDEX..=DIR_INDEX);
        let visited = self.search.each(self.root.fd(), keys, 0, &mut |_, item| {
            let entry = btrfs::directory_item(item).ok_or(io::ErrorKind::InvalidData)?;
            entries.insert((entry.name, entry.inode));
            Ok(())
        });
        self.visited += self.show(visited)?;
        let parent = if directory == ROOT_INODE { ROOT } else { directory };
        for (name, _) in entries.iter().filter(|(_, inode)| inode.is_none()) {
            let link = Link { parent, name: name.clone() };
            if !self.leaves_out(&link, true)? {
                self.foreign.push(self.directories.path(&link)?);
            }
        }
        Ok(entries)
    }
}

/// An inode of a subvolume with all its names, and the number of its items; None if it has no names or does
/// not exist.
fn load(search: &mut Search, fd: BorrowedFd<'_>, number: u64) -> io::Result<(Option<Inode>, u64)> {
    let (mut found, mut links) = (None, Vec::new());
    let visited = search.each(fd, Key::of(number, INODE_ITEM..=INODE_EXTREF), 0, &mut |key, item| {
        if key.kind == INODE_ITEM {
            found = Some(btrfs::inode_item(item).ok_or(io::ErrorKind::InvalidData)?);
        } else {
            links.extend(btrfs::names(key, item).ok_or(io::ErrorKind::InvalidData)?);
        }
        Ok(())
    })?;
    let inode = found.and_then(|item| {
        let is_root = number == ROOT_INODE;
        for link in &mut links {
            if link.parent == ROOT_INODE {
                link.parent = ROOT;
            }
        }
        links.sort_unstable();
        Some(Inode {
            ino: if is_root { ROOT } else { number },
            generation: item.generation,
            kind: item.kind?,
            attributes: item.attributes,
            ctime: item.ctime,
            blocks: item.blocks,
            links: if is_root { Vec::new() } else { links },
            details: None,
            object: 0,
            shared: false,
        })
    });
    Ok((inode, visited))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subvolume(uuid: u8, parent: u8, created: u64) -> Subvolume {
        Subvolume {
            tree: 0,
            uuid: [uuid; 16],
            parent_uuid: [parent; 16],
            read_only: true,
            changed: created,
            created,
            created_at: 0,
            received: None,
        }
    }

    #[test]
    fn relatives_parted_when_the_later_was_made_and_others_never() {
        let (old, new, child) = (subvolume(1, 9, 10), subvolume(2, 9, 20), subvolume(3, 1, 30));
        assert_eq!(parted(&old, &new), Some(10));
        assert_eq!(parted(&new, &old), Some(10));
        assert_eq!((parted(&old, &child), parted(&child, &old)), (Some(30), Some(30)));
        assert_eq!(parted(&new, &child), None);
        assert_eq!(parted(&old, &Subvolume { read_only: false, ..new }), None);
    }

    #[test]
    fn subvolumes_without_an_identity_are_no_relatives() {
        assert_eq!(parted(&subvolume(0, 0, 10), &subvolume(0, 0, 20)), None);
        assert_eq!(parted(&subvolume(1, 0, 10), &subvolume(0, 0, 20)), None);
    }
}
