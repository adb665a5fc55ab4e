//! The second half of an apply: the stage becomes the tree. Every step can be done again after a crash.

use crate::attributes;
use crate::check::is_lost_and_found;
use crate::journal::Phase;
use crate::names::{Attach, Detach, Places, attaches, detaches, staged_top};
use crate::stage::Incoming;
use rustix::fs::OFlags;
use snapsync_manifest::Brief;
use snapsync_model::{Change, Context, Error, Extent, Kind, Op, RelPath, Result, Stage};
use snapsync_sys::{Access, Entry, fault, preallocate, remove_tree, sync_filesystem};
use std::fs::File;
use std::io;

/// Shorter ranges are copied: sharing costs a transaction each.
const SHARE: u64 = 64 << 10;

impl Incoming<'_> {
    /// Goes on from wherever the journal says, until the tree is the target.
    pub fn commit(&mut self) -> Result<()> {
        let rows = self.manifest_reader()?.counts()?.rows;
        self.monitor.start(Stage::Commit, rows);
        if rows > 0 {
            self.change_tree()?;
        }
        self.set_phase(Phase::Applied)?;
        fault::point("commit.applied");
        Ok(())
    }

    fn change_tree(&mut self) -> Result<()> {
        let places = Places::read(&self.manifest())?;
        if self.journal.phase == Phase::Committing {
            self.loosen()?;
            // Where no name is to go, all that follows can be done again from here.
            if self.detach(&places)? {
                self.sync()?;
                self.set_phase(Phase::Detached)?;
            }
            fault::point("commit.detached");
        }
        self.attach(&places)?;
        fault::point("commit.attached");
        self.move_data()?;
        self.clear_remains()?;
        self.set_all_attributes()?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        sync_filesystem(self.root.fd()).context("sync the file system of", self.root.path())
    }

    /// Takes off what would keep the commit from changing an inode: immutable and append-only flags, and for
    /// an ordinary user the lack of write permission.
    fn loosen(&self) -> Result<()> {
        self.each_row(
            |row| !row.flags.created,
            |_, change| {
                let (Some(path), Some(old)) = (&change.old_path, change.old) else { return Ok(()) };
                if change.only_lends() {
                    return Ok(());
                }
                let entry = match self.root.entry(path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                    other => other.context("open", self.root.show(path))?,
                };
                if old.flags & attributes::PROTECTIVE != 0 {
                    open_for_flags(&entry)
                        .and_then(|f| attributes::loosen(&f))
                        .context("unprotect", self.root.show(path))?;
                }
                let wanted = if change.kind == Kind::Directory { 0o700 } else { 0o600 };
                // What is deleted goes with its name, whoever it belongs to.
                let is_opened =
                    change.kind == Kind::Directory || (change.kind == Kind::File && !change.flags.deleted);
                let needs_mode = is_opened && old.mode & wanted != wanted;
                if needs_mode && !entry.allows(access_to(change.kind)) {
                    entry.set_mode(old.mode | wanted).context("set the mode of", self.root.show(path))?;
                }
                Ok(())
            },
        )
    }

    /// Whether any name was there to be detached.
    fn detach(&self, places: &Places) -> Result<bool> {
        let detaches = detaches(&self.manifest(), places)?;
        for detach in &detaches {
            self.detach_one(detach).context("detach", self.root.show(detach.path()))?;
            fault::point("commit.detach");
        }
        Ok(!detaches.is_empty())
    }

    /// Nothing is attached before all of this is done, so a name that is gone was detached before.
    fn detach_one(&self, detach: &Detach) -> io::Result<()> {
        let kept = |part: &str, ino: &u64| self.staged(&format!("{part}/{ino}")).map_err(io::Error::other);
        let result = match detach {
            Detach::Hold { from, ino } => self.root.rename_to_new(from, &kept("held", ino)?),
            Detach::Anchor { from, ino } => self.root.link(from, &kept("held", ino)?),
            Detach::Trash { from, ino } => self.root.rename_to_new(from, &kept("trash", ino)?),
            Detach::Unlink { from } => self.root.unlink(from),
        };
        match (result, detach) {
            (Err(e), _) if is_gone(&e) => Ok(()),
            (Err(e), Detach::Anchor { .. }) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            (other, _) => other,
        }
    }

    fn attach(&self, places: &Places) -> Result<()> {
        for attach in attaches(&self.manifest(), places)? {
            self.attach_one(&attach)?;
            fault::point("commit.attach");
        }
        Ok(())
    }

    fn attach_one(&self, attach: &Attach) -> Result<()> {
        let to = attach.path();
        let result = match attach {
            Attach::New { ino, at, to } => {
                self.move_in(&self.staged(&format!("new/{}", staged_top(*ino, *at)))?, to)
            }
            Attach::Move { ino, to } => self.move_in(&self.staged(&format!("held/{ino}"))?, to),
            Attach::Link { ino, to } => self.link_in(&self.staged(&format!("held/{ino}"))?, to),
        };
        match result {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::refused(
                format!("{} appeared while a delta was committed", self.root.show(to).display()),
                "move it away and run the command again: the commit then goes on",
            )),
            other => other.context("attach", self.root.show(to)),
        }
    }

    fn move_in(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        match self.root.rename_to_new(from, to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_lost_and_found(&self.root, to) => {
                self.root.rename(from, to)
            }
            // Attached before a crash, by itself or with what it is in.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.entry(to).is_ok() => Ok(()),
            other => other,
        }
    }

    fn link_in(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        match self.root.link(from, to) {
            // Linked before a crash that came when nothing had to be held any more.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.entry(to).is_ok() => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let same = self.root.entry(from)?.stat()?.ino == self.root.entry(to)?.stat()?.ino;
                if same { Ok(()) } else { Err(e) }
            }
            other => other,
        }
    }

    /// Moves changed ranges from the stage into their files.
    fn move_data(&self) -> Result<()> {
        let changes_data = |row: &Brief| {
            row.kind == Kind::File && row.flags.data && !row.flags.created && !row.flags.deleted
        };
        self.each_row(changes_data, |_, change| {
            let path = change.path.clone().unwrap_or_default();
            self.move_ranges(change, &path).context("write", self.root.show(&path))?;
            fault::point("commit.data");
            Ok(())
        })
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
                    let is_shared = extent.length >= SHARE && self.has_whole_blocks(extent, size);
                    move_range(staged, &file, extent, is_shared)?;
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

    fn has_whole_blocks(&self, extent: &Extent, size: u64) -> bool {
        let is_whole = |at: u64| at.is_multiple_of(self.block);
        is_whole(extent.offset) && (is_whole(extent.length) || extent.end() == size)
    }

    /// Removes what was held and what goes, before anything is protected again: some of it is a further name of a
    /// file that lives on, and such a name cannot be removed without taking the protection off the file.
    fn clear_remains(&self) -> Result<()> {
        for part in ["held", "trash"] {
            let path = self.staged(part)?;
            let (stage, name) = match self.root.parent(&path) {
                Err(e) if is_gone(&e) => continue,
                other => other.context("open the stage of", self.root.path())?,
            };
            remove_tree(stage, name).context("remove", self.root.show(&path))?;
        }
        Ok(())
    }

    /// Opens for writing; a replay may find the file as protected as it is to be in the end.
    fn open_loosened(&self, path: &RelPath) -> io::Result<File> {
        match self.root.write(path) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                attributes::loosen(&open_for_flags(&self.root.entry(path)?)?)?;
                self.root.write(path)
            }
            other => other,
        }
    }

    /// Attributes of everything that was not made with them: what was there before, and directories, whose times
    /// every attach has changed.
    fn set_all_attributes(&self) -> Result<()> {
        // Whatever else is new was made with its attributes.
        let is_set = |row: &Brief| {
            let is_set = !row.flags.created
                || row.kind == Kind::Directory
                || row.inode_flags & attributes::PROTECTIVE != 0;
            self.monitor.advance(u64::from(!is_set));
            is_set
        };
        self.each_row(is_set, |_, change| {
            let Some(path) = &change.path else { return Ok(()) };
            self.set_row(change, path).context("set the attributes of", self.root.show(path))?;
            self.monitor.advance(1);
            fault::point("commit.attributes");
            Ok(())
        })
    }

    fn set_row(&self, change: &Change, path: &RelPath) -> io::Result<()> {
        let Some(new) = change.new else { return Ok(()) };
        let is_dir = change.kind == Kind::Directory;
        let protected = new.flags & attributes::PROTECTIVE != 0;
        if !(change.survives() || is_dir || protected) || change.only_lends() {
            return Ok(());
        }
        let entry = self.root.entry(path)?;
        let has_flags = matches!(change.kind, Kind::File | Kind::Directory);
        let flags = if has_flags
            && (new.flags | change.old.map_or(0, |a| a.flags) != 0 || (is_dir && change.flags.created))
        {
            Some(open_for_flags(&entry)?)
        } else {
            None
        };
        if let Some(file) = &flags {
            // A replay finds what it has protected itself.
            attributes::loosen(file)?;
        }
        attributes::set(&entry, change.kind, &new, change.xattrs.as_deref(), &self.journal.limits)?;
        flags.map_or(Ok(()), |file| attributes::set_flags(file, new.flags, &self.journal.limits))
    }
}

/// What the commit does with what was there.
fn access_to(kind: Kind) -> Access {
    let to_all = Access::READ_OK | Access::WRITE_OK;
    if kind == Kind::Directory { to_all | Access::EXEC_OK } else { to_all }
}

/// Opened before its mode may forbid it.
fn open_for_flags(entry: &Entry) -> io::Result<File> {
    entry.open(OFlags::RDONLY)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn move_range(staged: &File, file: &File, extent: &Extent, is_shared: bool) -> io::Result<()> {
    let (offset, length) = (extent.offset, extent.length);
    if is_shared && snapsync_sys::clone_range(staged, offset, length, file, offset).is_ok() {
        return Ok(());
    }
    snapsync_sys::copy_range(staged, offset, length, file, offset)
}
