//! A side without some of its files.

use crate::delta::reading::read_from_side;
use snapsync_model::{Address, Inode, Inodes, Owners, Result, Side};
use std::collections::BTreeSet;

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

    read_from_side!();

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
