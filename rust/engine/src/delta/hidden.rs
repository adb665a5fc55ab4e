//! A side without some of its files.

use snapsync_model::{Address, Details, Inode, Inodes, Layout, Link, Owners, RelPath, Result, Side};
use std::collections::BTreeSet;
use std::fs::File;

pub(crate) struct Hidden {
    pub(crate) side: Box<dyn Side>,
    pub(crate) inos: BTreeSet<u64>,
}

impl Hidden {
    fn is_there(&self, inode: &Result<Inode>) -> bool {
        inode.as_ref().map_or(true, |inode| !self.inos.contains(&inode.ino))
    }
}

impl Side for Hidden {
    fn inodes(&self) -> Result<Inodes<'_>> {
        Ok(Box::new(self.side.inodes()?.filter(|inode| self.is_there(inode))))
    }

    fn everything(&self) -> Result<Inodes<'_>> {
        Ok(Box::new(self.side.everything()?.filter(|inode| self.is_there(inode))))
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
        let owners = self.side.owners(address)?;
        Ok(owners.map(|owners| {
            let inos = owners.inos.into_iter().filter(|ino| !self.inos.contains(ino)).collect();
            Owners { inos, ..owners }
        }))
    }

    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        self.side.pick(&(inos - &self.inos))
    }
}
