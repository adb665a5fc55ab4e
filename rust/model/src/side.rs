//! One side of a comparison: a snapshot, or a directory as it is.

use crate::error::{Error, Result};
use crate::extent::{Address, Layout};
use crate::inode::{Details, Inode, Kind, Link, ROOT};
use crate::path::RelPath;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;

pub type Inodes<'a> = Box<dyn Iterator<Item = Result<Inode>> + Send + 'a>;

/// A tree whose inodes can be listed in order of number, and opened.
pub trait Side: Send + Sync {
    /// Inodes sorted by number, each once: every one, or all that may differ from the other side. May be asked for again.
    fn inodes(&self) -> Result<Inodes<'_>>;

    /// Every inode, of a side that lists only some.
    fn everything(&self) -> Result<Inodes<'_>> {
        self.inodes()
    }

    /// The path of the entry that `link` names.
    fn path_of(&self, link: &Link) -> Result<RelPath>;

    /// What costs an open to learn; the inode's own where it has them already.
    fn details(&self, inode: &Inode) -> Result<Details>;

    /// The data of a file, for reading.
    fn open(&self, inode: &Inode) -> Result<File>;

    /// Where `file`, opened by `open`, holds data.
    fn layout(&self, inode: &Inode, file: &File) -> Result<Layout>;

    /// The path of an inode's first name.
    fn path(&self, inode: &Inode) -> Result<RelPath> {
        match inode.links.first() {
            Some(link) => self.path_of(link),
            None => Ok(RelPath::root()),
        }
    }

    /// What the addresses in this side's layouts belong to, where they hold for as long as it is looked at: data at
    /// the same address of the same space is the same. None where only bytes prove anything.
    fn space(&self) -> Option<u128> {
        None
    }

    /// The numbers of files that may hold data at `address`, sorted; None where nothing tells.
    fn owners(&self, address: Address) -> Result<Option<Vec<u64>>> {
        let _ = address;
        Ok(None)
    }

    /// Those of these inodes that are there, sorted, whether or not `inodes` lists them.
    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        let wanted = |inode: &Result<Inode>| inode.as_ref().map_or(true, |i| inos.contains(&i.ino));
        self.inodes()?.filter(wanted).collect()
    }
}

/// The name of every directory of a tree: enough to make the path of anything in it.
#[derive(Clone, Debug, Default)]
pub struct Directories(HashMap<u64, Link>);

/// Deeper than any tree a kernel can walk.
const DEEPEST: usize = 1 << 20;

impl Directories {
    pub fn add(&mut self, inode: &Inode) {
        if let (Kind::Directory, Some(link)) = (inode.kind, inode.links.first()) {
            self.insert(inode.ino, link.clone());
        }
    }

    pub fn insert(&mut self, ino: u64, link: Link) {
        self.0.insert(ino, link);
    }

    pub fn remove(&mut self, ino: u64) {
        self.0.remove(&ino);
    }

    /// Forgets where the directories in some others are.
    pub fn remove_in(&mut self, parents: &HashSet<u64>) {
        self.0.retain(|_, link| !parents.contains(&link.parent));
    }

    /// The name of a directory other than the root.
    pub fn link(&self, ino: u64) -> Option<&Link> {
        self.0.get(&ino)
    }

    pub fn contains(&self, ino: u64) -> bool {
        ino == ROOT || self.0.contains_key(&ino)
    }

    /// The path of the entry that `link` names.
    pub fn path(&self, link: &Link) -> Result<RelPath> {
        let mut names = vec![&link.name[..]];
        let mut at = link.parent;
        while at != ROOT {
            let above = self.0.get(&at).filter(|_| names.len() < DEEPEST).ok_or_else(|| orphan(at))?;
            names.push(&above.name);
            at = above.parent;
        }
        names.reverse();
        RelPath::new(&names.join(&b'/'))
    }

    /// The path of a directory by its number.
    pub fn path_of(&self, ino: u64) -> Result<RelPath> {
        match self.0.get(&ino) {
            Some(link) => self.path(link),
            None if ino == ROOT => Ok(RelPath::root()),
            None => Err(orphan(ino)),
        }
    }
}

fn orphan(ino: u64) -> Error {
    Error::integrity(
        format!("directory {ino} has no place in its tree"),
        "the snapshot's table is damaged: delete that snapshot and take another",
    )
}
