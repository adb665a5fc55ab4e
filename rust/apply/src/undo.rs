//! The way back of a commit: from wherever it has come to, the tree becomes again what it was. Every step can be done
//! again after a crash, and until the last one the commit can go on instead.

use crate::check::is_lost_and_found;
use crate::commit::{access_to, is_gone, open_for_flags};
use crate::journal::Phase;
use crate::names::{Attach, Detach, Places, attaches, detaches};
use crate::save::{Saved, SavedData, gaps, is_saved};
use crate::stage::Incoming;
use crate::strays::unknown;
use crate::{access, attributes};
use snapsync_model::{Change, Context, Error, Kind, Link, Range, Rare, RelPath, Result, Stage};
use snapsync_sys::{fault, preallocate};
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

impl Incoming<'_> {
    /// Goes back after a failure; what is to be said then.
    pub(crate) fn go_back(&mut self, cause: &Error) -> Error {
        let show = self.root.path().display().to_string();
        let at = self.journal.base_name.as_ref().map_or_else(
            || format!("{show} is what it was before"),
            |name| format!("{show} is at snapshot {name}"),
        );
        match self.undo() {
            Ok(()) => {
                with_cause(cause, format!("{}; nothing was changed: {at}", cause.sentence()), cause.advice())
            }
            Err(error) => with_cause(
                cause,
                format!("{}; and the way back failed: {}", cause.sentence(), error.sentence()),
                format!(
                    "{show} is between two snapshots: when the cause is mended, `snapsync recover {show}` goes on \
                     to the new one, and `snapsync recover {show} --back` to the old one"
                ),
            ),
        }
    }

    /// Makes the tree what it was before the commit. The journal then says that what is staged can be thrown away.
    pub fn undo(&mut self) -> Result<()> {
        if !self.journal.can_go_back() {
            return Err(Error::refused(
                format!(
                    "the commit of snapshot {} in {} cannot be undone",
                    self.journal.snapshot.name,
                    self.root.path().display()
                ),
                "run `snapsync recover` without --back: it goes on with the commit",
            ));
        }
        self.monitor.start(Stage::Recover, 0);
        let places = Places::read(&self.manifest())?;
        let detaches = detaches(&self.manifest(), &places)?;
        // Nothing is attached before all is detached: until then another directory may have the name of a new one.
        let is_attached = match self.journal.phase {
            Phase::Committing => detaches.is_empty(),
            phase => phase != Phase::Returning,
        };
        if is_attached {
            self.expect_no_strays()?;
        }
        self.give_ballast()?;
        match self.journal.phase {
            Phase::Committing if !detaches.is_empty() => self.set_phase(Phase::Returning)?,
            Phase::Committing | Phase::Detached => self.set_phase(Phase::Undoing)?,
            _ => {}
        }
        self.step("undo.begin")?;
        self.loosen_all()?;
        self.narrow_all(&places)?;
        self.step("undo.loosened")?;
        if self.journal.phase == Phase::Undoing {
            self.take_out(&places)?;
            self.sync()?;
            self.set_phase(Phase::Returning)?;
        }
        self.step("undo.returning")?;
        self.put_back(&detaches)?;
        if self.put_back_data(&places)? {
            // Who may read it now could not read what was there before.
            self.sync()?;
        }
        self.put_back_attributes()?;
        self.sync()?;
        self.journal.manifest = None;
        self.set_phase(Phase::Staging)?;
        self.step("undo.done")
    }

    /// What somebody else has put into new directories would go with them.
    fn expect_no_strays(&self) -> Result<()> {
        let mut known: HashSet<Link> = HashSet::new();
        for change in self.manifest_reader()?.only(|row| row.added > 0) {
            known.extend(change?.links_added);
        }
        for change in self.manifest_reader()?.only(|row| row.flags.created && row.kind == Kind::Directory) {
            let change = change?;
            let Some(path) = change.path.as_ref().filter(|path| !path.is_root()) else { continue };
            if let Some(stray) = unknown(&self.root, path, change.ino, &known)?.first() {
                return Err(Error::refused(
                    format!(
                        "{} appeared in a directory that goes with the commit",
                        self.root.show(stray).display()
                    ),
                    "move it elsewhere, and run `snapsync recover` with or without --back",
                ));
            }
        }
        Ok(())
    }

    /// Takes off what keeps entries from being moved and written, wherever they are now. Those above come first.
    fn loosen_all(&self) -> Result<()> {
        let mut directories = Vec::new();
        for change in self.manifest_reader()?.only(|row| row.kind == Kind::Directory) {
            let change = change?;
            directories.extend(change.path.into_iter().chain(change.old_path));
        }
        directories.sort_by_key(RelPath::depth);
        directories.iter().try_for_each(|path| self.loosen_at(path, true))?;
        self.each_row(
            |row| row.kind == Kind::File,
            |_, change| {
                let mut paths = change.path.iter().chain(&change.old_path);
                paths.try_for_each(|path| self.loosen_at(path, change.survives()))
            },
        )
    }

    /// `is_opened`: more is done with it than to move its names.
    fn loosen_at(&self, path: &RelPath, is_opened: bool) -> Result<()> {
        let loosen = || {
            let entry = self.root.entry(path)?;
            let stat = entry.stat()?;
            if !matches!(stat.kind, Kind::File | Kind::Directory) {
                return Ok(());
            }
            if stat.attributes.flags & attributes::PROTECTIVE != 0 {
                attributes::loosen(&open_for_flags(&entry)?)?;
            }
            let wanted = if stat.kind == Kind::Directory { 0o700 } else { 0o600 };
            if is_opened && stat.attributes.mode & wanted != wanted && !entry.allows(access_to(stat.kind)) {
                entry.set_mode(stat.attributes.mode | wanted)?;
            }
            Ok(())
        };
        match loosen() {
            Err(e) if is_gone(&e) => Ok(()),
            other => other.context("unprotect", self.root.show(path)),
        }
    }

    /// Takes out what was attached, deepest first.
    fn take_out(&self, places: &Places) -> Result<()> {
        for attach in attaches(&self.manifest(), places)?.iter().rev() {
            let (to, from) = (attach.path(), self.source(attach)?);
            let is_there = self.root.entry(&from).is_ok();
            let taken = match attach {
                Attach::New { .. } | Attach::Move { .. } if is_there => Ok(()),
                Attach::New { .. } | Attach::Move { .. } => self.root.rename_to_new(to, &from),
                Attach::Link { .. } => match self.is_same(&from, to) {
                    Ok(true) => self.root.unlink(to),
                    other => other.map(drop),
                },
            };
            let taken = taken.or_else(|e| if is_gone(&e) { Ok(()) } else { Err(e) });
            taken.and_then(|()| fault::step("undo.attached")).context("take out", self.root.show(to))?;
        }
        Ok(())
    }

    /// Puts back the names that went, those above first.
    fn put_back(&self, detaches: &[Detach]) -> Result<()> {
        let back = |from: &RelPath, to: &RelPath| match self.root.rename_to_new(from, to) {
            // It never went, or is back already.
            Err(e) if is_gone(&e) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_lost_and_found(&self.root, to) => {
                self.root.exchange(from, to)
            }
            other => other,
        };
        for detach in detaches.iter().rev() {
            let (from, kept) = (detach.path(), self.kept(detach)?);
            let done = match detach {
                Detach::Hold { .. } | Detach::Trash { .. } => back(&kept, from),
                Detach::Anchor { .. } => match self.root.unlink(&kept) {
                    Err(e) if is_gone(&e) => Ok(()),
                    other => other,
                },
            };
            match done.and_then(|()| fault::step("undo.detached")) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(Error::refused(
                        format!("{} appeared while a delta was committed", self.root.show(from).display()),
                        "move it away, and run `snapsync recover` with --back",
                    ));
                }
                other => other.context("put back", self.root.show(from))?,
            }
        }
        let made_way = self.lost_and_found()?;
        let place = RelPath::new(b"lost+found")?;
        if self.root.entry(&made_way).is_ok() {
            back(&made_way, &place).context("put back", self.root.show(&place))?;
        }
        Ok(())
    }

    /// Whether others may use some of it then.
    fn put_back_data(&self, places: &Places) -> Result<bool> {
        let opens = AtomicBool::new(false);
        self.each_saved(
            |change| change.flags.data,
            |change, saved| {
                let (Some(path), Some(data)) = (&change.old_path, &saved.data) else { return Ok(()) };
                let done = self.put_back_ranges(change, path, saved.attributes.size, data);
                opens.fetch_or(places.opens() || access::is_narrowed(change, places.moves()), Relaxed);
                self.unless_gone(done.and_then(|()| fault::step("undo.data")), "write", path)
            },
        )?;
        Ok(opens.into_inner())
    }

    fn put_back_ranges(
        &self,
        change: &Change,
        path: &RelPath,
        size: u64,
        saved: &SavedData,
    ) -> io::Result<()> {
        let file = self.open_loosened(path)?;
        let reaches_end = saved.touched.last().is_some_and(|range| range.end() == u64::MAX);
        if reaches_end {
            // Also to give back what is preallocated beyond it.
            file.set_len(size)?;
        }
        let end = size.next_multiple_of(snapsync_sys::filesystem(&file)?.block_size.max(1));
        for whole in &saved.touched {
            for gap in gaps(*whole, &[&saved.data, &saved.unwritten]) {
                if gap.offset < end {
                    snapsync_sys::discard_range(&file, gap.offset, gap.end().min(end) - gap.offset)?;
                }
            }
        }
        if !saved.data.is_empty() {
            let from = self.root.read(&self.saved(change).map_err(io::Error::other)?)?;
            for range in &saved.data {
                self.share_range(&from, &file, *range, size)?;
            }
        }
        for Range { offset, length } in &saved.unwritten {
            snapsync_sys::discard_range(&file, *offset, *length)?;
            preallocate(&file, *offset, *length)?;
        }
        Ok(())
    }

    /// Those of directories last: each entry that comes back gives its directory another time.
    fn put_back_attributes(&self) -> Result<()> {
        for directories in [false, true] {
            self.each_saved(
                |change| (change.kind == Kind::Directory) == directories && is_saved(change),
                |change, saved| {
                    let Some(path) = &change.old_path else { return Ok(()) };
                    let done = self.put_back_row(change, path, saved);
                    let done = done.and_then(|()| fault::step("undo.attributes"));
                    self.unless_gone(done, "set the attributes of", path)
                },
            )?;
        }
        self.put_back_root()
    }

    /// Where it was none before.
    fn put_back_root(&self) -> Result<()> {
        let Some(saved) = self.saved_root()? else { return Ok(()) };
        let root = self.root.entry(&RelPath::root());
        let set = root.and_then(|root| {
            let xattrs = saved.xattrs.as_deref();
            attributes::set(&root, Kind::Directory, &saved.attributes, xattrs, &self.journal.limits)
        });
        set.context("set the attributes of", self.root.path())
    }

    fn put_back_row(&self, change: &Change, path: &RelPath, saved: &Saved) -> io::Result<()> {
        let entry = self.root.entry(path)?;
        let now = entry.stat()?;
        if now.kind != change.kind {
            return Err(io::ErrorKind::NotFound.into());
        }
        let was = &saved.attributes;
        let has_flags = matches!(change.kind, Kind::File | Kind::Directory);
        let told = change.new.map_or(0, |new| new.flags) | was.flags | now.attributes.flags;
        let has_rare = [change.new.unwrap_or_default().rare, was.rare] != [Rare::default(); 2];
        let file = if has_flags && (told != 0 || has_rare) { Some(open_for_flags(&entry)?) } else { None };
        let is_same = now.attributes.bare() == was.bare()
            && saved
                .xattrs
                .as_ref()
                .map_or(Ok(true), |xattrs| Ok::<_, io::Error>(*xattrs == entry.xattrs()?))?;
        if !is_same {
            attributes::set(&entry, change.kind, was, saved.xattrs.as_deref(), &self.journal.limits)?;
        }
        let Some(file) = file else { return Ok(()) };
        attributes::set_rare(&file, was.rare, &self.journal.limits)?;
        attributes::set_flags(file, was.flags, &self.journal.limits)
    }

    /// What somebody else has removed meanwhile keeps nothing from going back.
    fn unless_gone(&self, done: io::Result<()>, action: &'static str, path: &RelPath) -> Result<()> {
        match done {
            Err(e) if is_gone(&e) => {
                self.monitor.note(format!(
                    "{} was removed by somebody else while a commit was undone",
                    self.root.show(path).display()
                ));
                Ok(())
            }
            other => other.context(action, self.root.show(path)),
        }
    }
}

/// The same kind of error, with more to say.
fn with_cause(cause: &Error, what: String, advice: String) -> Error {
    match cause {
        Error::Refused { .. } => Error::refused(what, advice),
        Error::Integrity { .. } => Error::integrity(what, advice),
        _ => Error::failed(what, advice),
    }
}
