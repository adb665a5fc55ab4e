//! The first half of an apply: everything is written beside the tree, nothing in it.

use crate::check::Check;
use crate::journal::{Journal, Phase};
use crate::limits::{Limits, Loss, Rehearsal};
use crate::names::Places;
use crate::need::Need;
use crate::received::{self, Notes, Received};
use crate::sources::Sources;
use crate::touched::{self, Knowledge, Recorder};
use crate::vet::vet;
use crate::{access, attributes};
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, openat};
use snapsync_manifest::{Brief, ManifestReader, Rows};
use snapsync_model::{
    Attributes, Change, Context, End, Error, Extent, Kind, Monitor, Op, Range, RelPath, Result, SnapshotInfo,
};
use snapsync_stream::{Held, Sink, Taker};
use snapsync_sys::{
    Entry, Parents, Root, Spot, clear_flags_of, fault, make_node, preallocate, supports_reflinks,
    sync_filesystem,
};
use std::borrow::Borrow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use uuid::Uuid;

pub(crate) const INCOMING: &str = ".snapsync/incoming";
pub(crate) const MANIFEST: &str = "manifest.arrow";
pub(crate) const CHUNK: usize = 4096;
/// Extents and names of these rows, after which there are enough of them; an extended attribute counts for many.
const PARTS: usize = 65_536;
/// Rows that one thread stages with one memory of the last directory.
pub(crate) const SIDE_BY_SIDE: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the target cannot hold.
    pub losses: Vec<Loss>,
    /// Data that a cut run has left in the stage, and how many bytes.
    pub held: Held,
    pub kept: u64,
}

/// A delta on its way into a volume.
pub struct Incoming<'a> {
    pub(crate) root: Arc<Root>,
    pub(crate) store: Spot,
    pub(crate) journal: Journal,
    pub(crate) monitor: &'a Monitor,
    /// Bytes of a block of the target.
    pub(crate) block: u64,
    /// Below the root.
    dir: String,
    /// Known once the manifest is there.
    places: Places,
    pub(crate) received: Received,
    need: Need,
    /// What the check saw, once it is whole.
    pub(crate) knowledge: Option<Knowledge>,
    /// A cut run of the same delta has left some of it.
    goes_on: bool,
}

