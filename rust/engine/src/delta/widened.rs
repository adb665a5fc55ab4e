//! A side that lists some inodes in addition to those that may differ.

use snapsync_model::{Address, Details, Inode, Inodes, Layout, Link, Owners, RelPath, Result, Side};
use std::collections::BTreeSet;
use std::fs::File;

pub(crate) struct Widened {
    side: Box<dyn Side>,
    /// Sorted by number.
    more: Vec<Inode>,
}

impl Widened {
    pub(crate) fn by(side: Box<dyn Side>, inos: &BTreeSet<u64>) -> Result<Box<dyn Side>> {
        if inos.is_empty() {
            return Ok(side);
        }
        let more = side.pick(inos)?;
        Ok(Box::new(Widened { side, more }))
    }
}

impl Side for Widened {
    fn inodes(&self) -> Result<Inodes<'_>> {
        let (mut listed, mut more) = (self.side.inodes()?.peekable(), self.more.iter().peekable());
        Ok(Box::new(std::iter::from_fn(move || {
            let next = match listed.peek() {
                Some(Err(_)) => return listed.next(),
                Some(Ok(inode)) => inode.ino,
                None => u64::MAX,
            };
            match more.next_if(|inode| inode.ino <= next) {
                Some(inode) if inode.ino == next => listed.next(),
                Some(inode) => Some(Ok(inode.clone())),
                None => listed.next(),
            }
        })))
    }

    fn everything(&self) -> Result<Inodes<'_>> {
        self.side.everything()
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        self.side.path_of(link)
    }

    fn details(&self, inode: &Inode) -> Result<Details> {
        self.side.details(inode)
    }

    fn open(&self, inode: &Inode) -> Result<File> {
        self.side.open(inode)
    }

    fn holds_still(&self, inode: &Inode, file: &File) -> Result<()> {
        self.side.holds_still(inode, file)
    }

    fn layout(&self, inode: &Inode, file: &File) -> Result<Layout> {
        self.side.layout(inode, file)
    }

    fn space(&self) -> Option<u128> {
        self.side.space()
    }

    fn owners(&self, address: Address) -> Result<Option<Owners>> {
        self.side.owners(address)
    }

    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        self.side.pick(inos)
    }
}
