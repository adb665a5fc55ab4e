//! A tree on a file system: a volume, a Btrfs snapshot, or any directory.

use crate::listing::{Listing, Recorder};
use crate::moves::{self, Moves, Passes, Read};
use crate::{Matcher, search};
use rustix::fs::{Mode, OFlags, openat};
use snapsync_model::{
    Address, Context, Counters, Details, Directories, Error, Inode, Inodes, Kind, LONGEST_PATH, Layout, Link,
    Monitor, ROOT, RelPath, Result, Side, Subset, locked, unlocked,
};
use snapsync_sys::btrfs;
use snapsync_sys::{
    DirEntry, FileSystem, Root, Stat, flags_of, is_locked, rare_of, read_dir, stat_at, sync_filesystem,
    xattrs_of,
};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The store's name at a volume's root. Nothing of this name is part of a tree, at whatever depth: a store that was
/// replicated would make a second volume with the identity of the first.
pub const STORE: &str = ".snapsync";

/// The inodes of a directory tree, as they were when it was walked.
#[derive(Debug)]
pub struct Tree {
    pub(crate) root: Root,
    pub(crate) filesystem: FileSystem,
    pub(crate) top: Stat,
    pub(crate) inodes: Listing,
    pub(crate) directories: Arc<Directories>,
    pub(crate) pinned: Option<Pinned>,
    /// The numbers of its inodes are not the file system's.
    pub(crate) is_relabeled: bool,
    /// Nothing was left out of it.
    pub(crate) is_whole: bool,
    /// Finds what moves after it was walked.
    pub(crate) moves: Option<Moves>,
    /// How it was searched, if not all inodes are there.
    pub(crate) searched: Option<Searched>,
}

#[derive(Debug)]
pub(crate) struct Searched {
    /// The transaction up to which what is written may also be in the tree it is compared with.
    pub(crate) parted: u64,
    pub(crate) subset: Subset,
}

/// A read-only subvolume: what it holds stays where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinned {
    filesystem: u128,
    /// The number of its tree.
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

impl Tree {
    /// Walks what `subset` holds of everything below `path`, on all threads. What is mounted there is left out, and what lies
    /// under it is not where that can be seen; nested subvolumes and stores are left out. Each is noted once.
    pub fn walk(path: &Path, subset: &Subset, monitor: &Monitor) -> Result<Tree> {
        Tree::of(Root::open_underneath(path)?, subset, monitor)
    }

    /// The same of a directory that is open.
    pub fn of(root: Root, subset: &Subset, monitor: &Monitor) -> Result<Tree> {
        Tree::walk_in(root, subset, monitor, &|_| Ok(Vec::new()))
    }

    /// `remembered` is asked what was known of what is hidden by mounts: it is taken to
    /// be there still.
    pub fn walk_in(
        root: Root,
        subset: &Subset,
        monitor: &Monitor,
        remembered: &dyn Fn(&HashSet<Link>) -> Result<Vec<Inode>>,
    ) -> Result<Tree> {
        let path = root.path();
        let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", path)?;
        let top = stat_at(root.fd(), OsStr::new(".")).context("read the attributes of", path)?;
        let pinned = Pinned::of(&root);
        if pinned.is_some() {
            // One that was made read-only after it was written may have data that has no place yet.
            sync_filesystem(root.fd()).context("sync the file system of", path)?;
        }
        let mut walk = Walk {
            root: &root,
            top,
            matcher: Matcher::new(subset)?,
            monitor,
            pass: 0,
            found: Recorder::default(),
            read: Mutex::default(),
            named: Mutex::default(),
            directories: Mutex::default(),
            foreign: Mutex::default(),
            hidden: Mutex::default(),
            stores: Mutex::default(),
            held: root.held(),
            too_long: Mutex::default(),
            encrypted: Mutex::default(),
            failed: Mutex::default(),
        };
        walk.found.add(&[walk.inode(&top, None)])?;
        walk.read_from(&[ROOT])?;
        let (inodes, is_restless) = if pinned.is_some() {
            // Nothing moves in it.
            (vec![walk.taken()?], false)
        } else {
            walk.passes()?
        };
        let mut foreign = unlocked(walk.foreign);
        foreign.sort_unstable();
        foreign.dedup();
        let too_long = unlocked(walk.too_long);
        let is_whole = foreign.is_empty() && subset.is_everything() && !is_restless && too_long.is_empty();
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
        let hidden = unlocked(walk.hidden);
        let mut kept = if hidden.is_empty() { Vec::new() } else { remembered(&hidden)? };
        // What has come out from under a mount is met elsewhere.
        kept.retain(|inode| inode.kind != Kind::Directory || !directories.contains(inode.ino));
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

    /// Inode numbers mean the same here and there: both are states of one tree, as two snapshots of a volume are.
    pub fn shares_numbers_with(&self, other: &Tree) -> bool {
        let identity = |tree: &Tree| (tree.top.ino, tree.top.generation);
        identity(self) == identity(other) && self.top.generation != 0
    }

    /// Whether it has everything that lies in the directory.
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

    /// The walked inodes themselves, for a caller that fills them in.
    pub fn into_inodes(self) -> (Root, Listing, Arc<Directories>, Option<Moves>) {
        (self.root, self.inodes, self.directories, self.moves)
    }
}

impl Side for Tree {
    fn inodes(&self) -> Result<Inodes<'_>> {
        Ok(Box::new(self.inodes.iter()))
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        match (self.directories.path(link), &self.searched) {
            (Err(_), Some(searched)) => search::path_of(&self.root, &searched.subset, link),
            (known, _) => known,
        }
    }

