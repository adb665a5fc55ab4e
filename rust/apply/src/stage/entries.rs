//! Stages new entries in final form under `new/`.

use crate::stage::fresh::{Fresh, StageDirs};
use crate::stage::incoming::Incoming;
use crate::{access, attributes};
use rustix::fs::{Mode, OFlags, openat};
use snapsync_manifest::Brief;
use snapsync_model::{Change, Context, Kind, Op, RelPath, Result};
use snapsync_sys::{Entry, fault, make_node, preallocate};
use std::fs::File;
use std::io;

impl<'a> Incoming<'a> {
    /// Stages all new entries that no frame brings: directories, links, devices, and files without data.
    pub fn entries(&self) -> Result<()> {
        let is_directory = |row: &Brief<'_>| row.flags.created && row.kind == Kind::Directory;
        self.each_row(is_directory, |_, change| {
            let is_root = change.path.as_ref().is_none_or(RelPath::is_root);
            if is_root { Ok(()) } else { self.directory(change) }
        })?;
        let is_bare = |row: &Brief<'_>| {
            let by_others = row.kind == Kind::File && (row.data_bytes > 0 || row.has_clones);
            row.flags.created && row.kind != Kind::Directory && !by_others
        };
        self.each_row(is_bare, |parents, change| self.entry(parents, change))
    }

    fn directory(&self, change: &Change) -> Result<()> {
        let path = self.staged_new(change, 0)?;
        self.make_directory(&path).context("stage the directory", change.display_path())?;
        fault::point("stage.directory");
        Ok(())
    }

    /// Makes a directory and its parents in a loop: a manifest may be deeper than the stack allows. The
    /// commit sets owner and mode when everything is in it.
    pub(super) fn make_directory(&self, path: &RelPath) -> io::Result<()> {
        let mut missing = vec![path.clone()];
        while let Some(path) = missing.last() {
            match (self.root.create_dir(path, 0o700), path.split()) {
                (Err(e), Some((above, _))) if e.kind() == io::ErrorKind::NotFound => missing.push(above),
                (Err(e), _) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {
                    missing.pop();
                }
            }
        }
        Ok(())
    }

    fn entry(&self, parents: &mut StageDirs<'_>, change: &Change) -> Result<()> {
        self.monitor.check()?;
        self.make_entry(parents, change).context("stage", change.display_path())?;
        fault::point("stage.entry");
        Ok(())
    }

    fn make_entry(&self, parents: &mut StageDirs<'_>, change: &Change) -> io::Result<()> {
        if change.kind == Kind::File {
            let file = self.create(parents, change)?;
            return self.complete_new(parents, file, change);
        }
        let path = self.staged_new(change, 0).map_err(io::Error::other)?;
        let (dir, name) = parents.of(&path)?;
        match &change.symlink_target {
            Some(target) => rustix::fs::symlinkat(&**target, dir, name)?,
            None => make_node(dir, name, change.kind, change.new.map_or(0, |a| a.rdev))?,
        }
        self.set_attributes(&Entry::at(dir, name)?, change, None)
    }

    /// Creates an empty file with its flags, some of which can be set only while it is empty.
    pub(crate) fn create(&self, parents: &mut StageDirs<'_>, change: &Change) -> io::Result<File> {
        let path = self.staged_new(change, 0).map_err(io::Error::other)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (dir, name) = parents.of(&path)?;
        // Nobody else can enter the stage, so most files can have their mode from the start.
        let mode = change.new.map_or(0o600, |a| a.mode & 0o777 | 0o600);
        let file = File::from(openat(dir, name, flags, Mode::from_raw_mode(mode))?);
        let new = change.new.unwrap_or_default();
        let fresh = match parents.kept() {
            Some(fresh) if fresh.mode == mode => fresh,
            kept => kept.insert(Fresh::of(&file, mode)?),
        };
        fresh.set_flags(&file, &new, &self.journal.limits)?;
        if !is_written_at_once(change, new.size) {
            // The size comes first: a write beyond the end makes some file systems reserve extra space, and
            // what is reserved before a hole stays.
            file.set_len(new.size)?;
        }
        Ok(file)
    }

    /// The same as `complete` for the file that `parents` made last.
    pub(super) fn complete_new(
        &self,
        parents: &mut StageDirs<'_>,
        file: File,
        change: &Change,
    ) -> io::Result<()> {
        self.finish(file, change, parents.kept().as_mut())
    }

    /// Sets preallocation and attributes of a new file that has its data.
    pub(crate) fn complete(&self, file: File, change: &Change) -> io::Result<()> {
        self.finish(file, change, None)
    }

    fn finish(&self, file: File, change: &Change, fresh: Option<&mut Fresh>) -> io::Result<()> {
        for extent in change.extents.iter().filter(|e| e.op == Op::Unwritten) {
            preallocate(&file, extent.offset, extent.length)?;
        }
        if let Some(hole) = change.cut_hole(self.block) {
            snapsync_sys::discard_range(&file, hole.offset, hole.length)?;
        }
        self.set_attributes(&Entry::from_open(file), change, fresh)
    }

    /// `fresh` is what the entry has, if nothing was set.
    fn set_attributes(&self, entry: &Entry, change: &Change, fresh: Option<&mut Fresh>) -> io::Result<()> {
        let new = change.new.unwrap_or_default();
        let is_protected = new.flags & attributes::PROTECTIVE != 0;
        // If its flags will protect it from others, so must its mode until then.
        let new = if is_protected { access::taken(change.kind, &new) } else { new };
        let (xattrs, limits) = (change.xattrs.as_deref(), &self.journal.limits);
        if let Some(fresh) = fresh
            && fresh.set_time_alone(entry, &new, xattrs, limits)?
        {
            return Ok(());
        }
        attributes::set(entry, change.kind, &new, xattrs, limits)
    }

    /// Links the second and later names of new files.
    pub(super) fn further_names(&self) -> Result<()> {
        if !self.places.has_further_names() {
            return Ok(());
        }
        for change in self.manifest_reader()?.only(|row| row.flags.created && row.added > 1) {
            let change = change?;
            for at in 1..change.links_added.len() {
                let (first, to) = (self.staged_new(&change, 0)?, self.staged_new(&change, at)?);
                self.root.link(&first, &to).context("stage a further name of", change.display_path())?;
            }
        }
        Ok(())
    }
}

/// Whether one frame brings the whole file.
fn is_written_at_once(change: &Change, size: u64) -> bool {
    match &change.extents[..] {
        [only] => {
            only.op == Op::Data && only.offset == 0 && only.length == size && size <= snapsync_stream::FRAME
        }
        all => all.is_empty() && size == 0,
    }
}
