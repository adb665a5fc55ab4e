//! Writes frames of data to their places in the stage.

use crate::stage::fresh::StageDirs;
use crate::stage::incoming::Incoming;
use crate::stage::received::Notes;
use rustix::fs::{Mode, OFlags};
use snapsync_manifest::ChangeRows;
use snapsync_model::{Change, Context, Error, Range, RelPath, Result};
use snapsync_stream::{Sink, Taker};
use snapsync_sys::fault;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

impl<'a> Incoming<'a> {
    /// A sink for the frames of one worker.
    pub fn sink(&self) -> Sink<'_> {
        let mut worker = Worker::of(self);
        Box::new(move |frame| {
            worker.put(&frame.change, frame.range(), &frame.bytes, &frame.hash)?;
            Ok(frame.bytes)
        })
    }

    /// The same for verified frames that name their file only by inode, and may lie about it.
    pub fn taker<'t>(&'t self, rows: &'t ChangeRows) -> Taker<'t> {
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

    pub(super) fn create_partial(
        &self,
        parents: &mut StageDirs<'_>,
        change: &Change,
        path: &RelPath,
    ) -> io::Result<File> {
        if change.flags.created {
            return self.create(parents, change);
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let file = File::from(self.root.open_at(path, flags, Mode::from_raw_mode(0o600))?);
        // A range can be shared up to the end of its file only if both files end at the same byte.
        file.set_len(change.new.map_or(0, |a| a.size))?;
        Ok(file)
    }
}

/// One of the workers that stage data in parallel.
struct Worker<'a> {
    incoming: &'a Incoming<'a>,
    parents: StageDirs<'a>,
    notes: Notes<'a>,
    /// The open file of this number, which takes parts of its data.
    open: Option<(u64, File)>,
}

impl<'a> Worker<'a> {
    fn of(incoming: &'a Incoming<'_>) -> Worker<'a> {
        let (parents, notes) = (StageDirs::new(&incoming.root), incoming.received.notes());
        Worker { incoming, parents, notes, open: None }
    }

    /// Stages a run of bytes, and records that it is there.
    fn put(&mut self, change: &Change, range: Range, bytes: &[u8], hash: &[u8; 32]) -> Result<()> {
        if !change.names_data(range) {
            return Err(unasked(change, range));
        }
        let new = match self.write(change, range, bytes) {
            // A complete file is not made again.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(unasked(change, range)),
            other => other.context_at("stage the data of", || change.display_path())?,
        };
        let new = new.ok_or_else(|| unasked(change, range))?;
        self.notes.add(change.ino, range, new, hash)?;
        fault::point("stage.frame");
        Ok(())
    }

    /// The number of new bytes; None if some arrived before.
    fn write(&mut self, change: &Change, range: Range, bytes: &[u8]) -> io::Result<Option<u64>> {
        let (incoming, received) = (self.incoming, &self.incoming.received);
        let is_whole = range.length == change.data_bytes();
        if change.flags.created && is_whole && !change.has_clones() && !received.has_begun(change.ino) {
            let file = incoming.create(&mut self.parents, change)?;
            file.write_all_at(bytes, range.offset)?;
            incoming.complete_new(&mut self.parents, file, change)?;
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

    /// The staged file that takes parts of another file's data.
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
