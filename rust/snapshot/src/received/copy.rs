//! Copies a tree and shares its blocks, for file systems without snapshots. Everything is kept except inode
//! numbers and times that cannot be set. The content of `.snapsync` at the root is left out.

use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, openat, symlinkat};
use snapsync_model::{
    Context, Details, Directories, Inode, Kind, Layout, Monitor, Rare, RelPath, Result, SegmentKind, Subset,
    hole_at_end,
};
use snapsync_sys::{
    Entry, FileSystem, PROTECTIVE, Parents, Root, SET_FLAGS, clone_file, copy_range, discard_range,
    make_node, preallocate, rare_of, set_flags_of, set_rare_of,
};
use snapsync_walk::{Listing, Tree, details_of, layout_of};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// The number of inodes that one thread copies while it remembers the last directory.
const SIDE_BY_SIDE: usize = 64;
/// The number of inodes in memory.
const AT_ONCE: usize = 4096;

/// Makes the empty directory `to` a copy of `from`. Leaves out mounts and subvolumes, and notes them.
/// noted.
pub(crate) fn copy_tree(from: &Root, to: Root, monitor: &Monitor) -> Result<()> {
    let tree = Tree::of(from.underneath()?, &Subset::default(), monitor)?;
    let filesystem = tree.filesystem();
    let (from, inodes, directories, _) = tree.into_inodes();
    let copy = Copy { from, to: to.knowing_ways(), filesystem, directories, monitor };
    let levels = copy.levels(&inodes)?;
    copy.make_directories(&levels)?;
    let protected = copy.make_entries(&inodes)?;
    copy.link_further_names(&inodes)?;
    // Nothing can be linked to protected files, or into protected directories.
    protected.par_iter().try_for_each(|(path, flags)| copy.protect(path, *flags))?;
    copy.finish_directories(&levels)
}

struct Copy<'a> {
    from: Root,
    to: Root,
    filesystem: FileSystem,
    directories: Arc<Directories>,
    monitor: &'a Monitor,
}