impl<'a> Incoming<'a> {
    /// Makes the stage for the delta from `base` to `snapshot`, and a journal that says so.
    pub fn begin(
        root: &Arc<Root>,
        store: &Spot,
        snapshot: SnapshotInfo,
        base: Option<(Uuid, Option<String>)>,
        monitor: &'a Monitor,
    ) -> Result<Incoming<'a>> {
        let (base, base_name) = base.map_or((None, None), |(id, name)| (Some(id), name));
        let limits = Limits::default();
        let phase = Phase::Staging;
        let journal =
            Journal { phase, snapshot, base, base_name, limits, manifest: None, saved: false, known: false };
        journal.save(store)?;
        let incoming = Incoming::open(root, store, journal, monitor)?;
        incoming.make_stage().context("make the stage in", root.path())?;
        fault::point("stage.begin");
        Ok(incoming)
    }

    /// An apply that was interrupted, as its journal tells.
    pub fn open(
        root: &Arc<Root>,
        store: &Spot,
        journal: Journal,
        monitor: &'a Monitor,
    ) -> Result<Incoming<'a>> {
        let filesystem =
            snapsync_sys::filesystem(root.fd()).context("read the file system of", root.path())?;
        Ok(Incoming {
            root: root.clone(),
            block: filesystem.block_size,
            store: store.clone(),
            dir: format!("{INCOMING}/{}", journal.snapshot.id),
            places: Places::default(),
            journal,
            monitor,
            received: Received::default(),
            need: Need::default(),
            knowledge: None,
            goes_on: false,
        })
    }

    /// The same where only staging has begun: what is there, and is what it should be, is kept.
    pub fn go_on(
        root: &Arc<Root>,
        store: &Spot,
        journal: Journal,
        monitor: &'a Monitor,
    ) -> Result<Incoming<'a>> {
        Ok(Incoming { goes_on: true, ..Incoming::open(root, store, journal, monitor)? })
    }

    fn make_stage(&self) -> io::Result<()> {
        let incoming = incoming().map_err(io::Error::other)?;
        for dir in incoming.split().map(|(above, _)| above).iter().chain([&incoming]) {
            match self.root.create_dir(dir, 0o700) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        // What is staged must not inherit from the tree's root: default ACLs, set-group-id, flags.
        let dir = Entry::from_open(self.root.open_at(&incoming, flags, Mode::empty())?);
        snapsync_sys::tell_names_apart_in(dir.fd());
        for xattr in dir.xattrs()?.iter().filter(|x| x.name.starts_with(b"system.posix_acl")) {
            dir.remove_xattr(&xattr.name)?;
        }
        clear_flags_of(dir.fd())?;
        dir.set_mode(0o700)?;
        for part in ["", "/new", "/data", "/held", "/trash"] {
            let part = RelPath::new(format!("{}{part}", self.dir).as_bytes()).map_err(io::Error::other)?;
            self.root.create_dir(&part, 0o700)?;
        }
        Ok(())
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn base(&self) -> Option<Uuid> {
        self.journal.base
    }

    /// Whether all of a range of an inode's data was there when this run began.
    pub fn holds(&self, ino: u64, range: Range) -> bool {
        self.received.holds(ino, range)
    }

    /// Where the manifest is to be written before anything else.
    pub fn manifest(&self) -> Spot {
        self.stage().join(MANIFEST)
    }

    /// The manifest is whole: from now on the same delta can go on where this one is cut.
    pub fn keep(&mut self, manifest_digest: &str) -> Result<()> {
        self.journal.manifest = Some(manifest_digest.to_owned());
        self.journal.save(&self.store)
    }

    pub(crate) fn stage(&self) -> Spot {
        Spot::top(self.root.clone()).join(&self.dir)
    }

    pub(crate) fn manifest_reader(&self) -> Result<ManifestReader> {
        ManifestReader::open(&self.manifest())
    }

    /// A path in the stage.
    pub(crate) fn staged(&self, part: &str) -> Result<RelPath> {
        RelPath::new(format!("{}/{part}", self.dir).as_bytes())
    }

    /// Where the name number `at` of a new entry is staged.
    pub(crate) fn staged_new(&self, change: &Change, at: usize) -> Result<RelPath> {
        let below = self.places.staged(change, at)?;
        RelPath::new(&[self.dir.as_bytes(), b"/new/", below.as_bytes()].concat())
    }

    /// Looks before anything is staged: what the target cannot hold, whether it is still the base, and what room it
    /// takes. `copies` says that the standby's snapshot will copy data, `strays` that entries outside the base may
    /// come and go on the standby, and give their directories other times, `shares` that data takes no space.
    pub fn prepare(&mut self, copies: bool, strays: bool, shares: bool) -> Result<Report> {
        fault::point("stage.manifest");
        vet(&self.manifest(), self.monitor)?;
        let mut rehearsal = Rehearsal::new(&self.root, &self.staged("probe")?)?;
        for change in self.manifest_reader()? {
            self.monitor.check()?;
            let change = change?;
            rehearsal.row(&change)?;
        }
        self.places = Places::read(&self.manifest())?;
        self.clear_the_way()?;
        let mut touched = Recorder::create(&self.root, &self.staged(touched::FILE)?)?;
        let lost = rehearsal.limits().clone().and(Limits::remembered(&self.store)?);
        let saves = !supports_reflinks(self.root.fd());
        let need = Need { copies, shares, saves, block: self.block, ..Need::default() };
        let mut check = Check::new(&self.root, &self.places, lost, !strays, (&mut rehearsal, need))?;
        check.tree(&self.manifest(), &mut touched)?;
        self.need = check.need;
        let (limits, losses) = rehearsal.finish();
        touched.finish()?;
        self.journal.limits = limits;
        if self.goes_on {
            self.take_up()?;
        }
        let kept = self.received.bytes();
        self.received.open(&self.stage())?;
        Ok(Report { losses, held: self.received.held().clone(), kept })
    }

    /// Refuses where there is no room for what was prepared. What a cut run has left has its space; with `packed` it
    /// may take less, where data is compressed.
    pub fn has_room(&self, packed: bool) -> Result<()> {
        self.need.check(&self.root, self.received.bytes(), packed, self.monitor)
    }

    /// What was put in the place of the stage's own files is no hindrance.
    fn clear_the_way(&self) -> Result<()> {
        for file in [touched::FILE, received::FILE] {
            let path = self.staged(file)?;
            let is_file = |entry: Entry| entry.stat().is_ok_and(|stat| stat.kind == Kind::File);
            if !self.root.entry(&path).is_ok_and(is_file) {
                self.remove_staged(&path).context("remove", self.root.show(&path))?;
            }
        }
        Ok(())
    }

    /// Stages all new entries that no frame brings: directories, links, devices, files that are all holes.
    pub fn entries(&self) -> Result<()> {
        let is_directory = |row: &Brief| row.flags.created && row.kind == Kind::Directory;
        self.each_row(is_directory, |_, change| {
            let is_root = change.path.as_ref().is_none_or(RelPath::is_root);
            if is_root { Ok(()) } else { self.directory(change) }
        })?;
        let is_bare = |row: &Brief| {
            let by_others = row.kind == Kind::File && (row.data_bytes > 0 || row.has_clones);
            row.flags.created && row.kind != Kind::Directory && !by_others
        };
        self.each_row(is_bare, |parents, change| self.entry(parents, change))
    }

    /// Calls `act` for every row that is wanted, in parallel.
    pub(crate) fn each_row(
        &self,
        wanted: impl Fn(&Brief) -> bool + Sync,
        act: impl Fn(&mut Parents<'_>, &Change) -> Result<()> + Sync,
    ) -> Result<()> {
        let mut rows = self.manifest_reader()?.only(wanted);
        loop {
            let chunk = next_chunk(&mut rows)?;
            if chunk.is_empty() {
                return Ok(());
            }
            chunk.par_chunks(SIDE_BY_SIDE).try_for_each(|changes| {
                let mut parents = Parents::new(&self.root);
                changes.iter().try_for_each(|change| act(&mut parents, change))
            })?;
        }
    }

    fn directory(&self, change: &Change) -> Result<()> {
        let path = self.staged_new(change, 0)?;
        self.make_directory(&path).context("stage the directory", change.display_path())?;
        fault::point("stage.directory");
        Ok(())
    }

    /// Makes a directory and those above it, one after the other: a manifest may go deeper than a stack. Owner and mode
    /// come with the commit, when everything is in it.
    fn make_directory(&self, path: &RelPath) -> io::Result<()> {
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

    fn entry(&self, parents: &mut Parents<'_>, change: &Change) -> Result<()> {
        self.monitor.check()?;
        self.make_entry(parents, change).context("stage", change.display_path())?;
        fault::point("stage.entry");
        Ok(())
    }

    fn make_entry(&self, parents: &mut Parents<'_>, change: &Change) -> io::Result<()> {
        if change.kind == Kind::File {
            let file = self.create(parents, change)?;
            return self.complete(file, change);
        }
        let path = self.staged_new(change, 0).map_err(io::Error::other)?;
        let (dir, name) = parents.of(&path)?;
        match &change.symlink_target {
            Some(target) => rustix::fs::symlinkat(&**target, dir, name)?,
            None => make_node(dir, name, change.kind, change.new.map_or(0, |a| a.rdev))?,
        }
        self.set_attributes(&Entry::at(dir, name)?, change)
    }

    /// An empty file with its flags, some of which can only be set while it is empty.
    pub(crate) fn create(&self, parents: &mut Parents<'_>, change: &Change) -> io::Result<File> {
        let path = self.staged_new(change, 0).map_err(io::Error::other)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (dir, name) = parents.of(&path)?;
        // Nobody else gets into the stage: most files can have their mode from the start.
        let mode = change.new.map_or(0o600, |a| a.mode & 0o777 | 0o600);
        let file = File::from(openat(dir, name, flags, Mode::from_raw_mode(mode))?);
        let Attributes { flags, rare, size, .. } = change.new.unwrap_or_default();
        attributes::set_rare(&file, rare, &self.journal.limits)?;
        attributes::set_flags(&file, flags & !attributes::PROTECTIVE, &self.journal.limits)?;
        if !is_written_at_once(change, size) {
            // With its size first: a write beyond the end makes some file systems reserve more than is asked for,
            // and what is reserved before a hole stays.
            file.set_len(size)?;
        }
        Ok(file)
    }

    /// Preallocation and attributes of a new file that has its data.
    pub(crate) fn complete(&self, file: File, change: &Change) -> io::Result<()> {
        for extent in change.extents.iter().filter(|e| e.op == Op::Unwritten) {
            preallocate(&file, extent.offset, extent.length)?;
        }
        if let Some(hole) = change.cut_hole(self.block) {
            snapsync_sys::discard_range(&file, hole.offset, hole.length)?;
        }
        self.set_attributes(&Entry::from_open(file), change)
    }

    fn set_attributes(&self, entry: &Entry, change: &Change) -> io::Result<()> {
        let new = change.new.unwrap_or_default();
        let is_protected = new.flags & attributes::PROTECTIVE != 0;
        // Where its flags will keep others from it, they are kept from it until then.
        let new = if is_protected { access::taken(change.kind, &new) } else { new };
        attributes::set(entry, change.kind, &new, change.xattrs.as_deref(), &self.journal.limits)
    }

    /// What takes the frames of one worker.
    pub fn sink(&self) -> Sink<'_> {
        let mut worker = Worker::of(self);
        Box::new(move |frame| {
            worker.put(&frame.change, frame.range(), &frame.bytes, &frame.hash)?;
            Ok(frame.bytes)
        })
    }

    /// The same for frames that name their file by its inode alone, and may lie; they are verified.
    pub fn taker<'t>(&'t self, rows: &'t Rows) -> Taker<'t> {
        let mut worker = Worker::of(self);
        Box::new(move |arrived| {
            let change = rows.find(arrived.ino)?.ok_or_else(|| {
                let what = format!("data came for inode {}, which the manifest does not name", arrived.ino);
                Error::integrity(what, "send it again; nothing of it was applied")
            })?;
            worker.put(&change, arrived.range(), &arrived.bytes, &arrived.hash)
        })
    }

    pub(crate) fn data_path(&self, change: &Change) -> Result<RelPath> {
        if change.flags.created {
            self.staged_new(change, 0)
        } else {
            self.staged(&format!("data/{}", change.ino))
        }
    }

    fn create_partial(&self, parents: &mut Parents<'_>, change: &Change, path: &RelPath) -> io::Result<File> {
        if change.flags.created {
            return self.create(parents, change);
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let file = File::from(self.root.open_at(path, flags, Mode::from_raw_mode(0o600))?);
        // A range can be shared up to the end of its file only where both end at the same byte.
        file.set_len(change.new.map_or(0, |a| a.size))?;
        Ok(file)
    }

    /// Stages what is a clone of other data, which is in the tree, as the base left it, or in the stage.
    fn clones(&self) -> Result<()> {
        let sources = Sources::read(&self.manifest())?;
        if sources.is_empty() {
            return Ok(());
        }
        self.each_row(
            |row| row.has_clones,
            |parents, change| {
                self.clone_into(parents, change, &sources)?;
                fault::point("stage.clone");
                Ok(())
            },
        )
    }

    fn clone_into(&self, parents: &mut Parents<'_>, change: &Change, sources: &Sources) -> Result<()> {
        let show = || change.display_path();
        let path = self.data_path(change)?;
        let file = if change.data_bytes() > 0 {
            self.root.write(&path)
        } else {
            self.create_partial(parents, change, &path)
        };
        let file = file.context("stage the data of", show())?;
        for extent in change.extents.iter().filter(|e| e.op == Op::Clone) {
            self.monitor.check()?;
            let from = self.source_of(extent, sources)?;
            let offset = extent.source.map_or(0, |source| source.offset);
            share(&from, offset, extent.length, &file, extent.offset).context("stage the data of", show())?;
        }
        let done = if change.flags.created { self.complete(file, change) } else { Ok(()) };
        done.context("stage the data of", show())
    }

    /// What a clone takes its data from: what the check saw, or what is staged.
    fn source_of(&self, extent: &Extent, sources: &Sources) -> Result<File> {
        let source = extent.source.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
        let source = source.context("find the data for", self.stage().show())?;
        if source.end == End::Target {
            let path = self.data_path(sources.in_delta(source.ino)?)?;
            return self.root.read(&path).context("open", self.root.show(&path));
        }
        let (path, row) = sources.in_base(source.ino)?;
        let entry = self.entry_of(path, &self.known(*row)?)?;
        entry.read().context("open", self.root.show(path))
    }

    /// Ends staging: everything the manifest names is there and on the disk, and so is what the commit will overwrite.
    /// From here on it goes through, or back.
    pub fn seal(&mut self) -> Result<()> {
        self.monitor.check()?;
        let expected = self.manifest_reader()?.counts()?.data_bytes;
        let received = self.received.bytes();
        if received != expected || self.received.is_waiting() {
            return Err(Error::integrity(
                format!("{received} bytes of data arrived, and the manifest names {expected}"),
                "run the command again",
            ));
        }
        self.journal.known = true;
        self.learn()?;
        self.clones()?;
        self.further_names()?;
        self.note_staged()?;
        self.journal.saved = self.save()?;
        fault::point("save.done");
        sync_filesystem(self.root.fd()).context("sync the file system of", self.root.path())?;
        self.journal.limits.remember(&self.store)?;
        fault::point("stage.done");
        self.set_phase(Phase::Committing)?;
        fault::point("commit.marked");
        Ok(())
    }

    /// The second and later names of new files.
    fn further_names(&self) -> Result<()> {
        for change in self.manifest_reader()?.only(|row| row.flags.created && row.added > 1) {
            let change = change?;
            for at in 1..change.links_added.len() {
                let (first, to) = (self.staged_new(&change, 0)?, self.staged_new(&change, at)?);
                self.root.link(&first, &to).context("stage a further name of", change.display_path())?;
            }
        }
        Ok(())
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) -> Result<()> {
        self.journal.phase = phase;
        self.journal.save(&self.store)
    }
}

/// One of those that stage data side by side.
struct Worker<'a> {
    incoming: &'a Incoming<'a>,
    parents: Parents<'a>,
    notes: Notes<'a>,
    /// What takes parts of the file of this number.
    open: Option<(u64, File)>,
}

impl<'a> Worker<'a> {
    fn of(incoming: &'a Incoming<'_>) -> Worker<'a> {
        let (parents, notes) = (Parents::new(&incoming.root), incoming.received.notes());
        Worker { incoming, parents, notes, open: None }
    }

    /// Stages a run of bytes, and notes that it is there.
    fn put(&mut self, change: &Change, range: Range, bytes: &[u8], hash: &[u8; 32]) -> Result<()> {
        if !change.names_data(range) {
            return Err(unasked(change, range));
        }
        let new = match self.write(change, range, bytes) {
            // What is whole already is not made again.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(unasked(change, range)),
            other => other.context("stage the data of", change.display_path())?,
        };
        let new = new.ok_or_else(|| unasked(change, range))?;
        self.notes.add(change.ino, range, new, hash)?;
        fault::point("stage.frame");
        Ok(())
    }

    /// How many of the bytes are new; None where some came before.
    fn write(&mut self, change: &Change, range: Range, bytes: &[u8]) -> io::Result<Option<u64>> {
        let (incoming, received) = (self.incoming, &self.incoming.received);
        let is_whole = range.length == change.data_bytes();
        if change.flags.created && is_whole && !change.has_clones() && !received.has_begun(change.ino) {
            let file = incoming.create(&mut self.parents, change)?;
            file.write_all_at(bytes, range.offset)?;
            incoming.complete(file, change)?;
            return Ok(Some(range.length));
        }
        let file = self.partial(change)?;
        file.write_all_at(bytes, range.offset)?;
        let Some((new, is_last)) = received.arrived(change.ino, range) else { return Ok(None) };
        if is_last && change.flags.created && !change.has_clones() {
            incoming.complete(file, change)?;
        } else {
            self.open = Some((change.ino, file));
        }
        Ok(Some(new))
    }

    /// The file that takes the parts of another.
    fn partial(&mut self, change: &Change) -> io::Result<File> {
        if let Some((_, file)) = self.open.take().filter(|(ino, _)| *ino == change.ino) {
            return Ok(file);
        }
        let path = self.incoming.data_path(change).map_err(io::Error::other)?;
        let create = || self.incoming.create_partial(&mut self.parents, change, &path);
        let begun = self.incoming.received.begin(change, create);
        begun.unwrap_or_else(|| self.incoming.root.write(&path))
    }
}

fn unasked(change: &Change, range: Range) -> Error {
    let Range { offset, length } = range;
    Error::integrity(
        format!("{length} bytes at {offset} of {} came twice, or were not asked for", change.display_path()),
        "send it again; nothing of it was applied",
    )
}

/// Some rows to be looked at side by side: fewer where they are large.
pub(crate) fn next_chunk<R: Borrow<Change>>(rows: &mut impl Iterator<Item = Result<R>>) -> Result<Vec<R>> {
    let (mut chunk, mut parts) = (Vec::new(), 0);
    while chunk.len() < CHUNK && parts < PARTS {
        let Some(row) = rows.next().transpose()? else { break };
        let change = row.borrow();
        parts += change.extents.len() + change.links_added.len() + change.links_removed.len();
        parts += change.xattrs.as_ref().map_or(0, |xattrs| 64 * xattrs.len());
        chunk.push(row);
    }
    Ok(chunk)
}

/// Makes a range share the blocks of another, or copies it where that cannot be.
fn share(from: &File, from_offset: u64, length: u64, to: &File, to_offset: u64) -> io::Result<()> {
    if from.metadata()?.len() < from_offset.saturating_add(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match snapsync_sys::clone_range(from, from_offset, length, to, to_offset) {
        Ok(()) => Ok(()),
        Err(_) => snapsync_sys::copy_range(from, from_offset, length, to, to_offset),
    }
}

/// One frame brings the whole file from its first byte to its last.
fn is_written_at_once(change: &Change, size: u64) -> bool {
    match &change.extents[..] {
        [only] => {
            only.op == Op::Data && only.offset == 0 && only.length == size && size <= snapsync_stream::FRAME
        }
        all => all.is_empty() && size == 0,
    }
}

/// Where stages are, below a volume.
pub(crate) fn incoming() -> Result<RelPath> {
    RelPath::new(INCOMING.as_bytes())
}
