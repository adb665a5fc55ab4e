//! One walk over a tree, and further passes over the directories that changed meanwhile.

use crate::foreign::{SOME, locked_away};
use crate::hidden::Hidden;
use crate::listing::{Listing, Recorder};
use crate::moves::{self, Read};
use crate::names::{STORE, is_too_long};
use crate::subset::Matcher;
use rustix::fs::{Mode, OFlags, openat};
use snapsync_model::{
    Context, Directories, Error, Inode, Kind, Link, Monitor, ROOT, RelPath, Result, Unread, locked,
};
use snapsync_sys::{DirEntry, Root, Stat, is_locked, read_dir, stat_at};
use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};

/// The number of passes over directories that changed meanwhile.
const PASSES: u32 = 5;

pub(crate) struct Walk<'a> {
    pub(crate) root: &'a Root,
    pub(crate) top: Stat,
    pub(crate) matcher: Matcher,
    pub(crate) monitor: &'a Monitor,
    /// The number of this pass; 0 for the first.
    pub(crate) pass: u32,
    pub(crate) found: Recorder,
    pub(crate) read: Mutex<Read>,
    /// The directories that were found in this pass.
    pub(crate) named: Mutex<HashSet<u64>>,
    pub(crate) directories: Mutex<Directories>,
    /// Entries on other file systems.
    pub(crate) foreign: Mutex<Vec<RelPath>>,
    /// What could not be looked at: what is under a mount, or cannot be read and is passed over.
    pub(crate) hidden: Mutex<Hidden>,
    /// Whether what cannot be read may be passed over.
    pub(crate) may_skip: bool,
    /// Stores below the root.
    pub(crate) stores: Mutex<Vec<RelPath>>,
    /// The store of the root itself, which the owner of the root may have renamed meanwhile.
    pub(crate) held: Option<((u32, u32), u64)>,
    /// Entries with longer paths than those that are followed.
    pub(crate) too_long: Mutex<Vec<RelPath>>,
    /// Encrypted directories whose parents are not encrypted.
    pub(crate) encrypted: Mutex<Vec<RelPath>>,
    pub(crate) unread: Unread,
    pub(crate) failed: Mutex<Option<Error>>,
}

impl<'a> Walk<'a> {
    /// The first pass, through the whole tree.
    pub(crate) fn begin(
        root: &'a Root,
        top: Stat,
        matcher: Matcher,
        may_skip: bool,
        monitor: &'a Monitor,
    ) -> Result<Walk<'a>> {
        let walk = Walk {
            root,
            top,
            matcher,
            monitor,
            pass: 0,
            found: Recorder::default(),
            read: Mutex::default(),
            named: Mutex::default(),
            directories: Mutex::default(),
            foreign: Mutex::default(),
            hidden: Mutex::default(),
            may_skip,
            stores: Mutex::default(),
            held: root.held(),
            too_long: Mutex::default(),
            encrypted: Mutex::default(),
            unread: Unread::default(),
            failed: Mutex::default(),
        };
        walk.found.add(&[walk.inode(&top, None)])?;
        walk.read_from(&[ROOT])?;
        Ok(walk)
    }
}

impl Walk<'_> {
    /// Reads these directories, and everything below that was not read before.
    pub(crate) fn read_from(&self, inos: &[u64]) -> Result<()> {
        rayon::scope(|scope| {
            for ino in inos {
                let known = locked(&self.directories);
                let path = if *ino == ROOT { Ok(RelPath::root()) } else { known.path_of(*ino) };
                drop(known);
                // It may have moved in this pass, and is then read where it is now; or it is gone.
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

    /// The inodes that this pass has found.
    pub(crate) fn taken(&mut self) -> Result<Listing> {
        std::mem::take(&mut self.found).finish()
    }

    /// Reads changed directories again until there are none. Returns what each pass has found, and whether
    /// some directories are still changing.
    pub(crate) fn passes(&mut self) -> Result<(Vec<Listing>, bool)> {
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

    /// Reads the directory at `path`, an entry of `parent` (for the root, `parent` itself), and spawns its
    /// subdirectories.
    fn directory<'s>(&'s self, scope: &rayon::Scope<'s>, parent: Arc<OwnedFd>, ino: u64, path: &RelPath) {
        if locked(&self.failed).is_some() {
            return;
        }
        let result = self.monitor.check().and_then(|()| {
            let name = path.split().map_or(&b"."[..], |(_, name)| name);
            let dir = open_directory(&parent, name).context("open the directory", self.root.show(path));
            // It is closed while the descendants are read: a deep tree would use up all descriptors.
            drop(parent);
            match dir {
                // It was removed since its parent was read, or something else is there now (ENOTDIR, ELOOP):
                // a tree in use changes.
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
        if let Err(error) = result.or_else(|error| self.skip_directory(ino, path, error)) {
            locked(&self.failed).get_or_insert(error);
        }
    }

    /// Passes over a directory that cannot be read, if that may be.
    fn skip_directory(&self, ino: u64, path: &RelPath, error: Error) -> Result<()> {
        if !self.may_skip || path.is_root() {
            return self.unread.note(error);
        }
        self.monitor.skip(path, error).or_else(|error| self.unread.note(error))?;
        locked(&self.hidden).directories.insert(ino, 0);
        Ok(())
    }

    /// The same for an entry whose attributes cannot be read.
    fn skip_entry(&self, parent: u64, name: Vec<u8>, path: &RelPath, error: Error) -> Result<()> {
        if !self.may_skip {
            return self.unread.note(error);
        }
        self.monitor.skip(&path.join(&name)?, error).or_else(|error| self.unread.note(error))?;
        let mut hidden = locked(&self.hidden);
        hidden.unreadable += 1;
        hidden.links.insert(Link { parent, name: name.into() });
        Ok(())
    }

    /// Records a directory before it is read; None if it was read already, or is another directory by now.
    fn begins(&self, dir: &OwnedFd, ino: u64) -> io::Result<Option<Stat>> {
        let stat = stat_at(dir, OsStr::new("."))?;
        // Without birth times, numbers do not prove identity.
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
            let name = entry.name.clone();
            let entry = match self.entry(dir, ino, entry, path) {
                Err(error) => self.skip_entry(ino, name.to_vec(), path, error).map(|()| None)?,
                Ok(entry) => entry,
            };
            let Some((inode, begins_encrypted)) = entry else { continue };
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

    /// Whether an entry is left out because it has a store's name. Stores below the root are noted.
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
            other => other.context_at("read the attributes of", || {
                self.root.show(path).join(OsStr::from_bytes(&entry.name))
            })?,
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
                locked(&self.hidden).links.insert(Link { parent, name: entry.name });
            }
            return Ok(None);
        }
        let inode = self.inode(&stat, Some(Link { parent, name: entry.name }));
        Ok(Some((inode, stat.encrypted)))
    }

    fn number(&self, stat: &Stat) -> u64 {
        // Overlay file systems give files the device of their layer, and numbers that are unique only within
        // it.
        let layer = if stat.dev == self.top.dev { 0 } else { u64::from(stat.dev.1) << 48 };
        stat.ino ^ layer
    }

    pub(crate) fn inode(&self, stat: &Stat, link: Option<Link>) -> Inode {
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

fn open_directory(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let name = OsStr::from_bytes(name);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent.as_fd(), name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => Ok(openat(parent.as_fd(), name, flags, Mode::empty())?),
        other => Ok(other?),
    }
}