    fn details(&self, inode: &Inode) -> Result<Details> {
        if let Some(details) = &inode.details {
            return Ok((**details).clone());
        }
        let path = Side::path(self, inode)?;
        details_of(&self.root, &path, inode.kind)
    }

    fn open(&self, inode: &Inode) -> Result<File> {
        let path = Side::path(self, inode)?;
        self.root.read(&path).context("open", self.root.show(&path))
    }

    fn layout(&self, inode: &Inode, file: &File) -> Result<Layout> {
        let path = Side::path(self, inode)?;
        let show = || self.root.show(&path);
        if self.pinned.is_some() {
            // Its own number: trees that are compared by path have been given others.
            let since = self.searched.as_ref().map_or(u64::MAX, |searched| searched.parted);
            let number = file.metadata().context("read the attributes of", show())?.ino();
            match btrfs::layout(file, number, inode.attributes.size, since) {
                // What FIEMAP says of compressed extents has no address, and is read.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                other => return other.context("read the extents of", show()),
            }
        }
        layout_of(file, inode, self.filesystem).context("read the extents of", show())
    }

    fn space(&self) -> Option<u128> {
        self.pinned.map(|pinned| pinned.filesystem)
    }

    fn owners(&self, address: Address) -> Result<Option<Vec<u64>>> {
        let Some(pinned) = self.pinned.filter(|_| !self.is_relabeled) else { return Ok(None) };
        match btrfs::owners(self.root.fd(), address, pinned.tree) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            other => other.map(Some).context("find who shares data in", self.root.path()),
        }
    }

    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        match &self.searched {
            Some(searched) => search::pick(&self.root, &searched.subset, inos),
            None => self.inodes.pick(inos),
        }
    }
}

/// Flags, extended attributes and link target of what is at `path`.
pub fn details_of(root: &Root, path: &RelPath, kind: Kind) -> Result<Details> {
    read_details(root, path, kind).context("read the attributes of", root.show(path))
}

/// The same of a file or directory that is open for reading.
pub fn details_of_open(file: &File) -> io::Result<Details> {
    Ok(Details {
        flags: flags_of(file)?,
        rare: rare_of(file)?,
        xattrs: xattrs_of(file)?,
        ..Details::default()
    })
}

fn read_details(root: &Root, path: &RelPath, kind: Kind) -> io::Result<Details> {
    match kind {
        Kind::File | Kind::Directory => details_of_open(&root.read(path)?),
        Kind::Symlink => {
            let entry = root.entry(path)?;
            let target = rustix::fs::readlinkat(entry.fd(), "", Vec::new())?.into_bytes();
            Ok(Details { xattrs: entry.xattrs()?, symlink_target: Some(target.into()), ..Details::default() })
        }
        _ => Ok(Details { xattrs: root.entry(path)?.xattrs()?, ..Details::default() }),
    }
}

