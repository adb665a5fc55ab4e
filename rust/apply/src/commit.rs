//! The second half of an apply: the stage becomes the tree. Every step can be done again after a crash.

use crate::check::is_lost_and_found;
use crate::clear::clear;
use crate::journal::Phase;
use crate::names::{Attach, Detach, Places, attaches, detaches, held, staged_top};
use crate::stage::Incoming;
use crate::{access, attributes};
use rustix::fs::OFlags;
use snapsync_manifest::Brief;
use snapsync_model::{Attributes, Change, Context, Error, Kind, Op, Range, Rare, RelPath, Result, Stage};
use snapsync_sys::{Access, Entry, fault, preallocate, sync_filesystem};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Shorter ranges are copied: sharing costs a transaction each.
const SHARE: u64 = 64 << 10;

impl Incoming<'_> {
    /// Goes on from wherever the journal says, until the tree is the target. Where that cannot be, the tree is made
    /// again what it was, and the journal says that what is staged can be thrown away.
    pub fn commit(&mut self) -> Result<()> {
        match self.forward() {
            Err(cause) if self.journal.can_go_back() => Err(self.go_back(&cause)),
            done => done,
        }
    }

    fn forward(&mut self) -> Result<()> {
        let rows = self.manifest_reader()?.counts()?.rows;
        self.monitor.start(Stage::Commit, rows);
        match self.journal.phase {
            // What was put back goes again, and what was taken out comes again.
            Phase::Undoing => self.set_phase(Phase::Detached)?,
            Phase::Returning => self.set_phase(Phase::Committing)?,
            _ => {}
        }
        if rows > 0 && self.journal.phase != Phase::Settling {
            self.change_tree()?;
        }
        if self.journal.phase == Phase::Settling {
            self.settle()?;
        }
        self.set_phase(Phase::Applied)?;
        self.step("commit.applied")
    }

    fn change_tree(&mut self) -> Result<()> {
        let places = Places::read(&self.manifest())?;
        if self.journal.phase == Phase::Committing {
            let narrows = self.loosen(&places)?;
            self.step("commit.loosened")?;
            // Where no name is to go, all that follows can be done again from here.
            if self.detach(&places)? {
                self.sync()?;
                self.set_phase(Phase::Detached)?;
            } else if narrows {
                // Before what only some may read is where others could.
                self.sync()?;
            }
            self.step("commit.detached")?;
        }
        self.attach(&places)?;
        self.step("commit.attached")?;
        if self.move_data(&places)? {
            // Who may read it now could not read what was there before.
            self.sync()?;
        }
        let are_to_be_protected = self.set_all_attributes()?;
        self.sync()?;
        if are_to_be_protected { self.set_phase(Phase::Settling) } else { Ok(()) }
    }

    /// A further name of a file that is to be immutable cannot be removed later without taking that off the file: what
    /// goes is removed before anything is protected.
    fn settle(&mut self) -> Result<()> {
        self.step("commit.settling")?;
        clear(&self.root, self.journal.snapshot.id)?;
        self.step("commit.cleared")?;
        self.each_row(is_protected, |_, change| {
            let Some((path, new)) = change.path.as_ref().zip(change.new) else { return Ok(()) };
            if change.only_lends() {
                return Ok(());
            }
            let protected = self.root.entry(path).and_then(|entry| self.set_wholly(&entry, change, &new));
            protected.and_then(|()| fault::step("commit.protected")).context("protect", self.root.show(path))
        })?;
        self.sync()
    }

    /// Where a test can make it fail.
    pub(crate) fn step(&self, name: &'static str) -> Result<()> {
        fault::step(name).context("go on with the commit in", self.root.path())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        sync_filesystem(self.root.fd()).context("sync the file system of", self.root.path())
    }

    /// Whether any name was there to be detached.
    fn detach(&self, places: &Places) -> Result<bool> {
        let detaches = detaches(&self.manifest(), places)?;
        for detach in &detaches {
            let detached = self.detach_one(detach).and_then(|()| fault::step("commit.detach"));
            detached.context("detach", self.root.show(detach.path()))?;
        }
        Ok(!detaches.is_empty())
    }

    /// Nothing is attached before all of this is done, so a name that is gone was detached before.
    fn detach_one(&self, detach: &Detach) -> io::Result<()> {
        let (from, kept) = (detach.path(), self.kept(detach).map_err(io::Error::other)?);
        let result = match detach {
            Detach::Hold { .. } | Detach::Trash { .. } => self.root.rename_to_new(from, &kept),
            Detach::Anchor { .. } => self.root.link(from, &kept),
        };
        match (result, detach) {
            (Err(e), _) if is_gone(&e) => Ok(()),
            (Err(e), Detach::Anchor { .. }) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Older builds anchored what is moved now.
            (Err(e), Detach::Hold { .. }) if e.kind() == io::ErrorKind::AlreadyExists => {
                if self.is_same(from, &kept)? { self.root.unlink(from) } else { Err(e) }
            }
            (other, _) => other,
        }
    }

    /// Where in the stage a name that goes is.
    pub(crate) fn kept(&self, detach: &Detach) -> Result<RelPath> {
        match detach {
            Detach::Hold { ino, at, .. } => self.staged(&held(*ino, *at)),
            Detach::Anchor { ino, .. } => self.staged(&held(*ino, 0)),
            Detach::Trash { ino, at, .. } => self.staged(&format!("trash/{ino}-{at}")),
        }
    }

    pub(crate) fn is_same(&self, one: &RelPath, other: &RelPath) -> io::Result<bool> {
        Ok(self.root.entry(one)?.stat()?.ino == self.root.entry(other)?.stat()?.ino)
    }

    fn attach(&self, places: &Places) -> Result<()> {
        for attach in attaches(&self.manifest(), places)? {
            self.attach_one(&attach)?;
            fault::step("commit.attach").context("attach", self.root.show(attach.path()))?;
        }
        Ok(())
    }

    fn attach_one(&self, attach: &Attach) -> Result<()> {
        let (to, from) = (attach.path(), self.source(attach)?);
        let result = match attach {
            Attach::New { .. } | Attach::Move { at: 0, .. } => self.move_in(&from, to),
            Attach::Move { ino, .. } => match self.move_in(&from, to) {
                // Older builds hold one name of each inode.
                Err(e) if is_gone(&e) => self.link_in(&self.staged(&held(*ino, 0))?, to),
                other => other,
            },
            Attach::Link { .. } => self.link_in(&from, to),
        };
        match result {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::refused(
                format!("{} appeared while a delta was committed", self.root.show(to).display()),
                "move it away, and run the command again",
            )),
            other => other.context("attach", self.root.show(to)),
        }
    }

    /// Where in the stage a name that comes is until then.
    pub(crate) fn source(&self, attach: &Attach) -> Result<RelPath> {
        match attach {
            Attach::New { ino, at, .. } => self.staged(&format!("new/{}", staged_top(*ino, *at))),
            Attach::Move { ino, at, .. } => self.staged(&held(*ino, *at)),
            Attach::Link { ino, .. } => self.staged(&held(*ino, 0)),
        }
    }

    fn move_in(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        match self.root.rename_to_new(from, to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_lost_and_found(&self.root, to) => {
                self.root.rename_to_new(to, &self.lost_and_found().map_err(io::Error::other)?)?;
                self.root.rename_to_new(from, to)
            }
            // Attached before a crash, by itself or with what it is in.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.entry(to).is_ok() => Ok(()),
            // Linked by an older build, which kept what is held.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.is_same(from, to)? => {
                self.root.unlink(from)
            }
            other => other,
        }
    }

    /// Where the one that makes way goes.
    pub(crate) fn lost_and_found(&self) -> Result<RelPath> {
        self.staged("trash/lost+found")
    }

    fn link_in(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        match self.root.link(from, to) {
            // Linked before a crash that came when nothing had to be held any more.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.entry(to).is_ok() => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if self.is_same(from, to)? {
                    Ok(())
                } else {
                    Err(e)
                }
            }
            other => other,
        }
    }

    /// Moves changed ranges from the stage into their files; whether others may use some of those then.
    fn move_data(&self, places: &Places) -> Result<bool> {
        let opens = AtomicBool::new(false);
        let changes_data = |row: &Brief| {
            row.kind == Kind::File && row.flags.data && !row.flags.created && !row.flags.deleted
        };
        self.each_row(changes_data, |_, change| {
            let path = change.path.clone().unwrap_or_default();
            let moved = self.move_ranges(change, &path).and_then(|()| fault::step("commit.data"));
            moved.context("write", self.root.show(&path))?;
            opens.fetch_or(places.opens() || access::is_narrowed(change, places.moves()), Relaxed);
            Ok(())
        })?;
        Ok(opens.into_inner())
    }

    fn move_ranges(&self, change: &Change, path: &RelPath) -> io::Result<()> {
        let size = change.new.map_or(0, |a| a.size);
        let file = self.open_loosened(path)?;
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        if change.loses_tail() {
            // Setting the size it has gives back what is preallocated beyond it, where holes cannot be made there.
            file.set_len(size)?;
        }
        let staged = if change.data_bytes() > 0 || change.has_clones() {
            let path = self.staged(&format!("data/{}", change.ino)).map_err(io::Error::other)?;
            Some(self.root.write(&path)?)
        } else {
            None
        };
        for extent in change.beyond_end() {
            snapsync_sys::discard_range(&file, extent.offset, extent.length)?;
            preallocate(&file, extent.offset, extent.length)?;
        }
        for (at, extent) in change.extents.iter().enumerate() {
            match (extent.op, &staged) {
                (Op::Data | Op::Clone, Some(staged)) => {
                    let range = Range { offset: extent.offset, length: extent.length };
                    self.move_range(staged, &file, range, size)?;
                }
                (Op::Hole, _) => {
                    let hole = change.hole(at, self.block);
                    snapsync_sys::discard_range(&file, hole.offset, hole.length)?;
                }
                (Op::Unwritten, _) if extent.offset > size => {}
                (Op::Unwritten, _) => {
                    snapsync_sys::discard_range(&file, extent.offset, extent.length)?;
                    preallocate(&file, extent.offset, extent.length)?;
                }
                _ => return Err(io::ErrorKind::Unsupported.into()),
            }
        }
        Ok(())
    }

    /// Puts a range of one file into another that has or will have `size` bytes.
    pub(crate) fn move_range(&self, staged: &File, file: &File, range: Range, size: u64) -> io::Result<()> {
        if range.length >= SHARE {
            return self.share_range(staged, file, range, size);
        }
        snapsync_sys::copy_range(staged, range.offset, range.length, file, range.offset)
    }

    /// The same without taking space, however short it is, where blocks can be shared.
    pub(crate) fn share_range(&self, staged: &File, file: &File, range: Range, size: u64) -> io::Result<()> {
        let Range { offset, length } = range;
        let is_whole = |at: u64| at.is_multiple_of(self.block);
        let has_whole_blocks = is_whole(offset) && (is_whole(length) || range.end() == size);
        if has_whole_blocks && snapsync_sys::clone_range(staged, offset, length, file, offset).is_ok() {
            return Ok(());
        }
        snapsync_sys::copy_range(staged, offset, length, file, offset)
    }

    /// Opens for writing; a replay may find the file as protected as it is to be in the end.
    pub(crate) fn open_loosened(&self, path: &RelPath) -> io::Result<File> {
        match self.root.write(path) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                attributes::loosen(&open_for_flags(&self.root.entry(path)?)?)?;
                self.root.write(path)
            }
            other => other,
        }
    }

    /// Attributes of everything that was not made with them: what was there before, and directories, whose times
    /// every attach has changed. Whether any of them is to be protected.
    fn set_all_attributes(&self) -> Result<bool> {
        let are_to_be_protected = AtomicBool::new(false);
        // Whatever else is new was made with its attributes.
        let is_set = |row: &Brief| {
            are_to_be_protected.fetch_or(is_protected(row), Relaxed);
            let is_set = !row.flags.created || row.kind == Kind::Directory;
            self.monitor.advance(u64::from(!is_set));
            is_set
        };
        self.each_row(is_set, |_, change| {
            let Some(path) = &change.path else { return Ok(()) };
            let set = self.set_row(change, path).and_then(|()| fault::step("commit.attributes"));
            self.monitor.advance(1);
            set.context("set the attributes of", self.root.show(path))
        })?;
        Ok(are_to_be_protected.into_inner())
    }

    fn set_row(&self, change: &Change, path: &RelPath) -> io::Result<()> {
        let Some(new) = change.new else { return Ok(()) };
        if !(change.survives() || change.kind == Kind::Directory) || change.only_lends() {
            return Ok(());
        }
        let flags = new.flags & !attributes::PROTECTIVE;
        let new = if flags == new.flags { new } else { access::taken(change.kind, &new) };
        self.set_wholly(&self.root.entry(path)?, change, &Attributes { flags, ..new })
    }

    fn set_wholly(&self, entry: &Entry, change: &Change, new: &Attributes) -> io::Result<()> {
        let is_dir = change.kind == Kind::Directory;
        let has_flags = matches!(change.kind, Kind::File | Kind::Directory);
        let is_plain = |a: &Attributes| (a.flags, a.rare) == (0, Rare::default());
        let was_plain = change.new.iter().chain(&change.old).all(is_plain);
        let flags = if has_flags && (!was_plain || (is_dir && change.flags.created)) {
            Some(open_for_flags(entry)?)
        } else {
            None
        };
        if let Some(file) = &flags {
            // A replay finds what it has protected itself.
            attributes::loosen(file)?;
        }
        attributes::set(entry, change.kind, new, change.xattrs.as_deref(), &self.journal.limits)?;
        let Some(file) = flags else { return Ok(()) };
        attributes::set_rare(&file, new.rare, &self.journal.limits)?;
        attributes::set_flags(file, new.flags, &self.journal.limits)
    }
}

/// What the commit does with what was there.
pub(crate) fn access_to(kind: Kind) -> Access {
    let to_all = Access::READ_OK | Access::WRITE_OK;
    if kind == Kind::Directory { to_all | Access::EXEC_OK } else { to_all }
}

fn is_protected(row: &Brief) -> bool {
    !row.flags.deleted && row.inode_flags & attributes::PROTECTIVE != 0
}

/// Opened before its mode may forbid it.
pub(crate) fn open_for_flags(entry: &Entry) -> io::Result<File> {
    entry.open(OFlags::RDONLY)
}

pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
