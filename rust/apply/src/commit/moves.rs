//! Moves names between the tree and the stage. Others may exchange names meanwhile, so a moved entry is
//! checked where nobody else can reach it, and is put only into the directory that was checked.

use crate::check::drift::is_lost_and_found;
use crate::commit::forward::is_gone;
use crate::known::Known;
use crate::names::{Attach, Comes, Detach, Goes, Name, Places, attaches, detaches, held, staged_top};
use crate::stage::incoming::Incoming;
use snapsync_model::{Context, Error, RelPath, Result};
use snapsync_sys::{Place, fault};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// How often a name that appears again is kept aside before the commit goes back.
pub(crate) const TRIES: usize = 100;

impl Incoming<'_> {
    /// Returns whether any name was there to be detached.
    pub(crate) fn detach(&self, places: &Places) -> Result<bool> {
        let detaches = detaches(&self.manifest(), places)?;
        for detach in &detaches {
            self.detach_one(detach)?;
            fault::step("commit.detach").context("detach", self.root.show(detach.path()))?;
        }
        Ok(!detaches.is_empty())
    }

    /// Nothing is attached before all names are detached. So a name in the stage was detached before, and an
    /// entry in its old place is a later one.
    fn detach_one(&self, detach: &Detach) -> Result<()> {
        let (from, kept) = (detach.path(), self.kept(detach)?);
        let moved = match detach.to {
            Goes::Hold { .. } | Goes::Trash { .. } => self.root.rename_to_new(from, &kept),
            Goes::Anchor => self.root.link(from, &kept),
        };
        match moved {
            Err(e) if is_gone(&e) && !self.journal.known => return Ok(()),
            // Older builds anchored entries that are moved now.
            Err(e) if is_taken(&e) && !self.journal.known && detach.to != Goes::Anchor => {
                let is_same = self.is_same(from, &kept).context("detach", self.root.show(from))?;
                let done = if is_same { self.root.unlink(from) } else { Err(e) };
                return done.context("detach", self.root.show(from));
            }
            Err(e) if is_gone(&e) || is_taken(&e) => {}
            other => other.context("detach", self.root.show(from))?,
        }
        if self.look_for(&kept, &self.known(detach.row)?)?.is_some() {
            return Ok(());
        }
        // The way back does the same if there is one.
        let _ = self.root.rename_to_new(&kept, from);
        Err(self.exchanged(from))
    }

    /// The path of a removed name in the stage.
    pub(crate) fn kept(&self, detach: &Detach) -> Result<RelPath> {
        match detach.to {
            Goes::Hold { at } => self.staged(&held(detach.ino, at)),
            Goes::Anchor => self.staged(&held(detach.ino, 0)),
            Goes::Trash { at } => self.staged(&format!("trash/{}-{at}", detach.ino)),
        }
    }

    pub(crate) fn is_same(&self, one: &RelPath, other: &RelPath) -> io::Result<bool> {
        Ok(self.root.entry(one)?.stat()?.ino == self.root.entry(other)?.stat()?.ino)
    }

    pub(crate) fn attach(&self, places: &Places) -> Result<()> {
        for attach in attaches(&self.manifest(), places)? {
            self.attach_one(&attach)?;
            fault::step("commit.attach").context("attach", self.root.show(attach.path()))?;
        }
        Ok(())
    }

    fn attach_one(&self, attach: &Attach) -> Result<()> {
        let (to, from) = (attach.path(), self.source(attach)?);
        let known = self.known(attach.row)?;
        for _ in 0..TRIES {
            let place = self.place_of(&attach.to)?;
            let staged = self.root.place(&from).context("open the stage of", self.root.show(to))?;
            let come = match attach.from {
                Comes::New { .. } | Comes::Move { .. } => staged.rename_to_new(&place),
                Comes::Link => staged.link(&place),
            };
            self.root.forget_ways_through(&from);
            match come {
                // It was attached before a crash, alone or with its directory, and nothing else needed the
                // held entry.
                Err(e) if is_gone(&e) && self.look_for(to, &known)?.is_some() => return Ok(()),
                Err(e) if is_gone(&e) => return self.attach_as_before(attach),
                // This also happened before a crash; older builds kept held entries.
                Err(e) if is_taken(&e) && self.is_there_too(attach, &place, &known)? => return Ok(()),
                Err(e) if is_taken(&e) => self.clear_place(&place, to)?,
                other => return other.context("attach", self.root.show(to)),
            }
        }
        Err(Error::refused(
            format!("{} appears again and again while a delta is committed", self.root.show(to).display()),
            "end what makes it, and run the command again",
        ))
    }

    /// Older builds hold one name of each inode.
    fn attach_as_before(&self, attach: &Attach) -> Result<()> {
        if !self.journal.known && matches!(attach.from, Comes::Move { at: 1.. }) {
            let held = self.staged(&held(attach.ino, 0))?;
            return self.root.link(&held, attach.path()).context("attach", self.root.show(attach.path()));
        }
        Err(self.exchanged(attach.path()))
    }

    /// Whether the new name exists already while the entry is still in the stage.
    fn is_there_too(&self, attach: &Attach, place: &Place<'_>, known: &Known) -> Result<bool> {
        let from = self.source(attach)?;
        let is_same = || -> io::Result<bool> {
            let (there, staged) = (place.entry()?.stat()?, self.root.entry(&from)?.stat()?);
            let is_same = (there.dev, there.ino) == (staged.dev, staged.ino) && self.is_known(known, &there);
            if is_same && attach.from != Comes::Link {
                self.root.unlink(&from)?;
            }
            Ok(is_same)
        };
        match is_same() {
            // It was removed just now.
            Err(e) if is_gone(&e) => Ok(false),
            other => other.context("attach", self.root.show(attach.path())),
        }
    }

    pub(crate) fn clear_place(&self, place: &Place<'_>, path: &RelPath) -> Result<()> {
        if !is_lost_and_found(&self.root, path) {
            return self.keep_aside(place, path);
        }
        let to = self.lost_and_found()?;
        let moved = self.root.place(&to).and_then(|to| place.rename_to_new(&to));
        moved.context("make way for", self.root.show(path))
    }

    /// The place of a name, in exactly the directory that was checked or made here.
    pub(crate) fn place_of<'n>(&self, name: &'n Name) -> Result<Place<'n>> {
        let Some((above, last)) = name.path.split() else {
            return Err(Error::failed("the root has no name", "make the manifest again from its snapshots"));
        };
        let known = self.known(name.parent)?;
        let Some(parent) = self.look_for(&above, &known)? else { return Err(self.exchanged(&above)) };
        Ok(Place::new(parent.into_fd(), OsStr::from_bytes(last)))
    }

    /// The path in the stage of a name that will be attached.
    pub(crate) fn source(&self, attach: &Attach) -> Result<RelPath> {
        match attach.from {
            Comes::New { at } => self.staged(&format!("new/{}", staged_top(attach.ino, at))),
            Comes::Move { at } => self.staged(&held(attach.ino, at)),
            Comes::Link => self.staged(&held(attach.ino, 0)),
        }
    }

    /// The new place of a `lost+found` that is moved away.
    pub(crate) fn lost_and_found(&self) -> Result<RelPath> {
        self.staged("trash/lost+found")
    }
}

pub(crate) fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}
