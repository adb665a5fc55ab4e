//! A side reduced to some paths and the directories above them.

use crate::delta::reading::read_from_side;
use crate::location::inside::above;
use snapsync_model::{Inode, Inodes, Kind, RelPath, Result, Side};
use std::collections::BTreeSet;

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

    read_from_side!();
}
