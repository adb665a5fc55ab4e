//! One side of a comparison: a snapshot, or a directory in its present state.

use crate::content::Content;
use crate::error::{Error, Result};
use crate::extent::{Address, Layout};
use crate::inode::{Details, Inode, Kind, Link, ROOT};
use crate::mutex::locked;
use crate::path::RelPath;
use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub type Inodes<'a> = Box<dyn Iterator<Item = Result<Inode>> + Send + 'a>;

/// A tree whose inodes can be listed in order of number, and opened.
pub trait Side: Send + Sync {
    /// The inodes sorted by number, each once: all of them, or all that may differ from the other side. Can
    /// be called again.
    fn inodes(&self) -> Result<Inodes<'_>>;

    /// Every inode, even if `inodes` lists only some.
    fn everything(&self) -> Result<Inodes<'_>> {
        self.inodes()
    }

    /// The path of the entry that `link` names.
    fn path_of(&self, link: &Link) -> Result<RelPath>;

    /// What can only be learned by opening the inode; copied from `inode` if it is there.
    fn details(&self, inode: &Inode) -> Result<Details>;

    /// The data of a file, for reading.
    fn open(&self, inode: &Inode) -> Result<Content>;

    /// Both of a file at `path`, which one look may give.
    fn details_and_data(&self, path: &RelPath, inode: &Inode) -> Result<(Details, Result<Content>)> {
        let _ = path;
        Ok((self.details(inode)?, self.open(inode)))
    }

    /// What was read of `file`, opened by `open`, is the inode's: asked after reading, where the bytes of a
    /// snapshot may lie in a tree that changes. Fails with `Error::Lost` where it may not be.
    fn holds_still(&self, inode: &Inode, file: &Content) -> Result<()>;

    /// Where `file`, opened by `open`, holds data.
    fn layout(&self, inode: &Inode, file: &Content) -> Result<Layout>;

    /// Where a file has data, if that is known without opening it. Such a file shares nothing.
    fn known_layout(&self, inode: &Inode) -> Result<Option<Layout>> {
        let _ = inode;
        Ok(None)
    }

    /// The bytes of a file if they lie among those of others, and their BLAKE3: quicker than to open it.
    fn packed(&self, inode: &Inode) -> Result<Option<Packed>> {
        let _ = inode;
        Ok(None)
    }

    /// What compares a file with others by digests of its bytes, if this side has those: none of its own are
    /// read then.
    fn by_digests<'a>(&'a self, inode: &'a Inode) -> Option<ByDigests<'a>> {
        let _ = inode;
        None
    }

    /// The path of an inode's first name.
    fn path(&self, inode: &Inode) -> Result<RelPath> {
        match inode.links.first() {
            Some(link) => self.path_of(link),
            None => Ok(RelPath::root()),
        }
    }

    /// Identifies what the addresses in this side's layouts belong to, if they stay valid while it is
    /// examined: equal addresses in equal spaces mean equal data. None if only the bytes prove anything.
    fn space(&self) -> Option<u128> {
        None
    }

    /// The files that may hold data at `address`; None if there is no way to tell.
    fn owners(&self, address: Address) -> Result<Option<Owners>> {
        let _ = address;
        Ok(None)
    }

    /// Those of these inodes that exist, sorted, whether or not `inodes` lists them.
    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        let wanted = |inode: &Result<Inode>| inode.as_ref().map_or(true, |i| inos.contains(&i.ino));
        self.inodes()?.filter(wanted).collect()
    }
}

/// Whether the bytes of a file, which is as long and is read at this path, are those of the other one.
pub type ByDigests<'a> = Box<dyn Fn(&Content, &Path) -> Result<bool> + Send + Sync + 'a>;

/// All bytes of a small file, and their BLAKE3.
pub struct Packed {
    pub bytes: Vec<u8>,
    pub hash: [u8; 32],
}

/// What `read` makes of the data of an inode; once more where that went elsewhere under its hands, as when a
/// commit saves what it is about to change. `file` is where the data is, before and after.
pub fn read_still<T, F: Borrow<Content> + From<Content>>(
    side: &dyn Side,
    inode: &Inode,
    file: &mut F,
    mut read: impl FnMut(&Content) -> Result<T>,
) -> Result<T> {
    let found = read((*file).borrow());
    match side.holds_still(inode, (*file).borrow()) {
        Ok(()) => return found,
        Err(Error::Lost { .. }) => *file = side.open(inode)?.into(),
        Err(error) => return Err(error),
    }
    // Nor is it an answer that what is there now could not be read.
    let found = read((*file).borrow());
    side.holds_still(inode, (*file).borrow()).and(found)
}

/// The files that hold data at an address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Their inode numbers, sorted.
    pub inos: Vec<u64>,
    /// The number of pieces that this side's files hold of the extent at the address: the time for finding
    /// the owners grows with it.
    pub pieces: u64,
}

