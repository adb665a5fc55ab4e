//! Goes on with what is staged although the manifest is another one: a primary takes its snapshot again
//! where files changed while they were read.
//!
//! The old stage is put aside as a whole, and a new one is made. Staged data of a row comes over if both
//! manifests have that row, but for its names; everything else is removed with the old stage. What came over
//! is taken up like what an interrupted run has left: it counts only if it still verifies.

use crate::journal::{Journal, OwnManifest};
use crate::layout::MANIFEST;
use crate::names::Places;
use crate::stage::incoming::Incoming;
use crate::stage::received::{self, Entry, read_log};
use crate::stage::rows::{SIDE_BY_SIDE, next_chunk};
use crate::vet::manifest::vet;
use rayon::prelude::*;
use rustix::fs::OFlags;
use snapsync_manifest::ChangeRows;
use snapsync_model::{Change, Context, RelPath, Result, SnapshotInfo};
use snapsync_sys::{Spot, fault};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};

const NEXT: &str = "next.arrow";

/// Where the staged file of a row is, and where it comes to be.
type Move = (RelPath, RelPath);

impl Incoming<'_> {
    /// The path to which a later manifest of the same snapshot is written.
    pub fn next_manifest(&self) -> Spot {
        self.stage().join(NEXT)
    }

    /// Goes on with the later manifest, which is complete and has this digest. What was staged for the inodes
    /// in `unlike` is not right for it, whatever the manifests say. What is staged need not be read again if
    /// it `is_own`: written by this process.
    pub fn carry(
        &mut self,
        snapshot: SnapshotInfo,
        (digest, own): (&str, Option<OwnManifest>),
        unlike: &BTreeSet<u64>,
        is_own: bool,
    ) -> Result<()> {
        vet(&self.next_manifest(), self.monitor)?;
        fault::point("carry.vetted");
        let log = read_log(&self.stage())?;
        let old = self.put_aside()?;
        let journal = self.journal.clone();
        self.journal = Journal::staging(snapshot, journal.base, journal.base_name);
        self.journal.save(&self.store)?;
        self.make_stage().context("make the stage in", self.root.path())?;
        old.join(NEXT).rename(&self.manifest()).context("rename", old.join(NEXT).show())?;
        self.keep(digest, own)?;
        fault::point("carry.begun");
        self.is_own = is_own;
        self.bring_over(&old, &log, unlike)?;
        old.remove_tree().context("remove", old.show())?;
        fault::point("carry.done");
        Ok(())
    }

    /// Renames the stage, and returns where it is. Nobody can go on with it then.
    fn put_aside(&self) -> Result<Spot> {
        let (stage, old) = (self.stage(), self.old_stage());
        old.remove_tree().context("remove", old.show())?;
        stage.rename(&old).context("rename", stage.show())?;
        self.root.forget_ways_through(stage.rel());
        fault::point("carry.aside");
        Ok(old)
    }

    fn bring_over(
        &mut self,
        old: &Spot,
        log: &HashMap<u64, Vec<Entry>>,
        unlike: &BTreeSet<u64>,
    ) -> Result<()> {
        self.places = Places::read(&self.manifest())?.into();
        let manifest = old.join(MANIFEST);
        let (places, before) = (Places::read(&manifest)?, ChangeRows::open(&manifest)?);
        let file = self.stage().join(received::FILE);
        let mut records =
            file.open_or_create(OFlags::WRONLY | OFlags::APPEND).context("open", file.show())?;
        let mut rows = self.manifest_reader()?.only(|row| row.data_bytes > 0 && !row.flags.deleted);
        loop {
            let chunk = next_chunk(&mut rows)?;
            if chunk.is_empty() {
                return Ok(());
            }
            let (mut bytes, mut moves) = (Vec::new(), Vec::<Move>::new());
            for change in chunk.iter().filter(|change| !unlike.contains(&change.ino)) {
                let Some(entries) = log.get(&change.ino) else { continue };
                let Some(row) = before.find(change.ino)?.filter(|row| is_same(row, change)) else { continue };
                bytes.extend(entries.iter().flat_map(Entry::to_bytes));
                let from = old.join(data_below(&places, &row)?).rel().clone();
                moves.push((from, self.data_path(change)?));
            }
            // A record of a file that did not come means nothing.
            records.write_all(&bytes).context("write", file.show())?;
            moves.par_chunks(SIDE_BY_SIDE).try_for_each(|moves| {
                self.monitor.check()?;
                moves.iter().for_each(|(from, to)| self.move_over(from, to));
                Ok(())
            })?;
        }
    }

    /// What cannot be moved is asked for anew.
    fn move_over(&self, from: &RelPath, to: &RelPath) {
        let is_moved = match self.root.rename_to_new(from, to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => to.split().is_some_and(|(above, _)| {
                self.make_directory(&above).is_ok() && self.root.rename_to_new(from, to).is_ok()
            }),
            moved => moved.is_ok(),
        };
        if is_moved {
            fault::point("carry.file");
        }
    }
}

/// The path below a stage where the data of a row is.
fn data_below(places: &Places, row: &Change) -> Result<Vec<u8>> {
    if !row.flags.created {
        return Ok(format!("data/{}", row.ino).into_bytes());
    }
    Ok([b"new/", places.staged(row, 0)?.as_bytes()].concat())
}

/// Whether what is staged of a row is right for a row of a later manifest with the same base: only their
/// names may differ. Every field is listed, so that a new one has to be thought of.
fn is_same(old: &Change, new: &Change) -> bool {
    let Change {
        ino,
        generation,
        kind,
        flags,
        path: _,
        old_path,
        links_added: _,
        links_removed: _,
        nlink: _,
        nlink_old,
        new: attributes,
        old: attributes_old,
        symlink_target,
        xattrs,
        extents,
    } = old;
    (*ino, *generation, *kind) == (new.ino, new.generation, new.kind)
        && (flags.created, flags.deleted, flags.data)
            == (new.flags.created, new.flags.deleted, new.flags.data)
        && (old_path, nlink_old) == (&new.old_path, &new.nlink_old)
        && (attributes, attributes_old) == (&new.new, &new.old)
        && (symlink_target, xattrs) == (&new.symlink_target, &new.xattrs)
        && *extents == new.extents
}
