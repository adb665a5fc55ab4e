//! Moves bytes that older snapshots find only in the tree to their objects before the commit destroys them. A
//! deleted file becomes the object itself: the object is one more link to it until its names are gone. A file
//! that changes in place is copied during staging. An object never holds other bytes than its snapshot had:
//! if that cannot be proved, no object is made.

use crate::attributes;
use crate::check::drift::is_cut_to;
use crate::check::space::SMALL;
use crate::commit::forward::is_gone;
use crate::commit::loosen::take;
use crate::commit::moves::is_taken;
use crate::stage::incoming::Incoming;
use crate::stage::objects::Displaced;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use snapsync_model::{Context, Error, Kind, RelPath, Result, SegmentKind};
use snapsync_sys::{
    Entry, NOCOW, PROTECTIVE, Stat, acl, clear_flags_of, fault, filesystem, flags_of, hold_still, layout,
    may_be_written, set_flags_of, stat_of, tolerate,
};
use std::fs::File;
use std::io;

/// The directory of copies in the stage. Each is named by its row in the manifest.
const DIR: &str = "displaced";
const KEEP: &str = "keep for older snapshots";

/// The result of making a deleted file its own object.
enum Kept {
    Yes,
    /// The file is not what the snapshot had.
    Changed,
    /// Others could change the file later: a copy is needed.
    NotAlone,
}

