//! A tree as it is, read as its snapshot would be.

use crate::delta::reading::list_from_side;
use snapsync_model::{Content, Context, Inode, Layout, Result, SegmentKind, Side};
use snapsync_sys::btrfs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Whatever was written by then may be shared.
const ALL_SHARED: u64 = u64::MAX;

/// Where a file has its data counts as it would in a snapshot: what the base holds stays where it is, so
/// that an address which both have is that of the same bytes.
pub(crate) struct AsTaken {
    pub(crate) side: Box<dyn Side>,
    pub(crate) space: Option<u128>,
    /// The size up to which a file that is all data would lie in a pack; none does on Btrfs.
    pub(crate) packed: Option<u64>,
    pub(crate) is_on_btrfs: bool,
}

impl Side for AsTaken {
    list_from_side!();

    fn open(&self, inode: &Inode) -> Result<Content> {
        self.side.open(inode)
    }

    fn holds_still(&self, inode: &Inode, file: &Content) -> Result<()> {
        self.side.holds_still(inode, file)
    }

    fn layout(&self, inode: &Inode, content: &Content) -> Result<Layout> {
        let size = inode.attributes.size;
        let found = match content.file().filter(|_| self.is_on_btrfs) {
            // It alone is exact for compressed extents.
            Some(file) => match file
                .metadata()
                .and_then(|now| btrfs::layout(file, now.ino(), size, ALL_SHARED))
            {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => self.side.layout(inode, content)?,
                other => other.context("read the extents of", self.side.path(inode)?.as_path())?,
            },
            None => self.side.layout(inode, content)?,
        };
        let is_packed = self.packed.is_some_and(|largest| size <= largest) && is_full(&found);
        Ok(if is_packed { Layout::whole(size) } else { found })
    }

    fn space(&self) -> Option<u128> {
        self.space
    }
}

fn is_full(layout: &Layout) -> bool {
    layout.segments().iter().all(|segment| segment.kind == SegmentKind::Data)
}
