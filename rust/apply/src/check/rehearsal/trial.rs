//! Finds what the target cannot hold by trying it on temporary files before any data moves.

use crate::check::rehearsal::tried::{self, Times};
use crate::check::rehearsal::unseen::{Unseen, without_name};
use crate::limits::{Limits, Loss, are_large, xattr_class};
use rustix::fs::{Mode, OFlags, openat, symlinkat};
use snapsync_model::{Attributes, Change, Context, Error, Kind, Rare, RelPath, Result, Xattr};
use snapsync_sys::{APPEND, Entry, IMMUTABLE, Right, Root, acl, flag_names, make_node, remove_tree};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// The number of tried values of extended attributes that are remembered.
pub(super) const REMEMBERED: usize = 65_536;

/// Tries what manifests ask for, in a directory of its own in the stage.
pub(crate) struct Rehearsal<'a> {
    pub(super) root: &'a Root,
    pub(super) at: RelPath,
    pub(super) dir: OwnedFd,
    pub(super) limits: Limits,
    losses: BTreeMap<String, Loss>,
    /// For each kind of entry (directory or not), owner, group and mode: whether the owner can be set, and
    /// the mode bits that cannot.
    permissions: HashMap<(bool, u32, u32, u32), (bool, u32)>,
    /// Whether entries of this user and group can be changed.
    pub(super) owned: HashMap<(u32, u32), bool>,
    flags: HashMap<(bool, u32), bool>,
    /// Results by class, and by the hash of the value if it matters.
    xattrs: HashMap<(Kind, String, u64), bool>,
    /// Results by the set of all attributes, new and old.
    together: HashMap<(Kind, u64), bool>,
    hash: RandomState,
    pub(super) rare: HashMap<(bool, Rare), bool>,
    pub(super) times: Times,
    longest_link: usize,
    largest_file: u64,
    kinds: BTreeSet<Kind>,
    /// Device and inode number of the files that the system swaps to.
    pub(super) swaps: Option<Vec<((u32, u32), u64)>>,
    pub(super) names: tried::Names,
    pub(super) links: tried::Links,
    /// Whether something of this kind may be put into a directory with this project.
    pub(super) projects: HashMap<(u64, Kind), bool>,
    /// Set if nothing may be left to find: `dir` is then one that was there.
    pub(super) unseen: Option<Unseen>,
}