/// Where `file` holds data; asks nothing of the file system for a file that occupies nothing.
pub fn layout_of(file: &File, inode: &Inode, filesystem: FileSystem) -> io::Result<Layout> {
    if inode.attributes.size == 0 && inode.blocks == 0 {
        return Ok(Layout::default());
    }
    snapsync_sys::layout(file, inode.attributes.size, filesystem)
}

/// How much of a path without end is told.
const SHOWN: usize = 100;
/// Entries of a directory that are held at a time.
const SOME: usize = 4096;
/// How often directories that changed meanwhile are read again.
const PASSES: u32 = 5;

struct Walk<'a> {
    root: &'a Root,
    top: Stat,
    matcher: Matcher,
    monitor: &'a Monitor,
    /// How often directories that changed were read again.
    pass: u32,
    found: Recorder,
    read: Mutex<Read>,
    /// Directories that were found in this pass.
    named: Mutex<HashSet<u64>>,
    directories: Mutex<Directories>,
    /// Entries on other file systems.
    foreign: Mutex<Vec<RelPath>>,
    /// Those of them that something is mounted on.
    hidden: Mutex<HashSet<Link>>,
    /// Stores below the root.
    stores: Mutex<Vec<RelPath>>,
    /// The root's own: whoever owns the root may have given it another name meanwhile.
    held: Option<((u32, u32), u64)>,
    /// What has a longer path than is followed.
    too_long: Mutex<Vec<RelPath>>,
    /// Directories that are encrypted, in ones that are not.
    encrypted: Mutex<Vec<RelPath>>,
    failed: Mutex<Option<Error>>,
}

