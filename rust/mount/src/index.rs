//! An index that finds the inodes of a side by name. Each inode has a rank: its place among all in order of
//! number. A snapshot never changes, so it is the same whenever the snapshot is read.

use snapsync_model::{Error, Inode, Kind, Link, Monitor, ROOT, Result, Side};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The number of inodes between two checks for Ctrl-C.
const CHECKED: usize = 4096;

/// An entry of a directory: the inode that has the name, and which of its names it is.
struct Entry {
    rank: u32,
    link: u32,
}

#[derive(Default)]
struct Directory {
    /// Sorted by name.
    entries: Vec<Entry>,
    subdirectories: u32,
}

/// All inodes of a side.
pub(crate) struct Index {
    /// By rank; the first is the root.
    inodes: Vec<Inode>,
    directories: HashMap<u32, Directory>,
    pub(crate) blocks: u64,
    /// Whether any has extended attributes, as far as their rows tell.
    pub(crate) has_xattrs: bool,
    /// Two indexes with this in common give each inode the same rank.
    pub(crate) order: u64,
}

impl Index {
    pub(crate) fn new(side: &dyn Side, monitor: &Monitor) -> Result<Index> {
        let (mut inodes, mut order, mut has_xattrs) = (Vec::new(), DefaultHasher::new(), false);
        for (at, inode) in side.inodes()?.enumerate() {
            if at % CHECKED == 0 {
                monitor.check()?;
            }
            let mut inode = inode?;
            inode.links.shrink_to_fit();
            has_xattrs |= inode.details.as_ref().is_none_or(|details| !details.xattrs.is_empty());
            (inode.ino, inode.kind, inode.attributes.size).hash(&mut order);
            inodes.push(inode);
        }
        let is_whole = inodes.first().is_some_and(|inode| inode.ino == ROOT && inode.kind == Kind::Directory);
        if !is_whole || u32::try_from(inodes.len()).is_err() {
            return Err(Error::integrity(
                "the snapshot has no root",
                "its table is damaged: delete that snapshot and take another",
            ));
        }
        inodes.shrink_to_fit();
        let blocks = inodes.iter().map(|inode| inode.blocks).sum();
        let directories = directories_of(&inodes);
        Ok(Index { inodes, directories, blocks, has_xattrs, order: order.finish() })
    }

    pub(crate) fn len(&self) -> usize {
        self.inodes.len()
    }

    pub(crate) fn get(&self, rank: usize) -> Option<&Inode> {
        self.inodes.get(rank)
    }

    pub(crate) fn root(&self) -> &Inode {
        &self.inodes[0]
    }

    /// The entries of a directory from the one at `from` on.
    pub(crate) fn entries(&self, rank: usize, from: usize) -> impl Iterator<Item = (usize, &[u8])> {
        let entries = self.all(rank).get(from..).unwrap_or_default();
        entries.iter().map(|entry| (entry.rank as usize, &*self.link(entry).name))
    }

    pub(crate) fn child(&self, parent: usize, name: &[u8]) -> Option<usize> {
        let entries = self.all(parent);
        let at = entries.binary_search_by(|entry| (*self.link(entry).name).cmp(name)).ok()?;
        Some(entries[at].rank as usize)
    }

    /// What follows an inode by its first name, in the directory of that.
    pub(crate) fn names_after(&self, rank: usize) -> impl Iterator<Item = usize> {
        let name = self.get(rank).and_then(|inode| inode.links.first()).map(|link| &link.name);
        let entries = self.parent(rank).map_or(&[][..], |parent| self.all(parent));
        let from = entries.partition_point(|entry| Some(&self.link(entry).name) <= name);
        entries[from..].iter().map(|entry| entry.rank as usize)
    }

    /// Those of the `near` that follow an inode by number whose first name is in the same directory.
    pub(crate) fn numbers_after(&self, rank: usize, near: usize) -> impl Iterator<Item = usize> {
        let parent = |inode: &Inode| inode.links.first().map(|link| link.parent);
        let above = self.get(rank).and_then(parent);
        let after = self.inodes.iter().enumerate().skip(rank + 1).take(near);
        after.filter(move |(_, inode)| parent(inode) == above).map(|(rank, _)| rank)
    }

    /// The parent of an inode by its first name; None for the root.
    pub(crate) fn parent(&self, rank: usize) -> Option<usize> {
        rank_of(&self.inodes, self.get(rank)?.links.first()?.parent)
    }

    /// The link count as `stat` reports it: for a directory its own entry, its name, and one for each
    /// subdirectory.
    pub(crate) fn nlink(&self, rank: usize) -> u32 {
        match self.get(rank) {
            Some(inode) if inode.kind != Kind::Directory => inode.links.len() as u32,
            _ => 2 + self.directories.get(&(rank as u32)).map_or(0, |directory| directory.subdirectories),
        }
    }

    fn all(&self, rank: usize) -> &[Entry] {
        self.directories.get(&(rank as u32)).map_or(&[], |directory| &directory.entries[..])
    }

    fn link(&self, entry: &Entry) -> &Link {
        link(&self.inodes, entry)
    }
}

fn link<'a>(inodes: &'a [Inode], entry: &Entry) -> &'a Link {
    &inodes[entry.rank as usize].links[entry.link as usize]
}

fn rank_of(inodes: &[Inode], ino: u64) -> Option<usize> {
    inodes.binary_search_by_key(&ino, |inode| inode.ino).ok()
}

fn directories_of(inodes: &[Inode]) -> HashMap<u32, Directory> {
    let mut directories: HashMap<u32, Directory> = HashMap::new();
    // Files that follow each other mostly lie in one directory.
    let mut last = (ROOT, Some(0));
    for (rank, inode) in inodes.iter().enumerate() {
        for (at, link) in inode.links.iter().enumerate() {
            if link.parent != last.0 {
                last = (link.parent, rank_of(inodes, link.parent));
            }
            let Some(parent) = last.1 else { continue };
            let directory = directories.entry(parent as u32).or_default();
            directory.entries.push(Entry { rank: rank as u32, link: at as u32 });
            directory.subdirectories += u32::from(inode.kind == Kind::Directory);
        }
    }
    for directory in directories.values_mut() {
        directory.entries.sort_unstable_by(|a, b| link(inodes, a).name.cmp(&link(inodes, b).name));
        directory.entries.shrink_to_fit();
    }
    directories
}
