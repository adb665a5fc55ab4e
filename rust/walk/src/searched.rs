//! One Btrfs tree whose inodes are loaded when they are needed.

use crate::listing::{Listing, Recorder};
use crate::names::{STORE, is_too_long};
use crate::subset::Matcher;
use snapsync_model::{
    Attributes, Context, Directories, Inode, Kind, Layout, Link, Monitor, ROOT, RelPath, Result, Subset,
};
use snapsync_sys::btrfs::{
    self, DIR_INDEX, INODE_ITEM, InodeItems, ItemReader, Key, ROOT_INODE, Search, Subvolume,
};
use snapsync_sys::{FileSystem, Root, Stat, stat_at};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// How many inodes are held before they are recorded.
const SOME: usize = 4096;
/// About how many runs of data are remembered of all files.
const SEGMENTS: usize = 1 << 15;

/// A name of an inode for each owner and group.
pub(crate) type Owned = HashMap<(u32, u32), Link>;

fn owner_of(attributes: &Attributes) -> (u32, u32) {
    (attributes.uid, attributes.gid)
}

/// The entries of a directory with their inode numbers; None for a subvolume.
pub(crate) type Entries = BTreeSet<(Box<[u8]>, Option<u64>)>;

/// Those of these inodes that a subvolume holds within a subset.
pub(crate) fn pick(root: &Root, subset: &Subset, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
    let mut half = Half::open(root, subset)?;
    for ino in inos {
        let items = half.items(if *ino == ROOT { ROOT_INODE } else { *ino })?;
        half.load(&items)?;
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
    /// Whether it is within the subset.
    pub(crate) is_within: bool,
    /// Whether it is a directory within the subset.
    pub(crate) is_directory: bool,
    /// The name of a directory, also if it is outside the subset.
    pub(crate) place: Option<Link>,
}

/// The inodes that were changed in a transaction, with their items, and those that were changed later.
#[derive(Default)]
pub(crate) struct Changed {
    pub(crate) then: HashMap<u64, Box<[u8]>>,
    pub(crate) later: Vec<u64>,
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
    /// Where files have data, for as many as there is room for.
    pub(crate) layouts: HashMap<u64, Layout>,
    segments: usize,
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
            layouts: HashMap::new(),
            segments: 0,
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

    /// The transaction in which a snapshot was taken of this subvolume; None if it is not one of it.
    pub(crate) fn parted_from_snapshot(&self, snapshot: &Half) -> Option<u64> {
        let (own, snapshot) = (self.subvolume?, snapshot.subvolume?);
        let is_of_it = snapshot.read_only && snapshot.parent_uuid == own.uuid && own.uuid != [0; 16];
        is_of_it.then_some(snapshot.created)
    }

    /// The inodes whose item was changed in `transaction` or later.
    pub(crate) fn changed_since(&mut self, transaction: u64) -> Result<Changed> {
        let mut found = Changed::default();
        let visited = self.search.each(self.root.fd(), Key::all(), transaction, &mut |key, item| {
            if key.kind == INODE_ITEM {
                let inode = btrfs::inode_item(item).ok_or(io::ErrorKind::InvalidData)?;
                // The node also holds items of inodes that did not change.
                if inode.changed > transaction {
                    found.later.push(key.objectid);
                } else if inode.changed == transaction {
                    found.then.insert(key.objectid, item.into());
                }
            }
            Ok(())
        });
        self.visited += self.show(visited)?;
        Ok(found)
    }

    /// All but the entries and the data of an inode.
    fn items(&mut self, number: u64) -> Result<InodeItems> {
        let found = self.search.items(self.root.fd(), number, INODE_ITEM..=DIR_INDEX - 1);
        let (items, visited) = self.show(found)?;
        self.visited += visited;
        Ok(items)
    }

    /// Takes an inode if it exists.
    pub(crate) fn load(&mut self, items: &InodeItems) -> Result<Loaded> {
        let Some(mut inode) = self.show(inode_of(items))? else { return Ok(Loaded::default()) };
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
            return Ok(Loaded { place, ..Loaded::default() });
        }
        self.directories.add(&inode);
        self.inodes.insert(items.number, inode);
        Ok(Loaded { is_within: true, is_directory, place })
    }

    /// Remembers where a file has data, to which what was written up to transaction `since` is shared.
    pub(crate) fn keep_layout(&mut self, items: &InodeItems, since: u64) -> Result<()> {
        let file = self.inodes.get(&items.number).filter(|inode| inode.kind == Kind::File);
        let Some(file) = file.filter(|_| self.segments < SEGMENTS) else { return Ok(()) };
        let layout = self.show(items.layout(file.attributes.size, since))?;
        self.segments += layout.segments().len();
        self.layouts.insert(items.number, layout);
        Ok(())
    }

    /// Every inode. None if the tree may not be searched, or if what it says of its root is not what the
    /// kernel tells here.
    pub(crate) fn everything(&mut self, monitor: &Monitor) -> Result<Option<Listing>> {
        if !btrfs::may_search(self.root.fd()) {
            return Ok(None);
        }
        let top = self.items(ROOT_INODE)?;
        let seen = |inode: &Inode| {
            inode.attributes == self.top.attributes
                && (inode.generation, inode.ctime) == (self.top.generation, self.top.ctime)
        };
        if !self.show(inode_of(&top))?.as_ref().is_some_and(seen) {
            return Ok(None);
        }
        let (recorder, mut reader) = (Recorder::default(), Reader::of(self)?);
        let mut owners = Owned::new();
        reader.go_to(Key::all());
        while let Some(items) = reader.next()? {
            if self.load(&items)?.is_directory {
                self.note_subvolumes(&items)?;
            }
            if self.inodes.len() >= SOME {
                monitor.check()?;
                monitor.advance(SOME as u64);
                owners.extend(self.owned());
                recorder.add(&self.taken())?;
            }
        }
        owners.extend(self.owned());
        recorder.add(&self.taken())?;
        if self.are_owners_as_told(&owners)? { recorder.finish().map(Some) } else { Ok(None) }
    }

    /// One of the loaded inodes of each owner and group.
    pub(crate) fn owned(&self) -> Owned {
        let inodes = self.inodes.values();
        let named = |inode: &Inode| inode.links.first().cloned();
        inodes.filter_map(|inode| Some((owner_of(&inode.attributes), named(inode)?))).collect()
    }

    /// Whether owners are here what the tree says: a mount may give them other numbers.
    pub(crate) fn are_owners_as_told(&self, owners: &Owned) -> Result<bool> {
        for (owner, link) in owners {
            let path = self.directories.path_of(link.parent)?.join(&link.name)?;
            let stat = match self.root.entry(&path).and_then(|entry| entry.stat()) {
                // It went meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.context("read the attributes of", self.root.show(&path))?,
            };
            if owner_of(&stat.attributes) != *owner {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The inodes that were loaded since the last call, each once for each of its names.
    fn taken(&mut self) -> Vec<Inode> {
        let once_a_name = |mut inode: Inode| {
            let further = inode.links.split_off(inode.links.len().min(1));
            let first = inode.clone();
            std::iter::once(inode)
                .chain(further.into_iter().map(move |link| Inode { links: vec![link], ..first.clone() }))
        };
        std::mem::take(&mut self.inodes).into_values().flat_map(once_a_name).collect()
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
            let items = self.items(at)?;
            let inode = self.show(inode_of(&items))?;
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

    pub(crate) fn entries(&mut self, directory: &InodeItems) -> Result<Entries> {
        self.note_subvolumes(directory)?;
        let entries = self.show(directory.entries())?;
        Ok(entries.into_iter().map(|entry| (entry.name, entry.inode)).collect())
    }

    fn note_subvolumes(&mut self, directory: &InodeItems) -> Result<()> {
        let parent = if directory.number == ROOT_INODE { ROOT } else { directory.number };
        for name in self.show(directory.subvolumes())? {
            let link = Link { parent, name };
            if !self.leaves_out(&link, true)? {
                self.foreign.push(self.directories.path(&link)?);
            }
        }
        Ok(())
    }
}

/// Reads the inodes of a tree in the order of their numbers.
pub(crate) struct Reader {
    inodes: ItemReader<OwnedFd>,
    next: Option<InodeItems>,
    tree: PathBuf,
}

impl Reader {
    pub(crate) fn of(half: &Half) -> Result<Reader> {
        let fd = half.show(half.root.fd().as_fd().try_clone_to_owned())?;
        Ok(Reader { inodes: ItemReader::new(fd), next: None, tree: half.root.path().to_path_buf() })
    }

    pub(crate) fn go_to(&mut self, keys: (Key, Key)) {
        self.inodes.go_to(keys);
        self.next = None;
    }

    fn next(&mut self) -> Result<Option<InodeItems>> {
        match self.next.take() {
            None => self.inodes.next().transpose().context("search the tree of", &self.tree),
            known => Ok(known),
        }
    }

    /// The inode with this number, which is higher than all that were asked for.
    pub(crate) fn pass_to(&mut self, number: u64) -> Result<Option<InodeItems>> {
        while let Some(items) = self.next()? {
            if items.number == number {
                return Ok(Some(items));
            }
            if items.number > number {
                self.next = Some(items);
                break;
            }
        }
        Ok(None)
    }

    /// The number of items that were read.
    pub(crate) fn visited(&self) -> u64 {
        self.inodes.visited()
    }
}

/// An inode of a subvolume with all its names; None if it does not exist.
fn inode_of(items: &InodeItems) -> io::Result<Option<Inode>> {
    let Some(item) = items.inode()? else { return Ok(None) };
    let Some(kind) = item.kind else { return Ok(None) };
    let is_root = items.number == ROOT_INODE;
    let mut links = if is_root { Vec::new() } else { items.links()? };
    links.iter_mut().filter(|link| link.parent == ROOT_INODE).for_each(|link| link.parent = ROOT);
    links.sort_unstable();
    Ok(Some(Inode {
        ino: if is_root { ROOT } else { items.number },
        generation: item.generation,
        kind,
        attributes: item.attributes,
        ctime: item.ctime,
        blocks: item.blocks,
        links,
        details: items.details().map(Box::new),
        object: 0,
        shared: false,
    }))
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
