//! Stages data that comes from other files of the tree or the stage.

use crate::stage::fresh::StageDirs;
use crate::stage::incoming::Incoming;
use crate::stage::sources::Sources;
use snapsync_model::{Change, Context, End, Extent, Op, Result};
use snapsync_sys::fault;
use std::fs::File;
use std::io;

impl<'a> Incoming<'a> {
    /// Stages clones of data that is in the tree, as the base left it, or in the stage.
    pub(super) fn clones(&self) -> Result<()> {
        if !self.places.has_clones() {
            return Ok(());
        }
        let sources = Sources::read(&self.manifest())?;
        self.each_row(
            |row| row.has_clones,
            |parents, change| {
                self.clone_into(parents, change, &sources)?;
                fault::point("stage.clone");
                Ok(())
            },
        )
    }

    fn clone_into(&self, parents: &mut StageDirs<'_>, change: &Change, sources: &Sources) -> Result<()> {
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

    /// The file that a clone takes its data from: the one that the check saw, or a staged one.
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
}

/// Makes a range share the blocks of another, or copies it if that fails.
fn share(from: &File, from_offset: u64, length: u64, to: &File, to_offset: u64) -> io::Result<()> {
    if from.metadata()?.len() < from_offset.saturating_add(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match snapsync_sys::clone_range(from, from_offset, length, to, to_offset) {
        Ok(()) => Ok(()),
        Err(_) => snapsync_sys::copy_range(from, from_offset, length, to, to_offset),
    }
}