impl Walk<'_> {
    /// Reads these directories, and all that are found in them and were not read.
    fn read_from(&self, inos: &[u64]) -> Result<()> {
        rayon::scope(|scope| {
            for ino in inos {
                let known = locked(&self.directories);
                let path = if *ino == ROOT { Ok(RelPath::root()) } else { known.path_of(*ino) };
                drop(known);
                // It may have moved in this pass, and is read where it is, or is gone.
                let Ok(path) = path else { continue };
                let above = path.split().map_or(RelPath::root(), |(above, _)| above);
                let Ok(parent) = self.root.directory(&above) else { continue };
                scope.spawn(move |scope| self.directory(scope, Arc::new(parent), *ino, &path));
            }
        });
        match locked(&self.failed).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// What this pass has found.
    fn taken(&mut self) -> Result<Listing> {
        std::mem::take(&mut self.found).finish()
    }

    /// Reads directories that have changed again until none has. Gives what each pass has found, and whether some still have.
    fn passes(&mut self) -> Result<(Vec<Listing>, bool)> {
        let mut found = vec![self.taken()?];
        for pass in 1..=PASSES {
            self.monitor.check()?;
            let changed = moves::changed(self.root, &locked(&self.read), &locked(&self.directories));
            if changed.is_empty() {
                return Ok((found, false));
            }
            self.pass = pass;
            locked(&self.named).clear();
            let mut read = locked(&self.read);
            changed.iter().for_each(|ino| _ = read.remove(ino));
            drop(read);
            self.read_from(&changed)?;
            found.push(self.taken()?);
            let (read, directories) = (&mut locked(&self.read), &mut locked(&self.directories));
            moves::forget_lost(read, directories, &locked(&self.named), pass);
        }
        Ok((found, true))
    }

    /// Reads the directory at `path`, an entry of `parent` (the root: `parent` itself), and spawns its own.
    fn directory<'s>(&'s self, scope: &rayon::Scope<'s>, parent: Arc<OwnedFd>, ino: u64, path: &RelPath) {
        if locked(&self.failed).is_some() {
            return;
        }
        let result = self.monitor.check().and_then(|()| {
            let name = path.split().map_or(&b"."[..], |(_, name)| name);
            let dir = open_directory(&parent, name).context("open the directory", self.root.show(path));
            // Not held while its descendants are read: a deep tree would use up all descriptors.
            drop(parent);
            match dir {
                // Gone since its parent was read, or something else there (ENOTDIR, ELOOP): a tree in use changes.
                Err(Error::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound
                        || matches!(source.raw_os_error(), Some(20 | 40)) =>
                {
                    Ok(())
                }
                Err(e) => Err(e),
                Ok(dir) => {
                    match self.begins(&dir, ino).context("read the attributes of", self.root.show(path))? {
                        Some(stat) => self.entries(scope, &Arc::new(dir), (ino, stat.encrypted), path),
                        None => Ok(()),
                    }
                }
            }
        });
        if let Err(error) = result {
            locked(&self.failed).get_or_insert(error);
        }
    }

    /// Notes as what it is read; None if it was read already, or is another directory by now.
    fn begins(&self, dir: &OwnedFd, ino: u64) -> io::Result<Option<Stat>> {
        let stat = stat_at(dir, OsStr::new("."))?;
        // Without birth times numbers need not be identity.
        if ino != ROOT && self.number(&stat) != ino && stat.generation != 0 {
            return Ok(None);
        }
        let is_new = |read: &mut Read| match read.entry(ino) {
            Entry::Vacant(place) => {
                place.insert((stat.ctime, self.pass));
                true
            }
            Entry::Occupied(_) => false,
        };
        Ok(is_new(&mut locked(&self.read)).then_some(stat))
    }

    fn entries<'s>(
        &'s self,
        scope: &rayon::Scope<'s>,
        dir: &Arc<OwnedFd>,
        (ino, is_encrypted): (u64, bool),
        path: &RelPath,
    ) -> Result<()> {
        let show = || self.root.show(path);
        let mut found = Vec::new();
        let entries = read_dir(dir).context("read the directory", show())?;
        if is_encrypted && is_locked(dir).context("read the encryption policy of", show())? {
            return Err(locked_away(&show()));
        }
        for entry in entries {
            if *entry.name == *STORE.as_bytes() {
                self.store(path, entry.is_dir)?;
                continue;
            }
            let Some((inode, begins_encrypted)) = self.entry(dir, ino, entry, path)? else { continue };
            if let (Kind::Directory, [link]) = (inode.kind, &inode.links[..]) {
                let (dir, path) = (dir.clone(), path.join(&link.name)?);
                if begins_encrypted && !is_encrypted {
                    locked(&self.encrypted).push(path.clone());
                }
                let child = inode.ino;
                scope.spawn(move |scope| self.directory(scope, dir, child, &path));
            }
            found.push(inode);
            if found.len() == SOME {
                self.found(&found)?;
                found.clear();
            }
        }
        self.found(&found)
    }

    /// Leaves out what has a store's name; speaks of it only below the root.
    fn store(&self, above: &RelPath, is_dir: Option<bool>) -> Result<()> {
        let name = STORE.as_bytes();
        if !above.is_root() && !self.matcher.leaves_out(above, name, is_dir.unwrap_or(true))? {
            locked(&self.stores).push(above.join(name)?);
        }
        Ok(())
    }

    fn found(&self, inodes: &[Inode]) -> Result<()> {
        self.monitor.advance(inodes.len() as u64);
        let is_directory = |inode: &&Inode| inode.kind == Kind::Directory;
        locked(&self.named).extend(inodes.iter().filter(is_directory).map(|inode| inode.ino));
        let mut directories = locked(&self.directories);
        inodes.iter().for_each(|inode| directories.add(inode));
        drop(directories);
        self.found.add(inodes)
    }

    fn entry(
        &self,
        dir: &OwnedFd,
        parent: u64,
        entry: DirEntry,
        path: &RelPath,
    ) -> Result<Option<(Inode, bool)>> {
        let stat = match stat_at(dir, OsStr::from_bytes(&entry.name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.context(
                "read the attributes of",
                self.root.show(path).join(OsStr::from_bytes(&entry.name)),
            )?,
        };
        if self.held == Some((stat.dev, stat.ino)) {
            locked(&self.stores).push(path.join(&entry.name)?);
            return Ok(None);
        }
        if self.matcher.leaves_out(path, &entry.name, stat.kind == Kind::Directory)? {
            return Ok(None);
        }
        if is_too_long(path.as_bytes().len(), &entry.name) {
            locked(&self.too_long).push(path.join(&entry.name)?);
            return Ok(None);
        }
        let elsewhere = stat.kind == Kind::Directory && stat.dev != self.top.dev;
        if elsewhere || stat.mount != self.top.mount {
            locked(&self.foreign).push(path.join(&entry.name)?);
            if stat.mount != self.top.mount {
                locked(&self.hidden).insert(Link { parent, name: entry.name });
            }
            return Ok(None);
        }
        let inode = self.inode(&stat, Some(Link { parent, name: entry.name }));
        Ok(Some((inode, stat.encrypted)))
    }

    fn number(&self, stat: &Stat) -> u64 {
        // Overlay file systems give files the device of their layer, and numbers that are only unique there.
        let layer = if stat.dev == self.top.dev { 0 } else { u64::from(stat.dev.1) << 48 };
        stat.ino ^ layer
    }

    fn inode(&self, stat: &Stat, link: Option<Link>) -> Inode {
        Inode {
            ino: if link.is_some() { self.number(stat) } else { ROOT },
            generation: stat.generation,
            kind: stat.kind,
            attributes: stat.attributes,
            ctime: stat.ctime,
            blocks: stat.blocks,
            links: link.into_iter().collect(),
            details: None,
            object: 0,
            shared: false,
        }
    }
}

