//! A side some of whose files have their bytes elsewhere, because they are lost where it has them.

use crate::delta::reading::list_from_side;
use snapsync_model::{Content, Context, Error, Inode, Layout, Packed, Result, Side};
use snapsync_sys::{Root, stat_of};
use std::collections::BTreeMap;

pub(crate) struct Completed {
    side: Box<dyn Side>,
    /// Directories that hold files by the paths that they have in the side.
    directories: Vec<Root>,
    /// Which of them has an inode's bytes.
    files: BTreeMap<u64, usize>,
}

impl Completed {
    pub(crate) fn new(side: Box<dyn Side>) -> Completed {
        Completed { side, directories: Vec::new(), files: BTreeMap::new() }
    }

    /// Takes the bytes of these files from a directory.
    pub(crate) fn take(&mut self, directory: Root, inodes: &[Inode]) {
        let at = self.directories.len();
        self.directories.push(directory);
        self.files.extend(inodes.iter().map(|inode| (inode.ino, at)));
    }
}

impl Side for Completed {
    list_from_side!();

    fn open(&self, inode: &Inode) -> Result<Content> {
        let Some(at) = self.files.get(&inode.ino) else { return self.side.open(inode) };
        let (directory, path) = (&self.directories[*at], self.side.path(inode)?);
        let file = directory.read(&path).context("open", directory.show(&path))?;
        let found = stat_of(&file).context("read the attributes of", directory.show(&path))?;
        if found.attributes.size == inode.attributes.size {
            return Ok(file.into());
        }
        Err(Error::integrity(
            format!("{} came with another size than the snapshot has for it", path.display()),
            "the other side has other bytes under the same id: `snapsync verify` shows what differs",
        ))
    }

    fn holds_still(&self, inode: &Inode, file: &Content) -> Result<()> {
        if self.files.contains_key(&inode.ino) { Ok(()) } else { self.side.holds_still(inode, file) }
    }

    fn layout(&self, inode: &Inode, file: &Content) -> Result<Layout> {
        self.side.layout(inode, file)
    }

    fn known_layout(&self, inode: &Inode) -> Result<Option<Layout>> {
        self.side.known_layout(inode)
    }

    fn packed(&self, inode: &Inode) -> Result<Option<Packed>> {
        if self.files.contains_key(&inode.ino) { Ok(None) } else { self.side.packed(inode) }
    }

    fn space(&self) -> Option<u128> {
        self.side.space()
    }
}
