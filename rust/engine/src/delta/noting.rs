//! A side that others write to while it is compared, or have written to since.

use crate::delta::reading::list_from_side;
use snapsync_model::{Content, Context, Inode, Layout, Restless, Result, Side};
use std::fs::File;

/// Files whose bytes are gone are noted, and look as they are `shown`.
pub(crate) struct Noting<'a> {
    pub(crate) side: &'a dyn Side,
    pub(crate) restless: &'a Restless,
    pub(crate) shown: Shown,
}

/// How a file looks whose bytes are gone.
#[derive(Clone, Copy)]
pub(crate) enum Shown {
    /// As if it held nothing: what is made of it is not used.
    Empty,
    /// As if all of it were new: only that it changed counts.
    Whole,
}

impl Side for Noting<'_> {
    list_from_side!();

    fn open(&self, inode: &Inode) -> Result<Content> {
        match self.restless.take(inode.ino, self.side.open(inode))? {
            Some(file) => Ok(file),
            None => File::open("/dev/zero").map(Content::from).context("open", "/dev/zero"),
        }
    }

    fn holds_still(&self, inode: &Inode, file: &Content) -> Result<()> {
        if self.restless.has(inode.ino) {
            return Ok(());
        }
        self.restless.take(inode.ino, self.side.holds_still(inode, file)).map(drop)
    }

    fn layout(&self, inode: &Inode, file: &Content) -> Result<Layout> {
        if self.restless.has(inode.ino) {
            let size = inode.attributes.size;
            return Ok(match self.shown {
                Shown::Empty => Layout::new(size, &[], &[]),
                Shown::Whole => Layout::whole(size),
            });
        }
        self.side.layout(inode, file)
    }

    fn known_layout(&self, inode: &Inode) -> Result<Option<Layout>> {
        self.side.known_layout(inode)
    }

    fn space(&self) -> Option<u128> {
        self.side.space()
    }
}