/// Says once what is left out, and that what lies under it was taken from the last snapshot.
pub(crate) fn note_foreign(paths: Vec<RelPath>, kept: usize, monitor: &Monitor) {
    let Some(shown) = shown(paths) else { return };
    let under = match kept {
        0 => String::new(),
        _ => format!(
            "; {kept} entries under what is mounted are kept as they were, as only root can look at them"
        ),
    };
    monitor.note(format!(
        "not replicated, because on another file system or in a nested subvolume: {shown}{under}"
    ));
}

/// Says once what is mounted in a tree of which what lies underneath is looked at.
pub fn note_mounts(mounts: &[RelPath], matcher: &Matcher, monitor: &Monitor) -> Result<()> {
    let mut spoken_of = Vec::new();
    for mount in mounts {
        if matcher.left_out_on(mount, true)?.is_none() {
            spoken_of.push(mount.clone());
        }
    }
    if let Some(shown) = shown(spoken_of) {
        monitor.note(format!("what is mounted at {shown} is not replicated; what lies under it is"));
    }
    Ok(())
}

/// The same of stores inside the tree.
pub fn note_stores(paths: Vec<RelPath>, monitor: &Monitor) {
    if let Some(shown) = shown(paths) {
        monitor.note(format!("not replicated, because it is the store of another volume: {shown}"));
    }
}

/// Whether an entry has a longer path than is followed, by that of its directory.
pub fn is_too_long(above: usize, name: &[u8]) -> bool {
    above + 1 + name.len() > LONGEST_PATH
}

/// The same of what lies too deep.
pub(crate) fn note_too_long(paths: Vec<RelPath>, monitor: &Monitor) {
    let count = paths.len();
    let Some(first) = paths.into_iter().min() else { return };
    let start = String::from_utf8_lossy(&first.as_bytes()[..SHOWN]).into_owned();
    monitor.note(format!(
        "not replicated, because their paths have more than {LONGEST_PATH} bytes: {count} entries below {start}..."
    ));
}

/// The same of directories that the file system encrypts.
fn note_encrypted(paths: Vec<RelPath>, monitor: &Monitor) {
    if let Some(shown) = shown(paths) {
        monitor.note(format!("encrypted here, and in a copy only where its own directory is: {shown}"));
    }
}

/// Names that are told in a locked directory are those on the disk, and nothing in it can be read.
pub fn locked_away(path: &Path) -> Error {
    Error::refused(
        format!("cannot read {}: it is encrypted, and its key is not there", path.display()),
        "unlock it, as with `fscrypt unlock`, or leave it out with --exclude",
    )
}

/// One path, and how many more there are.
fn shown(mut paths: Vec<RelPath>) -> Option<String> {
    paths.sort_unstable();
    let others = if paths.len() > 1 { format!(" and {} more", paths.len() - 1) } else { String::new() };
    paths.first().map(|first| format!("{}{others}", first.display()))
}

fn open_directory(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let name = OsStr::from_bytes(name);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent.as_fd(), name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => Ok(openat(parent.as_fd(), name, flags, Mode::empty())?),
        other => Ok(other?),
    }
}
