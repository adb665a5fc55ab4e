//! An index that finds the inodes of a side by name.

use snapsync_model::{Error, Inode, Kind, Monitor, ROOT, Result, Side};
use std::collections::HashMap;

/// The number of inodes between two checks for Ctrl-C.
const CHECKED: usize = 4096;

pub(crate) struct Entry {
    pub(crate) name: Box<[u8]>,
    pub(crate) ino: u64,
}

/// All inodes of a side, and the entries of each directory sorted by name.
pub(crate) struct Index {
    inodes: HashMap<u64, Inode>,
    directories: HashMap<u64, Vec<Entry>>,
    pub(crate) blocks: u64,
}

impl Index {
    pub(crate) fn new(side: &dyn Side, monitor: &Monitor) -> Result<Index> {
        let mut index = Index { inodes: HashMap::new(), directories: HashMap::new(), blocks: 0 };
        for (at, inode) in side.inodes()?.enumerate() {
            if at % CHECKED == 0 {
                monitor.check()?;
            }
            index.add(inode?);
        }
        if !index.inodes.contains_key(&ROOT) {
            return Err(Error::integrity(
                "the snapshot has no root",
                "its table is damaged: delete that snapshot and take another",
            ));
        }
        for entries in index.directories.values_mut() {
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            entries.shrink_to_fit();
        }
        Ok(index)
    }

    fn add(&mut self, inode: Inode) {
        for link in &inode.links {
            let entry = Entry { name: link.name.clone(), ino: inode.ino };
            self.directories.entry(link.parent).or_default().push(entry);
        }
        self.blocks += inode.blocks;
        self.inodes.insert(inode.ino, inode);
    }

    pub(crate) fn len(&self) -> usize {
        self.inodes.len()
    }

    pub(crate) fn get(&self, ino: u64) -> Option<&Inode> {
        self.inodes.get(&ino)
    }

    /// The entries of a directory.
    pub(crate) fn entries(&self, ino: u64) -> &[Entry] {
        self.directories.get(&ino).map_or(&[], |entries| &entries[..])
    }

    pub(crate) fn child(&self, parent: u64, name: &[u8]) -> Option<&Inode> {
        let entries = self.entries(parent);
        let at = entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.get(entries[at].ino)
    }

    /// The parent of a directory; the root is its own parent.
    pub(crate) fn parent(&self, ino: u64) -> u64 {
        self.get(ino).and_then(|inode| inode.links.first()).map_or(ROOT, |link| link.parent)
    }

    /// The link count as `stat` reports it: for a directory its own entry, its name, and one for each
    /// subdirectory.
    pub(crate) fn nlink(&self, inode: &Inode) -> u32 {
        if inode.kind != Kind::Directory {
            return inode.links.len() as u32;
        }
        let is_directory = |entry: &&Entry| self.get(entry.ino).is_some_and(|i| i.kind == Kind::Directory);
        2 + self.entries(inode.ino).iter().filter(is_directory).count() as u32
    }
}