impl Incoming<'_> {
    /// Copies files that will be overwritten in place, and deleted files that others could still change,
    /// before the tree is touched. Copies share blocks if possible.
    pub(crate) fn copy_displaced(&self) -> Result<()> {
        if !self.journal.displaces {
            return Ok(());
        }
        let dir = self.staged(DIR)?;
        let make = || {
            // An interrupted run left one.
            self.remove_staged(&dir)?;
            self.root.create_dir(&dir, 0o700)
        };
        make().context("make the directory", self.root.show(&dir))?;
        self.each_displaced(|displaced| {
            self.monitor.check()?;
            let path = displaced.path();
            let entry = self.entry_of(&path, &displaced.row.known)?;
            let copy = || -> io::Result<()> {
                if !displaced.is_alone(&entry)? && !self.keeps_before_image(displaced, &entry)? {
                    self.copy_to(displaced, &entry, &self.copy_of(displaced)?)?;
                }
                fault::step("displace.row")
            };
            copy().context(KEEP, self.root.show(&path))
        })
    }

    /// Makes the objects, before any name is removed and any byte is overwritten.
    pub(crate) fn displace(&self) -> Result<()> {
        self.each_displaced(|displaced| {
            let done = self.displace_one(displaced).and_then(|()| fault::step("commit.displace"));
            done.context(KEEP, self.root.show(&displaced.path()))
        })
    }

    fn displace_one(&self, displaced: &Displaced) -> io::Result<()> {
        let is_placed = self.place(displaced, &self.copy_of(displaced)?)? || self.place_image(displaced)?;
        if is_placed || displaced.row.change.survives() {
            return Ok(());
        }
        let (entry, is_linked) = match self.object(&displaced.object)? {
            // A crash may have come before the file was taken.
            Some(found) if self.is_displaced(displaced, &found)? => (found, true),
            Some(_) => return Ok(()),
            None => {
                let found = self.look_for(&displaced.path(), &displaced.row.known);
                match found.map_err(io::Error::other)? {
                    Some(entry) => (entry, false),
                    // Detaching its name reports that.
                    None => return Ok(()),
                }
            }
        };
        let kept = self.make_object(displaced, &entry, is_linked)?;
        if is_linked && !matches!(kept, Kept::Yes) {
            self.root.unlink(&displaced.object)?;
        }
        match kept {
            Kept::Yes => {}
            Kept::Changed => self.say_lost(displaced, CHANGED),
            Kept::NotAlone => {
                // A crash may leave half of it: a replay must not take that for a copy.
                let path = self.staged(&format!("{DIR}/{}.new", displaced.at)).map_err(io::Error::other)?;
                self.remove_staged(&path)?;
                if let Some(copy) = self.copy_to(displaced, &entry, &path)? {
                    // A replay believes the object, so the bytes must be on the disk first.
                    copy.sync_all()?;
                    self.place(displaced, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Moves a copy to its object. Returns whether there was a copy.
    fn place(&self, displaced: &Displaced, copy: &RelPath) -> io::Result<bool> {
        let copy = self.root.place(copy)?;
        if copy.entry().is_err() {
            return Ok(false);
        }
        let place = match self.root.place(&displaced.object) {
            Err(e) if is_gone(&e) => {
                self.make_directories(&displaced.object)?;
                self.root.place(&displaced.object)?
            }
            other => other?,
        };
        copy.rename(&place)?;
        Ok(true)
    }

    /// Links a file to the object's name, and takes the file for this process alone, while a lease keeps
    /// everybody from starting to write.
    fn make_object(&self, displaced: &Displaced, entry: &Entry, is_linked: bool) -> io::Result<Kept> {
        let before = entry.stat()?;
        if !self.is_base(displaced, &before) {
            return Ok(Kept::Changed);
        }
        let (file, was_shut) = match entry.read() {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                // Its owner runs this, and its mode keeps him out.
                take(entry, Kind::File)?;
                (entry.read(), true)
            }
            other => (other, false),
        };
        let file = match file {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(Kept::NotAlone),
            other => other?,
        };
        let Some(lease) = hold_still(&file) else { return Ok(Kept::NotAlone) };
        let now = stat_of(&file)?;
        let written = |stat: &Stat| (stat.attributes.size, stat.attributes.time());
        if written(&now) != written(&before) || (now.ctime != before.ctime && !was_shut) {
            return Ok(Kept::Changed);
        }
        if displaced.has_other_names(&now, is_linked) {
            return Ok(Kept::NotAlone);
        }
        if now.attributes.flags & PROTECTIVE != 0 {
            attributes::loosen(&file)?;
        }
        if !is_linked && !self.link_object(entry, &displaced.object)? {
            return Ok(Kept::NotAlone);
        }
        take(entry, Kind::File)?;
        for name in [acl::ACCESS, acl::CAPABILITIES] {
            tolerate(entry.remove_xattr(name), true)?;
        }
        drop(lease);
        // Whoever waited for the lease passed the check of rights before.
        if may_be_written(&file) { Err(self.is_written(displaced)) } else { Ok(Kept::Yes) }
    }

    /// Returns false if the file cannot have one more link, or none in that directory.
    fn link_object(&self, entry: &Entry, object: &RelPath) -> io::Result<bool> {
        let link = || self.root.place(object)?.link_entry(entry);
        let errno = |e: &io::Error| Errno::from_io_error(e);
        let linked = match link() {
            Err(e) if is_gone(&e) => self.make_directories(object).and_then(|()| link()),
            // The directory accepts only files of its project.
            Err(e) if errno(&e) == Some(Errno::XDEV) => {
                let (dir, _) = object.split().unwrap_or_default();
                self.clear_directory(&dir).and_then(|()| link())
            }
            other => other,
        };
        match linked {
            Err(e) if matches!(errno(&e), Some(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::ACCESS)) => {
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// Makes the directories above an object.
    pub(crate) fn make_directories(&self, object: &RelPath) -> io::Result<()> {
        let above = |path: &RelPath| path.split().map(|(above, _)| above);
        let dirs: Vec<RelPath> = std::iter::successors(above(object), above).take(3).collect();
        for dir in dirs.iter().rev() {
            match self.root.create_dir(dir, 0o700) {
                Err(e) if is_taken(&e) => {}
                made => made.and_then(|()| self.clear_directory(dir))?,
            }
        }
        Ok(())
    }

    /// Clears flags that new entries would inherit or be refused by.
    fn clear_directory(&self, dir: &RelPath) -> io::Result<()> {
        clear_flags_of(self.root.open_at(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?)
    }

    /// Returns None if the file is not what the snapshot had, or cannot be read.
    fn copy_to(&self, displaced: &Displaced, entry: &Entry, path: &RelPath) -> io::Result<Option<File>> {
        let file = match entry.read() {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                self.say_lost(displaced, "may not be read");
                return Ok(None);
            }
            other => other?,
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let copy = File::from(self.root.open_at(path, flags, Mode::from_raw_mode(0o600))?);
        if flags_of(&file)? & NOCOW != 0 {
            // Two files share blocks only if both have this flag or neither has it.
            let _ = set_flags_of(&copy, NOCOW);
        }
        let before = stat_of(&file)?;
        if self.is_base(displaced, &before) && self.copy(&file, &copy, before.attributes.size)? {
            let after = stat_of(&file)?;
            if (after.ctime, after.attributes.size) == (before.ctime, before.attributes.size) {
                return Ok(Some(copy));
            }
        }
        self.remove_staged(path)?;
        self.say_lost(displaced, CHANGED);
        Ok(None)
    }

    /// Returns false if the file is shorter by now.
    fn copy(&self, from: &File, to: &File, size: u64) -> io::Result<bool> {
        if size > SMALL && snapsync_sys::clone_file(from, to).is_ok() {
            return Ok(true);
        }
        to.set_len(size)?;
        for range in layout(from, size, filesystem(from)?)?.ranges(SegmentKind::Data) {
            match snapsync_sys::copy_range(from, range.offset, range.length, to, range.offset) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                other => other?,
            }
        }
        Ok(true)
    }

    /// Removes links to files that have their names in the tree again. Copies stay: they hold what the
    /// snapshot had.
    pub(crate) fn take_back_objects(&self) -> Result<()> {
        self.each_displaced(|displaced| {
            let take_back = || {
                self.place(displaced, &self.copy_of(displaced)?)?;
                self.take_image_back(displaced)?;
                match self.object(&displaced.object)? {
                    Some(found) if self.is_displaced(displaced, &found)? => {
                        self.root.unlink(&displaced.object)
                    }
                    _ => Ok(()),
                }
            };
            take_back().context("put back", self.root.show(&displaced.path()))
        })
    }

    /// Whether an object is the file itself and not a copy.
    fn is_displaced(&self, displaced: &Displaced, object: &Entry) -> io::Result<bool> {
        Ok(self.is_known(&displaced.row.known, &object.stat()?))
    }

    /// Whether the file still has the bytes that the check saw. After a crash its change time may come from
    /// the commit itself or from the way back: then its size and modification time decide.
    fn is_base(&self, displaced: &Displaced, stat: &Stat) -> bool {
        let Some(old) = displaced.row.change.old else { return false };
        let is_dated = || self.journal.limits.mtime || is_cut_to(stat.attributes.time(), old.time());
        let is_unchanged = stat.ctime == displaced.row.known.ctime || !self.is_fresh && is_dated();
        stat.attributes.size == old.size && is_unchanged
    }

    fn copy_of(&self, displaced: &Displaced) -> io::Result<RelPath> {
        self.staged(&format!("{DIR}/{}", displaced.at)).map_err(io::Error::other)
    }

    fn is_written(&self, displaced: &Displaced) -> io::Error {
        io::Error::other(Error::refused(
            format!("{} is opened to be written while it goes", self.root.show(&displaced.path()).display()),
            "end what writes to it (`fuser` finds it), and run the command again",
        ))
    }

    fn say_lost(&self, displaced: &Displaced, why: &str) {
        let path = self.root.show(&displaced.path());
        self.monitor.note(format!("{} {why}: older snapshots lose what it held", path.display()));
    }
}

const CHANGED: &str = "was changed by hand while a delta was committed";

impl Displaced {
    fn path(&self) -> RelPath {
        self.row.change.old_path.clone().unwrap_or_default()
    }

    /// Whether the file can become the object itself.
    fn is_alone(&self, entry: &Entry) -> io::Result<bool> {
        if self.row.change.survives() || self.has_other_names(&entry.stat()?, false) {
            return Ok(false);
        }
        match entry.read() {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(true),
            file => Ok(!may_be_written(&file?)),
        }
    }

    /// Whether the file has names that stay.
    fn has_other_names(&self, stat: &Stat, is_linked: bool) -> bool {
        stat.nlink as usize > self.row.change.links_removed.len() + usize::from(is_linked)
    }
}