impl<'a> Rehearsal<'a> {
    pub(crate) fn new(root: &'a Root, dir: &RelPath) -> Result<Rehearsal<'a>> {
        // An interrupted run may have left one.
        let (stage, name) = root.parent(dir).context("open the stage of", root.path())?;
        remove_tree(stage, name).context("remove", root.show(dir))?;
        root.create_dir(dir, 0o700).context("create the directory", root.show(dir))?;
        let opened = root.directory(dir).context("open the directory", root.show(dir))?;
        Rehearsal::begin(root, dir.clone(), opened, None)
    }

    /// One that leaves no trace in `dir`; None where the file system does not let it.
    pub(crate) fn unseen(root: &'a Root, dir: OwnedFd) -> Result<Option<Rehearsal<'a>>> {
        let unseen = Unseen::of(&dir).context("try out what can be held by", root.path())?;
        let Some(unseen) = unseen else { return Ok(None) };
        Rehearsal::begin(root, RelPath::root(), dir, Some(unseen)).map(Some)
    }

    fn begin(root: &'a Root, at: RelPath, dir: OwnedFd, unseen: Option<Unseen>) -> Result<Rehearsal<'a>> {
        let mut rehearsal = Rehearsal {
            root,
            at,
            dir,
            limits: Limits::default(),
            losses: BTreeMap::new(),
            permissions: HashMap::new(),
            owned: HashMap::new(),
            flags: HashMap::new(),
            xattrs: HashMap::new(),
            together: HashMap::new(),
            hash: RandomState::new(),
            rare: HashMap::new(),
            times: Times::default(),
            longest_link: 0,
            largest_file: 0,
            kinds: BTreeSet::new(),
            swaps: None,
            names: tried::Names::default(),
            links: tried::Links::default(),
            projects: HashMap::new(),
            unseen,
        };
        // This is tried even if no row has one: the base may have had some.
        rehearsal.limits.access_lists = !rehearsal.holds_access_lists()?;
        Ok(rehearsal)
    }

    /// Finds what one row would lose.
    pub(crate) fn row(&mut self, change: &Change) -> Result<()> {
        let Some(new) = change.new.as_ref().filter(|_| !change.only_lends()) else { return Ok(()) };
        let created = change.flags.created;
        // Attributes that did not change are tried too, because the commit sets them again.
        self.attributes(change, new)?;
        if let Some(xattrs) = &change.xattrs {
            self.xattrs(change, xattrs)?;
        }
        self.names(change)?;
        if created {
            self.content(change, new)?;
        }
        if change.kind == Kind::File && (created || change.flags.data) {
            self.extent(change, new)
        } else {
            Ok(())
        }
    }

    fn attributes(&mut self, change: &Change, new: &Attributes) -> Result<()> {
        self.permissions(change, new)?;
        let is_dir = change.kind == Kind::Directory;
        let bits = (0..32).map(|n| 1_u32 << n).filter(|bit| new.flags & bit != 0);
        for bit in bits {
            if !self.flag(is_dir, bit)? {
                self.limits.flags |= bit;
                let right = (bit & (IMMUTABLE | APPEND) != 0).then_some(Right::LinuxImmutable);
                self.lose_without(right, &format!("inode flag {}", flag_names(bit)), change);
            }
        }
        // Each is held alone, but perhaps not together with the others.
        let together = new.flags & !self.limits.flags;
        if together.count_ones() > 1 && !self.flag(is_dir, together)? {
            self.limits.flags |= together;
            self.lose(&format!("inode flags {} together", flag_names(together)), change);
        }
        self.rare(is_dir, change, new.rare)?;
        self.time(change, new)
    }

    fn permissions(&mut self, change: &Change, new: &Attributes) -> Result<()> {
        let (owner, bits) = self.tried(change.kind, new)?;
        if !owner {
            self.limits.owner = true;
            self.lose_without(Some(Right::Chown), "owner and group", change);
            if new.mode & 0o6000 != 0 && change.kind != Kind::Symlink {
                let what = "set-user-id and set-group-id, which go with owner and group";
                self.lose_without(Some(Right::Chown), what, change);
            }
        }
        if bits != 0 && change.kind != Kind::Symlink {
            self.limits.mode |= bits;
            self.lose("mode", change);
        }
        Ok(())
    }

    /// Records which parts of the old owner and mode could not be set: that was a limit in earlier rounds,
    /// whether they noted it or not.
    pub(crate) fn went_without(&mut self, kind: Kind, old: &Attributes) -> Result<Limits> {
        let (owner, bits) = self.tried(kind, old)?;
        self.limits.owner |= !owner;
        self.limits.mode |= bits;
        Ok(Limits { owner: !owner, mode: bits, ..Limits::default() })
    }

    /// Whether the owner can be set, and the mode bits that cannot.
    fn tried(&mut self, kind: Kind, attributes: &Attributes) -> Result<(bool, u32)> {
        let key = (kind == Kind::Directory, attributes.uid, attributes.gid, attributes.mode);
        if let Some(known) = self.permissions.get(&key) {
            return Ok(*known);
        }
        let kind = if key.0 { Kind::Directory } else { Kind::File };
        let found = self.with_probe(kind, |entry| try_permissions(entry, attributes))?;
        self.permissions.insert(key, found);
        Ok(found)
    }

    pub(super) fn flag(&mut self, is_dir: bool, flags: u32) -> Result<bool> {
        if let Some(known) = self.flags.get(&(is_dir, flags)) {
            return Ok(*known);
        }
        let unseen = self.unseen.as_ref().filter(|_| is_dir);
        let Some(tried) = unseen.map_or(Some(flags), |unseen| unseen.flags_to_try(flags)) else {
            return Ok(false);
        };
        let attempt = |file: &File| {
            let held = snapsync_sys::set_flags_of(file, tried).is_ok();
            // Flags that were set must not keep the trial file from being removed.
            let cleared = snapsync_sys::set_flags_of(file, 0);
            Ok(held && cleared.is_ok())
        };
        let held = if is_dir { self.with_dir(attempt)? } else { self.with_file(attempt)? };
        self.flags.insert((is_dir, flags), held);
        Ok(held)
    }

    fn xattrs(&mut self, change: &Change, xattrs: &[Xattr]) -> Result<()> {
        let new = change.new.unwrap_or_default();
        let mode = new.mode;
        for xattr in xattrs {
            let class = xattr_class(&xattr.name);
            let beside = self.beside(change, xattr, mode);
            if !self.xattr(change.kind, &class, beside.as_ref().unwrap_or(xattr))? {
                self.limits.xattrs.insert(class.clone());
                self.lose_without(right_to(&class), &format!("extended attribute {class}"), change);
            } else if *xattr.name == *acl::CAPABILITIES && !self.tried(change.kind, &new)?.0 {
                let what = "capabilities, which go with owner and group";
                self.lose_without(Some(Right::Chown), what, change);
            }
        }
        if change.flags.created { self.together(change, &[], xattrs) } else { Ok(()) }
    }

    /// Tries all attributes on one inode that had others before, in the order of the commit.
    pub(super) fn together(&mut self, change: &Change, old: &[Xattr], new: &[Xattr]) -> Result<()> {
        if !are_large(old) && !are_large(new) {
            return Ok(());
        }
        let wanted: Vec<Xattr> =
            new.iter().filter(|x| !self.limits.xattrs.contains(&xattr_class(&x.name))).cloned().collect();
        let shape = |xattrs: &[Xattr]| -> Vec<(Box<[u8]>, usize)> {
            xattrs.iter().map(|x| (x.name.clone(), x.value.len())).collect()
        };
        let key = (change.kind, self.hash.hash_one((shape(old), shape(&wanted))));
        let held = match self.together.get(&key) {
            Some(known) => *known,
            None => {
                let (mut old, mut wanted) = (old.to_vec(), wanted);
                if self.unseen.is_some() {
                    (old, wanted) = (Unseen::together_to_try(&old), Unseen::together_to_try(&wanted));
                }
                let held = self.with_probe(change.kind, |entry| {
                    entry.set_xattrs(&old, &|_| true)?;
                    Ok(entry.set_xattrs(&wanted, &|_| false).is_ok())
                })?;
                if self.together.len() < REMEMBERED {
                    self.together.insert(key, held);
                }
                held
            }
        };
        if !held {
            self.limits.large_xattrs = true;
            self.lose("extended attributes that are too large together", change);
        }
        Ok(())
    }

    fn xattr(&mut self, kind: Kind, class: &str, xattr: &Xattr) -> Result<bool> {
        // The system also judges the values of attributes that it understands: an access list may be invalid.
        let is_free = class.ends_with(".*");
        let value = if is_free { 0 } else { self.hash.hash_one(&xattr.value) };
        let key = (kind, class.to_owned(), value);
        if let Some(known) = self.xattrs.get(&key) {
            return Ok(*known);
        }
        // A large value fails because of its size, so a small one shows whether the class is held.
        let small = if is_free { &xattr.value[..xattr.value.len().min(64)] } else { &xattr.value };
        let unseen = self.unseen.is_some();
        let name = if unseen { Unseen::name_to_try(kind, &xattr.name) } else { &xattr.name };
        let held = self.with_probe(kind, |entry| Ok(entry.set_xattr(name, small).is_ok()))?;
        if self.xattrs.len() < REMEMBERED {
            self.xattrs.insert(key, held);
        }
        Ok(held)
    }

    /// Tries what cannot be left out: without it the row cannot be made at all.
    fn content(&mut self, change: &Change, new: &Attributes) -> Result<()> {
        match (change.kind, &change.symlink_target) {
            (Kind::Symlink, Some(target)) if target.len() > self.longest_link => {
                self.longest_link = target.len();
                self.try_symlink(target).map_err(|e| self.impossible(change, "a symbolic link this long", &e))
            }
            (Kind::CharDevice | Kind::BlockDevice | Kind::Socket | Kind::Fifo, _)
                if self.kinds.insert(change.kind) =>
            {
                self.make_node(change.kind, new.rdev)
                    .map_err(|e| self.impossible(change, change.kind.name(), &e))
            }
            _ => Ok(()),
        }
    }

    /// Tries the extent of a file: its size, and what is preallocated or punched beyond it.
    fn extent(&mut self, change: &Change, new: &Attributes) -> Result<()> {
        let end = change.extents.last().map_or(0, |last| last.offset + last.length).max(new.size);
        if end <= self.largest_file {
            return Ok(());
        }
        self.largest_file = end;
        let grown = self.with_file(|file| Ok(file.set_len(end)))?;
        grown.map_err(|e| self.impossible(change, "a file this large", &e))
    }

    pub(super) fn impossible(&self, change: &Change, what: &str, error: &io::Error) -> Error {
        Error::refused(
            format!("{} cannot hold {}: {what} ({error})", self.root.path().display(), change.display_path()),
            match change.kind {
                Kind::CharDevice | Kind::BlockDevice => {
                    "use a target that can, or leave that entry out; as root, devices can be made"
                }
                _ => "use a target that can, or rename that entry, or leave it out (--exclude)",
            },
        )
    }

    pub(super) fn lose(&mut self, what: &str, change: &Change) {
        self.lose_without(None, what, change);
    }

    /// The same for what also takes a right, which may be the reason.
    fn lose_without(&mut self, right: Option<Right>, what: &str, change: &Change) {
        let loss = self.losses.entry(what.to_owned()).or_insert_with(|| Loss {
            what: what.to_owned(),
            count: 0,
            example: change.display_path(),
            right: right.filter(|right| right.is_missing()).map(|right| right.name().to_owned()),
        });
        loss.count += 1;
    }

    /// Everything that the rows so far would lose.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn finish(self) -> (Limits, Vec<Loss>) {
        (self.limits, self.losses.into_values().collect())
    }

    pub(super) fn with_probe<T>(
        &self,
        kind: Kind,
        attempt: impl FnOnce(&Entry) -> io::Result<T>,
    ) -> Result<T> {
        match kind {
            _ if self.unseen.is_some() => {
                self.with_file(|file| attempt(&Entry::from_open(file.try_clone()?)))
            }
            Kind::Directory => self.with_dir(|file| attempt(&Entry::from_open(file.try_clone()?))),
            Kind::File => self.with_file(|file| attempt(&Entry::from_open(file.try_clone()?))),
            Kind::Symlink => self.with_made(|dir, name| Ok(symlinkat("x", dir, name)?), attempt),
            other => self.with_made(|dir, name| make_node(dir, name, other, 0), attempt),
        }
    }

    pub(super) fn with_file<T>(&self, attempt: impl FnOnce(&File) -> io::Result<T>) -> Result<T> {
        if self.unseen.is_some() {
            let made = without_name(&self.dir).and_then(|file| attempt(&file));
            return made.context("try out what can be held by", self.root.path());
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        self.scratch(|dir, name| attempt(&File::from(openat(dir, name, flags, Mode::from_raw_mode(0o600))?)))
    }

    /// The trial is on a file where nothing may be left to find.
    pub(super) fn with_dir<T>(&self, attempt: impl FnOnce(&File) -> io::Result<T>) -> Result<T> {
        if self.unseen.is_some() {
            return self.with_file(attempt);
        }
        self.scratch(|dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))?;
            attempt(&File::from(openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
        })
    }

    fn with_made<T>(
        &self,
        make: impl FnOnce(BorrowedFd<'_>, &OsStr) -> io::Result<()>,
        attempt: impl FnOnce(&Entry) -> io::Result<T>,
    ) -> Result<T> {
        self.scratch(|dir, name| {
            make(dir, name)?;
            attempt(&Entry::at(dir, name)?)
        })
    }

    fn try_symlink(&self, target: &[u8]) -> io::Result<()> {
        if let Some(unseen) = &self.unseen {
            return unseen.link(target);
        }
        let made = symlinkat(OsStr::from_bytes(target), &self.dir, "link");
        let _ = rustix::fs::unlinkat(&self.dir, "link", rustix::fs::AtFlags::empty());
        Ok(made?)
    }

    fn make_node(&self, kind: Kind, rdev: u64) -> io::Result<()> {
        if self.unseen.is_some() {
            let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
            let is_denied = is_device && Right::Mknod.is_missing();
            return if is_denied { Err(rustix::io::Errno::PERM.into()) } else { Ok(()) };
        }
        let made = make_node(self.dir.as_fd(), OsStr::new("node"), kind, rdev);
        let _ = rustix::fs::unlinkat(&self.dir, "node", rustix::fs::AtFlags::empty());
        made
    }

    fn scratch<T>(&self, attempt: impl FnOnce(BorrowedFd<'_>, &OsStr) -> io::Result<T>) -> Result<T> {
        let name = OsStr::new("probe");
        remove_tree(&self.dir, name).context("remove a probe in", self.root.path())?;
        let result = attempt(self.dir.as_fd(), name);
        remove_tree(&self.dir, name).context("remove a probe in", self.root.path())?;
        result.context("try out what can be held by", self.root.path())
    }
}

/// The right that setting extended attributes of a class takes.
fn right_to(class: &str) -> Option<Right> {
    match class {
        "security.capability" => Some(Right::SetFcap),
        _ if class.starts_with("trusted.") || class.starts_with("security.") => Some(Right::SysAdmin),
        _ => None,
    }
}

/// Sets owner and mode as the commit does, and returns whether the owner was set, and which mode bits were
/// not. If the file system has no permissions, no bit counts. Set-id bits need the owner and are not tried
/// without it.
fn try_permissions(entry: &Entry, new: &Attributes) -> io::Result<(bool, u32)> {
    let set = entry.set_owner(new.uid, new.gid);
    // Compare what is there afterwards: groups and modes may be dropped silently.
    let given = entry.stat()?.attributes;
    let is_given = set.is_ok() && (given.uid, given.gid) == (new.uid, new.gid);
    let wanted = if is_given { new.mode } else { new.mode & 0o1777 };
    let _ = entry.set_mode(wanted);
    let bits = entry.stat()?.attributes.mode ^ wanted;
    let all = if bits & 0o777 != 0 { 0o7777 } else { bits };
    Ok((is_given, all))
}
