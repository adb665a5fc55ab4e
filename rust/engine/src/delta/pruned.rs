//! A side reduced to some paths and the directories above them.

use crate::location::inside::above;
use snapsync_model::{Details, Inode, Inodes, Kind, Layout, Link, RelPath, Result, Side};
use std::collections::BTreeSet;
use std::fs::File;

pub(crate) struct Pruned {
    side: Box<dyn Side>,
    paths: BTreeSet<RelPath>,
    above: BTreeSet<RelPath>,
}

impl Pruned {
    pub(crate) fn new(side: Box<dyn Side>, paths: &[RelPath]) -> Pruned {
        let above = paths.iter().flat_map(above).collect();
        Pruned { side, paths: paths.iter().cloned().collect(), above }
    }

    /// The first of the paths that the side does not have.
    pub(crate) fn missing(&self) -> Result<Option<RelPath>> {
        let mut missing = self.paths.clone();
        missing.remove(&RelPath::root());
        for inode in self.inodes()? {
            for link in &inode?.links {
                missing.remove(&self.path_of(link)?);
            }
        }
        Ok(missing.pop_first())
    }

    fn keep(&self, mut inode: Inode) -> Result<Option<Inode>> {
        let mut links = Vec::new();
        for link in std::mem::take(&mut inode.links) {
            let path = self.side.path_of(&link)?;
            let leads_there = inode.kind == Kind::Directory && self.above.contains(&path);
            if leads_there || self.paths.contains(&path) || above(&path).any(|a| self.paths.contains(&a)) {
                links.push(link);
            }
        }
        inode.links = links;
        let is_root = inode.ino == snapsync_model::ROOT;
        Ok((is_root || !inode.links.is_empty()).then_some(inode))
    }
}

impl Side for Pruned {
    fn inodes(&self) -> Result<Inodes<'_>> {
        let kept = self.side.inodes()?.map(|inode| self.keep(inode?));
        Ok(Box::new(kept.filter_map(Result::transpose)))
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
}
