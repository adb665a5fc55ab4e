//! A side that lists some inodes in addition to those that may differ.

use crate::delta::reading::read_from_side;
use snapsync_model::{Address, Inode, Inodes, Owners, Result, Side};
use std::collections::BTreeSet;

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

    read_from_side!();

    fn owners(&self, address: Address) -> Result<Option<Owners>> {
        self.side.owners(address)
    }

    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        self.side.pick(inos)
    }
}
