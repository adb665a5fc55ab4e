//! A tree on a file system: a volume, a Btrfs snapshot, or any directory.

use crate::details::{details_of, details_of_open, layout_of};
use crate::foreign::{note_encrypted, note_foreign, note_mounts, note_stores, note_too_long};
use crate::hidden::Hidden;
use crate::listing::Listing;
use crate::moves::{Moves, Passes};
use crate::pass::Walk;
use crate::searched::{self, Half};
use crate::subset::Matcher;
use snapsync_model::{
    Address, Content, Context, Counters, Details, Directories, Inode, Inodes, Kind, Layout, Link, Monitor,
    Owners, RelPath, Result, Side, Subset, unlocked,
};
use snapsync_sys::{FileSystem, Root, Stat, btrfs, stat_at, sync_filesystem};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// The inodes of a directory tree at the time of a walk.
#[derive(Debug)]
pub struct Tree {
    pub(crate) root: Root,
    pub(crate) filesystem: FileSystem,
    pub(crate) top: Stat,
    pub(crate) inodes: Listing,
    pub(crate) directories: Arc<Directories>,
    pub(crate) pinned: Option<Pinned>,
    /// Whether its inode numbers are not those of the file system.
    pub(crate) is_relabeled: bool,
    /// Whether nothing was left out of it.
    pub(crate) is_whole: bool,
    /// Finds inodes that moved after they were walked.
    pub(crate) moves: Option<Moves>,
    /// How it was searched, if it holds only some inodes.
    pub(crate) searched: Option<Searched>,
}

/// Whether all of a read-only subvolume has been written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// It is a snapshot in a store, which was read-only from the first, and the kernel writes out what is in
    /// memory before it makes one.
    Done,
    /// It may have been made read-only after it was written, and then have data without addresses.
    Due,
}