impl Copy<'_> {
    fn path(&self, inode: &Inode) -> Result<RelPath> {
        inode.links.first().map_or(Ok(RelPath::root()), |link| self.directories.path(link))
    }

    /// The directories by depth, the root first.
    fn levels(&self, inodes: &Listing) -> Result<Vec<(RelPath, Inode)>> {
        let mut found = Vec::new();
        for inode in inodes.iter() {
            let inode = inode?;
            if inode.kind == Kind::Directory {
                found.push((self.path(&inode)?, inode));
            }
        }
        found.sort_by_cached_key(|(path, _)| (path.depth(), path.clone()));
        Ok(found)
    }

    /// Makes directories that only this user can enter until everything is in them.
    fn make_directories(&self, levels: &[(RelPath, Inode)]) -> Result<()> {
        let mut parents = Parents::<()>::new(&self.to);
        for (path, _) in levels.iter().filter(|(path, _)| !path.is_root()) {
            self.monitor.check()?;
            let made = parents
                .of(path)
                .and_then(|(dir, name)| Ok(rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))?));
            made.context("create the directory", self.to.show(path))?;
        }
        Ok(())
    }

    /// Makes everything except directories. Returns the entries to be protected, and their flags.
    fn make_entries(&self, inodes: &Listing) -> Result<Vec<(RelPath, u32)>> {
        let mut inodes = inodes.iter();
        let mut protected = Vec::new();
        loop {
            let some: Vec<Inode> = inodes.by_ref().take(AT_ONCE).collect::<Result<_>>()?;
            if some.is_empty() {
                return Ok(protected);
            }
            let chunks = some.par_chunks(SIDE_BY_SIDE).map(|chunk| self.make_some(chunk));
            protected.append(&mut chunks.collect::<Result<Vec<_>>>()?.concat());
        }
    }

    fn make_some(&self, inodes: &[Inode]) -> Result<Vec<(RelPath, u32)>> {
        let mut parents = Parents::new(&self.to);
        let mut protected = Vec::new();
        for inode in inodes.iter().filter(|inode| inode.kind != Kind::Directory) {
            self.monitor.check()?;
            let path = self.path(inode)?;
            let details = details_of(&self.from, &path, inode.kind, self.filesystem)?;
            self.make_entry(&mut parents, &path, inode, &details).context("copy", self.from.show(&path))?;
            if details.flags & PROTECTIVE != 0 {
                protected.push((path, details.flags));
            }
        }
        Ok(protected)
    }

    fn make_entry(
        &self,
        parents: &mut Parents<'_>,
        path: &RelPath,
        inode: &Inode,
        details: &Details,
    ) -> io::Result<()> {
        let (dir, name) = parents.of(path)?;
        let entry = match (inode.kind, &details.symlink_target) {
            (Kind::File, _) => Entry::from_open(self.make_file(dir, name, path, inode, details)?),
            (_, Some(target)) => {
                symlinkat(OsStr::from_bytes(target), dir, name)?;
                Entry::at(dir, name)?
            }
            (kind, None) => {
                make_node(dir, name, kind, inode.attributes.rdev)?;
                Entry::at(dir, name)?
            }
        };
        set_attributes(&entry, inode, details)
    }

    fn make_file(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &RelPath,
        inode: &Inode,
        details: &Details,
    ) -> io::Result<File> {
        let how = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(dir, name, how, Mode::from_raw_mode(0o600))?);
        // Some flags can be set only while the file is empty.
        set_rare(&file, details.rare)?;
        set_flags(&file, details.flags & !PROTECTIVE)?;
        let source = self.from.read(path)?;
        let layout = layout_of(&source, inode, self.filesystem)?;
        copy_data(&source, inode.attributes.size, &layout, &file, self.filesystem.block_size)?;
        Ok(file)
    }

    fn link_further_names(&self, inodes: &Listing) -> Result<()> {
        for inode in inodes.iter() {
            let inode = inode?;
            let first = self.path(&inode)?;
            for link in inode.links.iter().skip(1) {
                let further = self.directories.path(link)?;
                self.to.link(&first, &further).context("link", self.to.show(&further))?;
            }
        }
        Ok(())
    }

    fn protect(&self, path: &RelPath, flags: u32) -> Result<()> {
        let file = self.to.entry(path).and_then(|entry| entry.open(OFlags::RDONLY));
        file.and_then(|file| set_flags(&file, flags)).context("set the flags of", self.to.show(path))
    }

    /// Finishes the deepest first: an ordinary user may not be able to go below a directory that has its own
    /// mode again.
    /// again.
    fn finish_directories(&self, levels: &[(RelPath, Inode)]) -> Result<()> {
        for level in levels.chunk_by(|a, b| a.0.depth() == b.0.depth()).rev() {
            self.monitor.check()?;
            level.par_iter().try_for_each(|(path, inode)| {
                let details = details_of(&self.from, path, Kind::Directory, self.filesystem)?;
                self.finish_directory(path, inode, &details)
                    .context("set the attributes of", self.to.show(path))
            })?;
        }
        Ok(())
    }

    fn finish_directory(&self, path: &RelPath, inode: &Inode, details: &Details) -> io::Result<()> {
        let entry = self.to.entry(path)?;
        // It is opened before its mode may forbid that.
        let file = entry.open(OFlags::RDONLY)?;
        set_attributes(&entry, inode, details)?;
        set_rare(&file, details.rare)?;
        set_flags(&file, details.flags)
    }
}

fn set_attributes(entry: &Entry, inode: &Inode, details: &Details) -> io::Result<()> {
    entry.set_attributes(inode.kind, &inode.attributes, Some(&details.xattrs), &|_| false)
}

fn set_flags(file: &File, flags: u32) -> io::Result<()> {
    let flags = flags & SET_FLAGS;
    if snapsync_sys::flags_of(file)? & SET_FLAGS == flags { Ok(()) } else { set_flags_of(file, flags) }
}

fn set_rare(file: &File, rare: Rare) -> io::Result<()> {
    if rare_of(file)? == rare { Ok(()) } else { set_rare_of(file, rare) }
}

/// Shares the data if the file system can. Some file systems lose preallocation in clones, so it is made
/// again.
fn copy_data(from: &File, size: u64, layout: &Layout, to: &File, block: u64) -> io::Result<()> {
    let (data, unwritten) = (layout.ranges(SegmentKind::Data), layout.ranges(SegmentKind::Unwritten));
    if size > 0 && clone_file(from, to).is_err() {
        to.set_len(size)?;
        for range in &data {
            copy_range(from, range.offset, range.length, to, range.offset)?;
        }
    }
    for range in &unwritten {
        preallocate(to, range.offset, range.length)?;
    }
    // Preallocation beyond the end makes some file systems write the block that the end cuts.
    let covered = data.iter().chain(&unwritten).copied();
    let cut = hole_at_end(size, block, covered).filter(|_| unwritten.iter().any(|r| r.end() > size));
    if let Some(hole) = cut {
        discard_range(to, hole.offset, hole.length)?;
    }
    Ok(())
}