/// The names of all directories of a tree, enough to build the path of anything in it.
#[derive(Clone, Debug, Default)]
pub struct Directories {
    links: HashMap<u64, Link>,
    deep: Deep,
}

/// More levels than any tree that a kernel can walk.
const DEEPEST: usize = 1 << 20;
/// The last levels of a path, which are always put together anew.
const LEVELS: usize = 256;
/// How many bytes of paths are kept.
const MEMORY: usize = 8 << 20;

/// Paths of some deep directories. Building the path of each entry from its first name on would take time
/// that grows with the square of the depth.
#[derive(Debug, Default)]
struct Deep(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    paths: HashMap<u64, Arc<[u8]>>,
    bytes: usize,
}

impl Clone for Deep {
    fn clone(&self) -> Deep {
        Deep::default()
    }
}

impl Deep {
    fn get(&self, ino: u64) -> Option<Arc<[u8]>> {
        locked(&self.0).paths.get(&ino).cloned()
    }

    fn keep(&self, ino: u64, path: &[u8]) {
        let mut kept = locked(&self.0);
        kept.bytes += path.len();
        if kept.bytes > MEMORY {
            *kept = Kept { bytes: path.len(), ..Kept::default() };
        }
        kept.paths.insert(ino, path.into());
    }

    fn forget(&mut self) {
        let kept = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !kept.paths.is_empty() {
            *kept = Kept::default();
        }
    }
}

impl Directories {
    pub fn add(&mut self, inode: &Inode) {
        if let (Kind::Directory, Some(link)) = (inode.kind, inode.links.first()) {
            self.insert(inode.ino, link.clone());
        }
    }

    pub fn insert(&mut self, ino: u64, link: Link) {
        self.deep.forget();
        self.links.insert(ino, link);
    }

    pub fn remove(&mut self, ino: u64) {
        self.deep.forget();
        self.links.remove(&ino);
    }

    /// Forgets the directories that lie in any of `parents`.
    pub fn remove_in(&mut self, parents: &HashSet<u64>) {
        self.deep.forget();
        self.links.retain(|_, link| !parents.contains(&link.parent));
    }

    /// The name of a directory other than the root.
    pub fn link(&self, ino: u64) -> Option<&Link> {
        self.links.get(&ino)
    }

    pub fn contains(&self, ino: u64) -> bool {
        ino == ROOT || self.links.contains_key(&ino)
    }

    /// The path of the entry that `link` names.
    pub fn path(&self, link: &Link) -> Result<RelPath> {
        let mut names = vec![&link.name[..]];
        let (mut at, mut known, mut kept) = (link.parent, None, Vec::new());
        while at != ROOT {
            if names.len() >= LEVELS {
                known = self.deep.get(at);
                if known.is_some() {
                    break;
                }
                if names.len().is_multiple_of(LEVELS) {
                    kept.push((at, names.len()));
                }
            }
            let above = self.links.get(&at).filter(|_| names.len() < DEEPEST).ok_or_else(|| orphan(at))?;
            names.push(&above.name);
            at = above.parent;
        }
        // Paths that lie close together are not all kept.
        kept.retain(|(_, below)| names.len() - below >= LEVELS);
        let mut path = known.map_or_else(Vec::new, |known| known.to_vec());
        for left in (0..names.len()).rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(names[left]);
            if kept.last().is_some_and(|(_, below)| *below == left) {
                kept.pop().iter().for_each(|(ino, _)| self.deep.keep(*ino, &path));
            }
        }
        RelPath::new(&path)
    }

    /// The path of a directory by its number.
    pub fn path_of(&self, ino: u64) -> Result<RelPath> {
        match self.links.get(&ino) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn link(parent: u64, name: &str) -> Link {
        Link { parent, name: name.as_bytes().into() }
    }

    #[test]
    fn paths_of_what_lies_deep_are_like_others_and_change_with_what_is_above() {
        let mut directories = Directories::default();
        let deepest = 3 * LEVELS as u64 + 7;
        for ino in 1..=deepest {
            directories.insert(ino, link(ino - 1, &format!("n{ino}")));
        }
        let names = |first: &str, to: u64| {
            let rest = (2..=to).map(|ino| format!("/n{ino}")).collect::<String>();
            RelPath::new(format!("{first}{rest}/file").as_bytes()).unwrap()
        };
        for first in ["n1", "other"] {
            directories.insert(1, link(ROOT, first));
            for ino in (1..=deepest).rev().step_by(5).chain((1..=deepest).step_by(5)) {
                assert_eq!(directories.path(&link(ino, "file")).unwrap(), names(first, ino), "{ino}");
            }
        }
        directories.remove(2);
        assert!(directories.path(&link(deepest, "file")).is_err());
    }
}
