//! The way back of a commit: restores the old tree from whatever state the commit is in. Every step can be
//! repeated after a crash, and until the last one the commit can go on instead.

use crate::check::drift::is_cut_to;
use crate::commit::before::successors;
use crate::commit::forward::{access_to, is_gone, open_for_flags, open_loosened};
use crate::commit::loosen::take;
use crate::commit::moves::{TRIES, is_taken};
use crate::commit::returned::{Correct, Returned};
use crate::commit::save::{Saved, SavedData, gaps, is_saved};
use crate::journal::Phase;
use crate::known::{Known, Row, What};
use crate::names::{Attach, Comes, Detach, Goes, Places, attaches, detaches};
use crate::stage::incoming::Incoming;
use crate::{access, attributes};
use snapsync_manifest::Brief;
use snapsync_model::{
    Attributes, Change, Context, Error, Kind, Range, Rare, RelPath, Result, Stage, Successor,
};
use snapsync_sys::{Entry, Stat, fault, preallocate};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

impl Incoming<'_> {
    /// Goes back after a failure, and returns the error to report.
    pub(crate) fn go_back(&mut self, cause: &Error, correct: &mut Correct<'_>) -> Error {
        let show = self.root.path().display().to_string();
        let at = self.journal.base_name.as_ref().map_or_else(
            || format!("{show} is what it was before"),
            |name| format!("{show} is at snapshot {name}"),
        );
        match self.undo_and(correct) {
            Ok(()) => {
                with_cause(cause, format!("{}; nothing was changed: {at}", cause.sentence()), cause.advice())
            }
            Err(error) => with_cause(
                cause,
                format!("{}; and the way back failed: {}", cause.sentence(), error.sentence()),
                format!(
                    "{show} is between two snapshots: when the cause is mended, `snapsync recover {show}` \
                     goes on \
                     to the new one, and `snapsync recover {show} --back` to the old one"
                ),
            ),
        }
    }

    /// Restores the tree as it was before the commit. The journal then says that the stage can be removed.
    pub fn undo(&mut self) -> Result<()> {
        self.undo_and(&mut |_, _| Ok(()))
    }

    /// Does the same for a volume whose snapshots find bytes in the tree.
    pub fn undo_and(&mut self, correct: &mut Correct<'_>) -> Result<()> {
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
        self.learn()?;
        let places = Places::read(&self.manifest())?;
        let detaches = detaches(&self.manifest(), &places)?;
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
            // Entries that others put into new directories are kept.
            self.sweep_new(&places)?;
            self.sync()?;
            self.set_phase(Phase::Returning)?;
        }
        self.step("undo.returning")?;
        self.put_back(&detaches)?;
        self.take_back_objects()?;
        self.step("undo.displaced")?;
        if self.put_back_data(&places)? {
            // Those who may read it now could not read the new content.
            self.sync()?;
        }
        self.put_back_attributes()?;
        self.sync()?;
        if self.journal.displaces {
            correct(&self.stage(), self.returned()?)?;
        }
        (self.journal.manifest, self.journal.own) = (None, None);
        self.set_phase(Phase::Staging)?;
        self.step("undo.done")
    }

    /// Clears what keeps entries from being moved and written, wherever they are now, parents first.
    fn loosen_all(&self) -> Result<()> {
        let mut directories = Vec::new();
        for row in self.known_rows(|row| row.kind == Kind::Directory)? {
            let Row { change, known } = row?;
            directories.extend(change.path.into_iter().chain(change.old_path).map(|path| (path, known)));
        }
        directories.sort_by_key(|(path, _)| path.depth());
        directories.iter().try_for_each(|(path, known)| self.loosen_at(path, known, true))?;
        self.each_known(self.known_rows(|row| row.kind == Kind::File)?, |Row { change, known }| {
            let mut paths = change.path.iter().chain(&change.old_path);
            paths.try_for_each(|path| self.loosen_at(path, known, change.survives()))
        })
    }

    /// With `is_opened`, more is done to the entry than moving its names.
    fn loosen_at(&self, path: &RelPath, known: &Known, is_opened: bool) -> Result<()> {
        let Some(entry) = self.look_for(path, known)? else { return Ok(()) };
        let loosen = || -> io::Result<()> {
            let stat = entry.stat()?;
            if !matches!(stat.kind, Kind::File | Kind::Directory) {
                return Ok(());
            }
            if stat.attributes.flags & attributes::PROTECTIVE != 0 {
                attributes::loosen(&open_for_flags(&entry)?)?;
                // The flag may have been the only thing that kept others out.
                take(&entry, stat.kind)?;
            }
            let wanted = if stat.kind == Kind::Directory { 0o700 } else { 0o600 };
            if is_opened && stat.attributes.mode & wanted != wanted && !entry.allows(access_to(stat.kind)) {
                entry.set_mode(stat.attributes.mode | wanted)?;
            }
            Ok(())
        };
        loosen().context("unprotect", self.root.show(path))
    }

    /// Takes attached names out again, deepest first.
    fn take_out(&self, places: &Places) -> Result<()> {
        for attach in attaches(&self.manifest(), places)?.iter().rev() {
            self.take_out_one(attach)?;
            self.root.forget_ways();
            fault::step("undo.attached").context("take out", self.root.show(attach.path()))?;
        }
        Ok(())
    }

    /// An entry that is gone or was replaced stays as it is.
    fn take_out_one(&self, attach: &Attach) -> Result<()> {
        let (to, source, known) = (attach.path(), self.source(attach)?, self.known(attach.row)?);
        let is_there = self.root.entry(&source).is_ok();
        let from = match attach.from {
            Comes::Link => self.staged("trash/link")?,
            _ if is_there => return Ok(()),
            _ => source,
        };
        if self.look_for(to, &known)?.is_none() {
            return Ok(());
        }
        let staged = self.root.place(&from).context("open the stage of", self.root.show(to))?;
        let taken = self.root.place(to).and_then(|place| place.rename_to_new(&staged));
        match taken {
            Err(e) if is_gone(&e) => return Ok(()),
            other => other.context("take out", self.root.show(to))?,
        }
        if self.look_for(&from, &known)?.is_none() {
            // It was exchanged in that moment.
            return self.keep_aside(&staged, to);
        }
        let is_link = attach.from == Comes::Link;
        (if is_link { staged.unlink() } else { Ok(()) }).context("take out", self.root.show(to))
    }

    /// Puts removed names back, parents first.
    fn put_back(&self, detaches: &[Detach]) -> Result<()> {
        for detach in detaches.iter().rev() {
            self.put_back_one(detach)?;
            self.root.forget_ways();
            fault::step("undo.detached").context("put back", self.root.show(detach.path()))?;
        }
        let made_way = self.lost_and_found()?;
        if self.root.entry(&made_way).is_ok() {
            let place = RelPath::new(b"lost+found")?;
            let back = self.root.rename_to_new(&made_way, &place);
            // Somebody has made another.
            let back = back.or_else(|e| if is_taken(&e) { Ok(()) } else { Err(e) });
            back.context("put back", self.root.show(&place))?;
        }
        Ok(())
    }

    fn put_back_one(&self, detach: &Detach) -> Result<()> {
        let (to, from) = (detach.path(), self.kept(detach)?);
        let show = self.root.show(to);
        let kept = self.root.place(&from).context("open the stage of", &show)?;
        if detach.to == Goes::Anchor {
            return match kept.unlink() {
                Err(e) if is_gone(&e) => Ok(()),
                other => other.context("put back", show),
            };
        }
        if kept.entry().is_err() {
            // It was never removed, or is back already.
            return Ok(());
        }
        for _ in 0..TRIES {
            let Ok(place) = self.place_of(&detach.from) else { break };
            match kept.rename_to_new(&place) {
                Err(e) if is_taken(&e) => self.clear_place(&place, to)?,
                Err(e) if is_gone(&e) => break,
                other => return other.context("put back", show),
            }
        }
        // Its directory is gone, or its place cannot be kept free. The stage will be removed, but a snapshot
        // has the entry, so it is kept aside here.
        self.keep_aside(&kept, to)
    }

    /// Returns whether others may use some of the data afterwards.
    fn put_back_data(&self, places: &Places) -> Result<bool> {
        let opens = AtomicBool::new(false);
        self.each_saved(
            |change| change.flags.data,
            |Row { change, known }, saved| {
                let (Some(path), Some(data)) = (&change.old_path, &saved.data) else { return Ok(()) };
                let Some(entry) = self.still(path, known)? else { return Ok(()) };
                let done = self.put_back_ranges(change, &entry, saved.attributes.size, data);
                opens.fetch_or(places.opens() || access::is_narrowed(change, places.moves()), Relaxed);
                done.and_then(|()| fault::step("undo.data")).context("write", self.root.show(path))
            },
        )?;
        Ok(opens.into_inner())
    }

    /// Finds an entry; None if somebody removed or exchanged it, which must not stop the way back.
    fn still(&self, path: &RelPath, known: &Known) -> Result<Option<Entry>> {
        let found = self.look_for(path, known)?;
        if found.is_none() {
            let path = self.root.show(path);
            self.monitor.note(format!(
                "{} was removed or exchanged by somebody else while a commit was undone",
                path.display()
            ));
        }
        Ok(found)
    }

    fn put_back_ranges(
        &self,
        change: &Change,
        entry: &Entry,
        size: u64,
        saved: &SavedData,
    ) -> io::Result<()> {
        let file = open_loosened(entry)?;
        let reaches_end = saved.touched.last().is_some_and(|range| range.end() == u64::MAX);
        if reaches_end {
            // This also removes preallocation beyond the end.
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

    /// Directories come last, because each entry put back changes the time of its directory.
    fn put_back_attributes(&self) -> Result<()> {
        for directories in [false, true] {
            self.each_saved(
                |change| (change.kind == Kind::Directory) == directories && is_saved(change),
                |Row { change, known }, saved| {
                    let Some(path) = &change.old_path else { return Ok(()) };
                    let Some(entry) = self.still(path, known)? else { return Ok(()) };
                    let done = self.put_back_row(change, &entry, saved);
                    let done = done.and_then(|()| fault::step("undo.attributes"));
                    done.context("set the attributes of", self.root.show(path))
                },
            )?;
        }
        self.put_back_root()
    }

    /// Files that were there and are as they were, as far as their own times tell. By then nothing can be
    /// lost any more.
    pub(crate) fn returned(&self) -> Result<Vec<Returned>> {
        let mut returned = Vec::new();
        let successors = successors(&self.root, self.journal.snapshot.id)?;
        let successors: HashMap<u64, Successor> = successors.into_iter().map(|it| (it.row, it)).collect();
        let files = |row: &Brief<'_>| row.kind == Kind::File && !row.flags.created;
        for row in self.manifest_reader()?.only(files).numbered() {
            let (row, change) = row?;
            let known = self.known(row)?;
            let (What::Checked, Some(path)) = (known.what, &change.old_path) else { continue };
            let Some(entry) = self.look_for(path, &known)? else { continue };
            let now = entry.stat().context("read the attributes of", self.root.show(path))?;
            let is_whole = || match successors.get(&row) {
                Some(successor) => self.is_as_before(successor, &entry, &now),
                None => Ok(true),
            };
            if self.is_back(change.old.as_ref(), &now) && is_whole().context("read", self.root.show(path))? {
                returned.push(Returned { ino: known.ino, was: known.ctime, now });
            }
        }
        Ok(returned)
    }

    fn is_back(&self, was: Option<&Attributes>, now: &Stat) -> bool {
        let is_time = |was: &Attributes| is_cut_to(now.attributes.time(), was.time());
        was.is_some_and(|was| was.size == now.attributes.size && (self.journal.limits.mtime || is_time(was)))
    }

    /// Restores a directory that was no root of a tree before.
    fn put_back_root(&self) -> Result<()> {
        let Some(saved) = self.saved_root()? else { return Ok(()) };
        let root = self.root.entry(&RelPath::root());
        let set = root.and_then(|root| {
            let xattrs = saved.xattrs.as_deref();
            attributes::set(&root, Kind::Directory, &saved.attributes, xattrs, &self.journal.limits)
        });
        set.context("set the attributes of", self.root.path())
    }

    fn put_back_row(&self, change: &Change, entry: &Entry, saved: &Saved) -> io::Result<()> {
        let now = entry.stat()?;
        let was = &saved.attributes;
        let has_flags = matches!(change.kind, Kind::File | Kind::Directory);
        let told = change.new.map_or(0, |new| new.flags) | was.flags | now.attributes.flags;
        let has_rare = [change.new.unwrap_or_default().rare, was.rare] != [Rare::default(); 2];
        let file = if has_flags && (told != 0 || has_rare) { Some(open_for_flags(entry)?) } else { None };
        let is_same = now.attributes.bare() == was.bare()
            && saved
                .xattrs
                .as_ref()
                .map_or(Ok(true), |xattrs| Ok::<_, io::Error>(*xattrs == entry.xattrs()?))?;
        if !is_same {
            attributes::set(entry, change.kind, was, saved.xattrs.as_deref(), &self.journal.limits)?;
        }
        let Some(file) = file else { return Ok(()) };
        attributes::set_rare(&file, was.rare, &self.journal.limits)?;
        attributes::set_flags(file, was.flags, &self.journal.limits)
    }
}

/// The same kind of error with a longer message.
fn with_cause(cause: &Error, what: String, advice: String) -> Error {
    match cause {
        Error::Refused { .. } => Error::refused(what, advice),
        Error::Integrity { .. } => Error::integrity(what, advice),
        _ => Error::failed(what, advice),
    }
}
