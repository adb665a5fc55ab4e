//! Resumes an interrupted stage.

use crate::stage::incoming::Incoming;
use crate::stage::received::{Entry, read_log};
use crate::stage::rows::next_chunk;
use rayon::prelude::*;
use snapsync_model::{Change, Context, Kind, Range, Result};
use snapsync_stream::wire::LARGEST_FRAME;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

impl Incoming<'_> {
    /// Takes over what an interrupted run left in the stage: data that still verifies stays, and everything
    /// else is removed.
    pub(crate) fn take_up(&mut self) -> Result<()> {
        let log = read_log(&self.stage())?;
        let mut follows_whole = false;
        let mut rows = self.manifest_reader()?;
        loop {
            let chunk = next_chunk(&mut rows)?;
            if chunk.is_empty() {
                break;
            }
            let kept = chunk.par_iter().map(|change| {
                self.monitor.check()?;
                let entries = log.get(&change.ino).map_or(&[][..], |entries| entries);
                self.keep_verified(change, entries).context("take up", change.display_path())
            });
            let kept: Vec<Vec<Range>> = kept.collect::<Result<_>>()?;
            for (change, ranges) in chunk.iter().zip(kept) {
                if change.data_bytes() > 0 {
                    follows_whole = self.received.hold(change, &ranges, follows_whole);
                }
            }
        }
        Ok(())
    }

    fn keep_verified(&self, change: &Change, entries: &[Entry]) -> io::Result<Vec<Range>> {
        if change.flags.deleted || (change.flags.created && change.kind == Kind::Directory) {
            return Ok(Vec::new());
        }
        if change.flags.created {
            for at in 1..change.links_added.len() {
                self.remove_staged(&self.staged_new(change, at).map_err(io::Error::other)?)?;
            }
        }
        let path = self.data_path(change).map_err(io::Error::other)?;
        let has_data = change.kind == Kind::File && change.data_bytes() > 0;
        let file = if has_data { self.root.write(&path).ok() } else { None };
        let kept = match &file {
            Some(file) => self.verified(file, change, entries),
            None => Vec::new(),
        };
        let bytes: u64 = kept.iter().map(|r| r.length).sum();
        if let Some(file) = file.as_ref().filter(|_| bytes > 0 && change.flags.created) {
            clear_gaps(file, change, &kept)?;
        }
        match file.filter(|_| bytes > 0) {
            None => self.remove_staged(&path)?,
            // A crash may have come between the last data and the attributes.
            Some(file) if bytes == change.data_bytes() && change.flags.created && !change.has_clones() => {
                self.complete(file, change)?;
            }
            Some(_) => {}
        }
        Ok(kept)
    }

    /// The ranges of `file` whose bytes still match their records. They are read, unless this process has
    /// written them.
    fn verified(&self, file: &File, change: &Change, entries: &[Entry]) -> Vec<Range> {
        let is_sound = |entry: &&Entry| {
            (1..=LARGEST_FRAME).contains(&entry.length)
                && change.names_data(entry.range())
                && (self.is_own || holds(file, entry))
        };
        together(entries.iter().filter(is_sound))
    }

    pub(crate) fn remove_staged(&self, path: &snapsync_model::RelPath) -> io::Result<()> {
        match self.root.unlink(path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
                let (dir, name) = self.root.parent(path)?;
                snapsync_sys::remove_tree(dir, name)
            }
            other => other,
        }
    }
}

/// Clears everything in a new file except data that stays.
fn clear_gaps(file: &File, change: &Change, kept: &[Range]) -> io::Result<()> {
    let size = change.new.map_or(0, |a| a.size);
    file.set_len(size)?;
    let mut at = 0;
    for range in kept.iter().chain([&Range { offset: size, length: 0 }]) {
        if range.offset > at {
            snapsync_sys::discard_range(file, at, range.offset - at)?;
        }
        at = range.end();
    }
    Ok(())
}

/// Whether the bytes of a record are still there.
fn holds(file: &File, entry: &Entry) -> bool {
    let mut bytes = vec![0; entry.length as usize];
    file.read_exact_at(&mut bytes, entry.offset).is_ok() && *blake3::hash(&bytes).as_bytes() == entry.hash
}

/// The ranges of all records, sorted and apart.
fn together<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<Range> {
    let mut found: Vec<Range> = entries.map(Entry::range).collect();
    found.sort_unstable();
    let mut ranges: Vec<Range> = Vec::new();
    for range in found {
        match ranges.last_mut().filter(|last| last.end() >= range.offset) {
            Some(last) => last.length = last.length.max(range.end() - last.offset),
            None => ranges.push(range),
        }
    }
    ranges
}
