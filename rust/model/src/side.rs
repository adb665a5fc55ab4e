//! One side of a comparison: a snapshot, or a directory as it is.

use crate::{Details, Error, Inode, Kind, Layout, Link, ROOT, RelPath, Result};
use std::collections::HashMap;
use std::fs::File;

pub type Inodes<'a> = Box<dyn Iterator<Item = Result<Inode>> + Send + 'a>;

/// A tree whose inodes can be listed in order of number, and opened.
pub trait Side: Sync {
    /// Every inode once, sorted by number. May be asked for again.
    fn inodes(&self) -> Result<Inodes<'_>>;

    fn directories(&self) -> &Directories;

    /// What costs an open to learn; the inode's own where it has them already.
    fn details(&self, inode: &Inode) -> Result<Details>;

    /// The data of a file, for reading.
    fn open(&self, inode: &Inode) -> Result<File>;

    /// Where `file`, opened by `open`, holds data.
    fn layout(&self, inode: &Inode, file: &File) -> Result<Layout>;

    /// The path of an inode's first name.
    fn path(&self, inode: &Inode) -> Result<RelPath> {
        match inode.links.first() {
            Some(link) => self.directories().path(link),
            None => Ok(RelPath::root()),
        }
    }
}

/// The name of every directory of a tree: enough to make the path of anything in it.
#[derive(Debug, Default)]
pub struct Directories(HashMap<u64, Link>);

/// Deeper than any tree a kernel can walk.
const DEEPEST: usize = 1 << 20;

impl Directories {
    pub fn add(&mut self, inode: &Inode) {
        if let (Kind::Directory, Some(link)) = (inode.kind, inode.links.first()) {
            self.0.insert(inode.ino, link.clone());
        }
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
