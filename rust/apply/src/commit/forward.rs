//! The second half of an apply: the stage becomes the tree. Every step can be repeated after a crash.

use crate::commit::returned::Correct;
use crate::journal::Phase;
use crate::known::{Known, Row};
use crate::layout::clear;
use crate::names::Places;
use crate::stage::incoming::Incoming;
use crate::{access, attributes};
use rustix::fs::OFlags;
use snapsync_manifest::Brief;
use snapsync_model::{Attributes, Change, Context, Error, Kind, Op, Range, Rare, RelPath, Result, Stage};
use snapsync_sys::{Access, Entry, fault, preallocate, sync_filesystem};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Shorter ranges are copied, because sharing costs a transaction each.
const SHARE: u64 = 64 << 10;

impl Incoming<'_> {
    /// Continues from the journal's phase until the tree is the target. If that fails, restores the tree and
    /// marks the stage in the journal as ready to be removed.
    pub fn commit(&mut self) -> Result<()> {
        self.commit_or(&mut |_, _| Ok(()))
    }

    /// Does the same for a volume whose snapshots find bytes in the tree: if the commit goes back,
    /// `correct` is called before the journal says so.
    pub fn commit_or(&mut self, correct: &mut Correct<'_>) -> Result<()> {
        match self.forward() {
            Err(cause) if self.journal.can_go_back() => Err(self.go_back(&cause, correct)),
            done => done,
        }
    }

    fn forward(&mut self) -> Result<()> {
        self.learn()?;
        let rows = self.manifest_reader()?.counts()?.rows;
        self.monitor.start(Stage::Commit, rows);
        match self.journal.phase {
            // Names that were put back are removed again, and names that were taken out are added again.
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
        let places = match self.is_fresh {
            true => self.places.clone(),
            false => Arc::new(Places::read(&self.manifest())?),
        };
        if self.journal.phase == Phase::Committing {
            self.displace()?;
            self.step("commit.displaced")?;
            let narrows = self.loosen(&places)?;
            self.step("commit.loosened")?;
            // If no name is removed, everything that follows can be repeated from here.
            if self.detach(&places)? {
                self.sync()?;
                self.set_phase(Phase::Detached)?;
            } else if narrows {
                // Protected data must not reach the disk after others get access to it.
                self.sync()?;
            }
            self.step("commit.detached")?;
        }
        self.sweep_trash(&places)?;
        self.attach(&places)?;
        self.step("commit.attached")?;
        if self.move_data(&places)? {
            // Those who may read it now could not read the old content.
            self.sync()?;
        }
        let are_to_be_protected = self.set_all_attributes()?;
        self.sync()?;
        if are_to_be_protected { self.set_phase(Phase::Settling) } else { Ok(()) }
    }

    /// An immutable file cannot lose a name without clearing the flag, so everything is removed before
    /// anything is protected.
    fn settle(&mut self) -> Result<()> {
        self.step("commit.settling")?;
        clear(&self.root, self.journal.snapshot.id)?;
        self.step("commit.cleared")?;
        self.each_known(self.known_rows(is_protected)?, |Row { change, known }| {
            let Some((path, new)) = change.path.as_ref().zip(change.new) else { return Ok(()) };
            if change.only_lends() {
                return Ok(());
            }
            let Some(entry) = self.look_for(path, known)? else {
                self.monitor.note(self.exchanged(path).sentence());
                return Ok(());
            };
            let protected = self.set_wholly(&entry, change, &new);
            protected.and_then(|()| fault::step("commit.protected")).context("protect", self.root.show(path))
        })?;
        self.sync()
    }

    /// A step that a test can make fail.
    pub(crate) fn step(&self, name: &'static str) -> Result<()> {
        fault::step(name).context("go on with the commit in", self.root.path())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        sync_filesystem(self.root.fd()).context("sync the file system of", self.root.path())
    }

    /// Moves changed ranges from the stage to their files. Returns whether others may use some of those
    /// afterwards.
    fn move_data(&self, places: &Places) -> Result<bool> {
        let opens = AtomicBool::new(false);
        let changes_data = |row: &Brief<'_>| row.kind == Kind::File && row.flags.data && !row.flags.deleted;
        self.each_known(self.known_rows_of_base(changes_data)?, |Row { change, known }| {
            let path = change.path.clone().unwrap_or_default();
            let entry = self.entry_of(&path, known)?;
            let moved = self.move_ranges(change, &entry).and_then(|()| fault::step("commit.data"));
            moved.context("write", self.root.show(&path))?;
            opens.fetch_or(places.opens() || access::is_narrowed(change, places.moves()), Relaxed);
            Ok(())
        })?;
        Ok(opens.into_inner())
    }

    fn move_ranges(&self, change: &Change, entry: &Entry) -> io::Result<()> {
        let size = change.new.map_or(0, |a| a.size);
        let file = open_loosened(entry)?;
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        if change.loses_tail() {
            // Setting the current size removes preallocation beyond it on file systems that cannot punch
            // holes there.
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
                    let hole = change.to_end_of_block(at, self.block);
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

    /// The same without using space if blocks can be shared, however short the range is.
    pub(crate) fn share_range(&self, staged: &File, file: &File, range: Range, size: u64) -> io::Result<()> {
        let Range { offset, length } = range;
        let is_whole = |at: u64| at.is_multiple_of(self.block);
        let has_whole_blocks = is_whole(offset) && (is_whole(length) || range.end() == size);
        if has_whole_blocks && snapsync_sys::clone_range(staged, offset, length, file, offset).is_ok() {
            return Ok(());
        }
        snapsync_sys::copy_range(staged, offset, length, file, offset)
    }

    /// Sets the attributes of everything that did not get them when it was made: existing entries, and
    /// directories, whose times every attach has changed. Returns whether any of them must be protected.
    fn set_all_attributes(&self) -> Result<bool> {
        let are_to_be_protected = AtomicBool::new(false);
        // All other new entries were made with their attributes.
        let is_set = |row: &Brief<'_>| {
            are_to_be_protected.fetch_or(is_protected(row), Relaxed);
            let is_set = !row.flags.created || row.kind == Kind::Directory;
            self.monitor.advance(u64::from(!is_set));
            is_set
        };
        self.each_known(self.known_rows(is_set)?, |row| {
            let Some(path) = &row.change.path else { return Ok(()) };
            self.set_row(row, path)?;
            self.monitor.advance(1);
            fault::step("commit.attributes").context("set the attributes of", self.root.show(path))
        })?;
        Ok(are_to_be_protected.into_inner())
    }

    fn set_row(&self, Row { change, known }: &Row, path: &RelPath) -> Result<()> {
        let Some(new) = change.new else { return Ok(()) };
        if !(change.survives() || change.kind == Kind::Directory) || change.only_lends() {
            return Ok(());
        }
        let flags = new.flags & !attributes::PROTECTIVE;
        let new = if flags == new.flags { new } else { access::taken(change.kind, &new) };
        let entry = self.entry_of(path, known)?;
        let expects_names = access::lends_rights(change);
        if expects_names {
            self.expect_names(change, known, &entry, path)?;
        }
        let set = self.set_wholly(&entry, change, &Attributes { flags, ..new });
        set.context("set the attributes of", self.root.show(path))?;
        // From now on nobody can make another name of it who could before.
        if expects_names { self.expect_names(change, known, &entry, path) } else { Ok(()) }
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
            // When repeated, the step finds files that it has protected itself.
            attributes::loosen(file)?;
        }
        attributes::set(entry, change.kind, new, change.xattrs.as_deref(), &self.journal.limits)?;
        let Some(file) = flags else { return Ok(()) };
        attributes::set_rare(&file, new.rare, &self.journal.limits)?;
        attributes::set_flags(file, new.flags, &self.journal.limits)
    }

    /// Checks that a file that runs with rights of its owner or group got no further name since the check:
    /// that name would outlive the file.
    fn expect_names(&self, change: &Change, known: &Known, entry: &Entry, path: &RelPath) -> Result<()> {
        let Some(links) = known.links() else { return Ok(()) };
        // Names to be removed are in the stage until the end.
        let comes = change.links_added.len().saturating_sub(change.links_removed.len());
        let stat = entry.stat().context("read the attributes of", self.root.show(path))?;
        if u64::from(stat.nlink) <= u64::from(links) + comes as u64 {
            return Ok(());
        }
        Err(Error::refused(
            format!("{} was given another name since it was checked", self.root.show(path).display()),
            "remove that name (`find -inum` finds it), and run the command again",
        ))
    }
}

/// Opens for writing; when repeated, the step may find the file protected already.
pub(crate) fn open_loosened(entry: &Entry) -> io::Result<File> {
    match entry.open(OFlags::RDWR) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            attributes::loosen(&open_for_flags(entry)?)?;
            entry.open(OFlags::RDWR)
        }
        other => other,
    }
}

/// The access that the commit needs to an existing entry.
pub(crate) fn access_to(kind: Kind) -> Access {
    let to_all = Access::READ_OK | Access::WRITE_OK;
    if kind == Kind::Directory { to_all | Access::EXEC_OK } else { to_all }
}

fn is_protected(row: &Brief<'_>) -> bool {
    !row.flags.deleted && row.inode_flags & attributes::PROTECTIVE != 0
}

/// Opens it before its new mode may forbid that.
pub(crate) fn open_for_flags(entry: &Entry) -> io::Result<File> {
    entry.open(OFlags::RDONLY)
}

pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
