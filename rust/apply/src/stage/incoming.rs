//! The first half of an apply: everything is written beside the tree, nothing in it.

use crate::check::space::Need;
use crate::journal::{Journal, OwnManifest, Phase};
use crate::known::Knowledge;
use crate::layout::{INCOMING, MANIFEST, incoming, old_stage};
use crate::names::Places;
use crate::stage::received::Received;
use rustix::fs::{Mode, OFlags};
use snapsync_manifest::ManifestReader;
use snapsync_model::{Change, Context, Monitor, PlainFiles, Range, RelPath, Result, SnapshotInfo};
use snapsync_sys::{Entry, Root, Spot, clear_flags_of, fault};
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// A delta that is being written to a volume.
pub struct Incoming<'a> {
    pub(crate) root: Arc<Root>,
    pub(crate) store: Spot,
    pub(crate) journal: Journal,
    pub(crate) monitor: &'a Monitor,
    /// The block size of the target.
    pub(crate) block: u64,
    /// The path of the stage below the root.
    dir: String,
    /// Known once the manifest is there.
    pub(crate) places: Arc<Places>,
    pub(crate) received: Received,
    pub(super) need: Need,
    /// What the check saw, once the file is complete.
    pub(crate) knowledge: Option<Knowledge>,
    /// Whether an interrupted run of the same delta left some of it.
    pub(super) goes_on: bool,
    /// Whether this process has written everything that is recorded: no crash can have lost any of it.
    pub(super) is_own: bool,
    /// The files with nothing but data that were staged.
    pub(super) plain: Arc<PlainFiles>,
    /// Whether this run has staged it: nothing can have happened between the seal and the commit.
    pub(crate) is_fresh: bool,
}

impl<'a> Incoming<'a> {
    /// Makes the stage for the delta from `base` to `snapshot`, and a journal that records it.
    pub fn begin(
        root: &Arc<Root>,
        store: &Spot,
        snapshot: SnapshotInfo,
        base: Option<(Uuid, Option<String>)>,
        monitor: &'a Monitor,
    ) -> Result<Incoming<'a>> {
        let (base, base_name) = base.map_or((None, None), |(id, name)| (Some(id), name));
        let journal = Journal::staging(snapshot, base, base_name);
        journal.save(store)?;
        let incoming = Incoming { is_own: true, ..Incoming::open(root, store, journal, monitor)? };
        incoming.make_stage().context("make the stage in", root.path())?;
        fault::point("stage.begin");
        Ok(incoming)
    }

    /// Opens an interrupted apply, as its journal describes it.
    pub fn open(
        root: &Arc<Root>,
        store: &Spot,
        journal: Journal,
        monitor: &'a Monitor,
    ) -> Result<Incoming<'a>> {
        let filesystem =
            snapsync_sys::filesystem(root.fd()).context("read the file system of", root.path())?;
        Ok(Incoming {
            root: Arc::new(root.again()?.knowing_ways()),
            block: filesystem.block_size,
            store: store.clone(),
            dir: format!("{INCOMING}/{}", journal.snapshot.id),
            places: Arc::default(),
            journal,
            monitor,
            received: Received::default(),
            need: Need::default(),
            knowledge: None,
            goes_on: false,
            is_own: false,
            plain: Arc::default(),
            is_fresh: false,
        })
    }

    /// Resumes an apply that was still staging: everything that is there and still verifies is kept.
    pub fn go_on(
        root: &Arc<Root>,
        store: &Spot,
        journal: Journal,
        monitor: &'a Monitor,
    ) -> Result<Incoming<'a>> {
        let incoming = Incoming { goes_on: true, ..Incoming::open(root, store, journal, monitor)? };
        let old = incoming.old_stage();
        old.remove_tree().context("remove", old.show())?;
        Ok(incoming)
    }

    pub(super) fn make_stage(&self) -> io::Result<()> {
        let incoming = incoming().map_err(io::Error::other)?;
        for dir in incoming.split().map(|(above, _)| above).iter().chain([&incoming]) {
            match self.root.create_dir(dir, 0o700) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        // Staged entries must not inherit anything from the tree's root: default ACLs, set-group-id, flags.
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

    /// Whether all that it has on record was written by this process.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Tells of the files that it stages with nothing but data.
    pub fn telling(self, plain: &Arc<PlainFiles>) -> Self {
        Incoming { plain: plain.clone(), ..self }
    }

    pub fn base(&self) -> Option<Uuid> {
        self.journal.base
    }

    /// Whether all of a range of an inode's data was there when this run began.
    pub fn holds(&self, ino: u64, range: Range) -> bool {
        self.received.holds(ino, range)
    }

    /// The path to which the manifest is written before anything else.
    pub fn manifest(&self) -> Spot {
        self.stage().join(MANIFEST)
    }

    /// Records that the manifest is complete: from now on the same delta can resume.
    pub fn keep(&mut self, digest: &str, own: Option<OwnManifest>) -> Result<()> {
        (self.journal.manifest, self.journal.own) = (Some(digest.to_owned()), own);
        self.journal.save(&self.store)
    }

    pub(crate) fn stage(&self) -> Spot {
        Spot::top(self.root.clone()).join(&self.dir)
    }

    /// Where the stage of an earlier manifest is, for as long as it is needed.
    pub(super) fn old_stage(&self) -> Spot {
        Spot::top(self.root.clone()).join(INCOMING).join(old_stage(self.journal.snapshot.id))
    }

    pub(crate) fn manifest_reader(&self) -> Result<ManifestReader> {
        ManifestReader::open(&self.manifest())
    }

    /// A path in the stage.
    pub(crate) fn staged(&self, part: &str) -> Result<RelPath> {
        RelPath::new(format!("{}/{part}", self.dir).as_bytes())
    }

    /// The path where name number `at` of a new entry is staged.
    pub(crate) fn staged_new(&self, change: &Change, at: usize) -> Result<RelPath> {
        let below = self.places.staged(change, at)?;
        RelPath::new(&[self.dir.as_bytes(), b"/new/", below.as_bytes()].concat())
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) -> Result<()> {
        self.journal.phase = phase;
        self.journal.save(&self.store)
    }
}