impl Flush {
    pub(crate) fn end(self, root: &Root) -> Result<()> {
        match self {
            Flush::Done => Ok(()),
            Flush::Due => sync_filesystem(root.fd()).context("sync the file system of", root.path()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Searched {
    /// Data written up to this transaction may also be in the tree it is compared with.
    pub(crate) parted: u64,
    pub(crate) subset: Subset,
    /// Where some of its files have data.
    pub(crate) layouts: HashMap<u64, Layout>,
}

/// A read-only subvolume, whose data stays at its addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinned {
    filesystem: u128,
    /// The number of its Btrfs tree.
    tree: u64,
}

impl Pinned {
    pub(crate) fn of(root: &Root) -> Option<Pinned> {
        if !btrfs::is_subvolume(root.fd()).ok()? || !btrfs::is_read_only(root.fd()).ok()? {
            return None;
        }
        let filesystem = btrfs::filesystem_id(root.fd()).ok()?;
        Some(Pinned { filesystem, tree: btrfs::subvolume(root.fd()).ok()?.tree })
    }
}

/// Tells what was known of entries that nobody can look at now; the directories are those that were met.
pub type Remembered<'a> = dyn Fn(&Hidden, &Directories) -> Result<Vec<Inode>> + 'a;

/// What was remembered about hidden entries, except those that are no longer there: the walk has met them.
fn under_hidden(
    hidden: &Hidden,
    inodes: &Listing,
    directories: &Directories,
    remembered: &Remembered<'_>,
) -> Result<Vec<Inode>> {
    let mut kept = if hidden.is_empty() { Vec::new() } else { remembered(hidden, directories)? };
    kept.retain(|inode| inode.kind != Kind::Directory || !directories.contains(inode.ino));
    // Its number may be that of another file by now, or it has other names too.
    let numbers = kept.iter().map(|inode| inode.ino).collect();
    let met: HashMap<u64, Inode> =
        inodes.pick(&numbers)?.into_iter().map(|inode| (inode.ino, inode)).collect();
    let with_names_of = |old: Inode| match met.get(&old.ino) {
        None => Some(old),
        Some(now) if (now.generation, now.kind) != (old.generation, old.kind) => None,
        Some(now) => {
            let links = old.links.into_iter().filter(|link| !now.links.contains(link)).collect();
            Some(Inode { links, ..now.clone() })
        }
    };
    Ok(kept.into_iter().filter_map(with_names_of).filter(|inode| !inode.links.is_empty()).collect())
}

impl Tree {
    /// Walks everything below `path` that `subset` holds, on all threads. Leaves out mounts, nested
    /// subvolumes and stores, and also what lies under a mount unless it can be seen there. Each of these is
    /// noted once.
    pub fn walk(path: &Path, subset: &Subset, monitor: &Monitor) -> Result<Tree> {
        Tree::of(Root::open_underneath(path)?, subset, monitor)
    }

    /// The same for a directory that is open.
    pub fn of(root: Root, subset: &Subset, monitor: &Monitor) -> Result<Tree> {
        Tree::walk_in(root, subset, false, monitor, &|_, _| Ok(Vec::new()))
    }

    /// The same for a snapshot in a store.
    pub fn of_snapshot(root: Root, subset: &Subset, monitor: &Monitor) -> Result<Tree> {
        Tree::seen_in(root, Flush::Done, (subset, false), monitor, &|_, _| Ok(Vec::new()))
    }

    /// `remembered` returns what was known of the entries that mounts hide, and with `may_skip` of those
    /// that cannot be read; they are assumed to be unchanged.
    pub fn walk_in(
        root: Root,
        subset: &Subset,
        may_skip: bool,
        monitor: &Monitor,
        remembered: &Remembered<'_>,
    ) -> Result<Tree> {
        Tree::seen_in(root, Flush::Due, (subset, may_skip), monitor, remembered)
    }

    fn seen_in(
        root: Root,
        flush: Flush,
        (subset, may_skip): (&Subset, bool),
        monitor: &Monitor,
        remembered: &Remembered<'_>,
    ) -> Result<Tree> {
        let root = root.knowing_ways();
        let path = root.path();
        let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", path)?;
        let top = stat_at(root.fd(), OsStr::new(".")).context("read the attributes of", path)?;
        let pinned = Pinned::of(&root);
        if pinned.is_some() {
            flush.end(&root)?;
            if let Some(tree) = Tree::searched_whole(&root, subset, monitor)? {
                return Ok(tree);
            }
        }
        let mut walk = Walk::begin(&root, top, Matcher::new(subset)?, may_skip, monitor)?;
        let (inodes, is_restless) = if pinned.is_some() {
            // Nothing moves in it.
            (vec![walk.taken()?], false)
        } else {
            walk.passes()?
        };
        walk.unread.finish()?;
        let mut foreign = unlocked(walk.foreign);
        foreign.sort_unstable();
        foreign.dedup();
        let too_long = unlocked(walk.too_long);
        let mut hidden = unlocked(walk.hidden);
        let is_whole = foreign.is_empty()
            && !hidden.has_unreadable()
            && subset.is_everything()
            && !is_restless
            && too_long.is_empty();
        note_too_long(too_long, monitor);
        if root.is_bare() {
            note_mounts(root.mounts(), &walk.matcher, monitor)?;
        }
        note_stores(unlocked(walk.stores), monitor);
        note_encrypted(unlocked(walk.encrypted), monitor);
        let (read, mut directories) = (unlocked(walk.read), unlocked(walk.directories));
        let (inodes, places) = match <[Listing; 1]>::try_from(inodes) {
            Ok([inodes]) => (inodes, HashMap::new()),
            Err(listings) => {
                Passes { root: &root, read: &read, listings, is_restless }.joined(&mut directories)?
            }
        };
        for directory in inodes.pick(&hidden.directories.keys().copied().collect())? {
            hidden.directories.insert(directory.ino, directory.generation);
        }
        let kept = under_hidden(&hidden, &inodes, &directories, remembered)?;
        note_foreign(foreign, kept.len(), monitor);
        let inodes = if kept.is_empty() { inodes } else { inodes.with(kept, &mut directories)? };
        let directories = Arc::new(directories);
        let moves = pinned.is_none().then(|| Moves::new(read, directories.clone(), places, is_restless));
        monitor.count(Counters { visited: inodes.entries(), ..Counters::default() });
        Ok(Tree {
            pinned,
            root,
            filesystem,
            top,
            inodes,
            directories,
            is_relabeled: false,
            is_whole,
            moves,
            searched: None,
        })
    }

    /// All of a read-only Btrfs subvolume by one search, which is quicker than a walk. None where it takes
    /// one.
    fn searched_whole(root: &Root, subset: &Subset, monitor: &Monitor) -> Result<Option<Tree>> {
        let mut half = Half::open(root, subset)?;
        let Some(inodes) = half.everything(monitor)? else { return Ok(None) };
        let is_whole = half.foreign.is_empty() && subset.is_everything() && half.too_long.is_empty();
        half.note_left_out(monitor);
        if root.is_bare() {
            note_mounts(root.mounts(), &Matcher::new(subset)?, monitor)?;
        }
        monitor.count(Counters { visited: inodes.entries(), ..Counters::default() });
        Ok(Some(Tree { inodes, is_whole, ..half.into_tree(None)? }))
    }

    /// Whether inode numbers mean the same in both: they are states of one tree, like two snapshots of a
    /// volume.
    pub fn shares_numbers_with(&self, other: &Tree) -> bool {
        let identity = |tree: &Tree| (tree.top.ino, tree.top.generation);
        identity(self) == identity(other) && self.top.generation != 0
    }

    fn layout_that_was_found(&self, inode: &Inode) -> Option<&Layout> {
        self.searched.as_ref().filter(|_| !self.is_relabeled)?.layouts.get(&inode.ino)
    }

    /// Whether it holds everything in the directory.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub fn filesystem(&self) -> FileSystem {
        self.filesystem
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Its parts, for a caller that fills in the inodes.
    pub fn into_inodes(self) -> (Root, Listing, Arc<Directories>, Option<Moves>) {
        (self.root, self.inodes, self.directories, self.moves)
    }
}

impl Half {
    /// Notes once what is not in it.
    pub(crate) fn note_left_out(&mut self, monitor: &Monitor) {
        note_foreign(std::mem::take(&mut self.foreign), 0, monitor);
        note_stores(std::mem::take(&mut self.stores).into_iter().collect(), monitor);
        note_too_long(std::mem::take(&mut self.too_long).into_iter().collect(), monitor);
    }

    /// The tree with the inodes that it has loaded.
    pub(crate) fn into_tree(self, searched: Option<Searched>) -> Result<Tree> {
        Ok(Tree {
            pinned: Pinned::of(&self.root),
            root: self.root,
            filesystem: self.filesystem,
            top: self.top,
            inodes: Listing::of(self.inodes.into_values())?,
            directories: self.directories.into(),
            is_relabeled: false,
            is_whole: false,
            moves: None,
            searched,
        })
    }
}

impl Side for Tree {
    fn inodes(&self) -> Result<Inodes<'_>> {
        Ok(Box::new(self.inodes.iter()))
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        match (self.directories.path(link), &self.searched) {
            (Err(_), Some(searched)) => searched::path_of(&self.root, &searched.subset, link),
            (known, _) => known,
        }
    }

    fn details(&self, inode: &Inode) -> Result<Details> {
        if let Some(details) = &inode.details {
            return Ok((**details).clone());
        }
        let path = Side::path(self, inode)?;
        details_of(&self.root, &path, inode.kind, self.filesystem)
    }

    fn open(&self, inode: &Inode) -> Result<Content> {
        let path = Side::path(self, inode)?;
        self.root.read(&path).map(Content::from).context_at("open", || self.root.show(&path))
    }

    fn details_and_data(&self, path: &RelPath, inode: &Inode) -> Result<(Details, Result<Content>)> {
        if let Some(details) = &inode.details {
            return Ok(((**details).clone(), self.open(inode)));
        }
        let opened = self.root.read(path);
        let read = opened.and_then(|file| Ok((details_of_open(&file, self.filesystem)?, Ok(file.into()))));
        read.context_at("read the attributes of", || self.root.show(path))
    }

    fn holds_still(&self, _: &Inode, _: &Content) -> Result<()> {
        Ok(())
    }

    fn layout(&self, inode: &Inode, content: &Content) -> Result<Layout> {
        if let Some(layout) = self.layout_that_was_found(inode) {
            return Ok(layout.clone());
        }
        let path = Side::path(self, inode)?;
        let show = || self.root.show(&path);
        let file =
            content.file().ok_or(io::ErrorKind::InvalidInput).context("read the extents of", show())?;
        if self.pinned.is_some() {
            let since = self.searched.as_ref().map_or(u64::MAX, |searched| searched.parted);
            let number = if self.is_relabeled {
                file.metadata().context("read the attributes of", show())?.ino()
            } else {
                inode.ino
            };
            match btrfs::layout(file, number, inode.attributes.size, since) {
                // FIEMAP reports no exact address for compressed extents, so they are read.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                other => return other.context("read the extents of", show()),
            }
        }
        layout_of(file, inode, self.filesystem).context("read the extents of", show())
    }

    fn known_layout(&self, inode: &Inode) -> Result<Option<Layout>> {
        if self.pinned.is_none() || self.is_relabeled {
            return Ok(None);
        }
        if let Some(layout) = self.layout_that_was_found(inode) {
            return Ok(Some(layout.clone()));
        }
        let since = self.searched.as_ref().map_or(u64::MAX, |searched| searched.parted);
        match btrfs::layout(self.root.fd(), inode.ino, inode.attributes.size, since) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            other => other.map(Some).context("search the tree of", self.root.path()),
        }
    }

    fn space(&self) -> Option<u128> {
        self.pinned.map(|pinned| pinned.filesystem)
    }

    fn owners(&self, address: Address) -> Result<Option<Owners>> {
        let Some(pinned) = self.pinned.filter(|_| !self.is_relabeled) else { return Ok(None) };
        match btrfs::owners(self.root.fd(), address, pinned.tree) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            other => other.map(Some).context("find who shares data in", self.root.path()),
        }
    }

    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        match &self.searched {
            Some(searched) => searched::pick(&self.root, &searched.subset, inos),
            None => self.inodes.pick(inos),
        }
    }
}
