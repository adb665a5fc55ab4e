//! The line of commits of a log.

use crate::commit::{Checkpoint, CheckpointAt, Commit, Deed, LARGEST, LogHistory, Published, StoredObject};
use crate::numbers::PackNumbers;
use crate::probe::probe;

use crate::store::{LogAddress, Objects, Put};
use serde::{Deserialize, Serialize};
use snapsync_manifest::{FrameRow, read_frames, write_frames};
use snapsync_model::{Context, Error, Result};
use snapsync_stream::wire::VERSION as VERSION_OF_DELTAS;
use snapsync_sys::Named;
use std::io::{Read, Write};
use uuid::Uuid;

const FORMAT: &str = "format.json";
/// The version that this code writes, and the newest that it reads.
const VERSION: u32 = 1;

/// The most bytes of a checkpoint's record.
const LARGEST_CHECKPOINT: u64 = 1 << 30;
/// The most bytes of a manifest or an index.
const LARGEST_TABLE: u64 = 64 << 30;
/// How many bytes of it are read at a time.
const PART: u64 = 32 << 20;

/// How often a commit is tried again whose fate the store does not tell.
const TRIES: usize = 5;

/// What makes a prefix a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    snapsync: String,
    version: u32,
    id: Uuid,
}

/// An open log.
pub struct Log {
    objects: Objects,
    id: Uuid,
    numbers: PackNumbers,
}

/// What came of a commit.
#[derive(Debug)]
pub enum Appended {
    Done,
    /// Another one has its place.
    Taken(Box<Commit>),
}

impl Log {
    /// Opens the log at an address; None if there is none.
    pub fn open(address: &LogAddress) -> Result<Option<Log>> {
        if let LogAddress::Directory(path) = address
            && !path.exists()
        {
            return Ok(None);
        }
        Log::at(Objects::open(address, false)?)
    }

    fn at(objects: Objects) -> Result<Option<Log>> {
        let Some(bytes) = objects.get(FORMAT, 1 << 16)? else { return Ok(None) };
        let format: Format = serde_json::from_slice(&bytes)
            .map_err(|e| objects.damaged(FORMAT, &format!("it is not what a log begins with: {e}")))?;
        if format.version > VERSION {
            return Err(Error::refused(
                format!("{} has version {} of the format", objects.address(), format.version),
                "use the newer snapsync that made it",
            ));
        }
        Ok(Some(Log { objects, id: format.id, numbers: PackNumbers::default() }))
    }

    /// Begins a log at an empty prefix, or opens the one that is there.
    pub fn init(address: &LogAddress) -> Result<Log> {
        if let Some(log) = Log::open(address)? {
            return Ok(log);
        }
        let objects = Objects::open(address, true)?;
        let found = objects.list("")?;
        let others: Vec<&String> = found.iter().filter(|name| *name != "probe").collect();
        if let Some(other) = others.first() {
            return Err(Error::refused(
                format!("{address} is no log, and has {other} in it"),
                "name an empty prefix or directory",
            ));
        }
        probe(&objects)?;
        let format = Format { snapsync: "log".to_owned(), version: VERSION, id: Uuid::new_v4() };
        let bytes = serde_json::to_vec_pretty(&format)
            .map_err(|e| Error::failed(format!("cannot describe {address}: {e}"), ""))?;
        // Whoever was first has made it.
        objects.put_new(FORMAT, bytes)?;
        Log::at(objects)?.ok_or_else(|| {
            Error::failed(format!("{address} does not show what was just written there"), "try again")
        })
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The numbers of packs in the addresses of its snapshots.
    pub(crate) fn numbers(&self) -> &PackNumbers {
        &self.numbers
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    pub fn address(&self) -> &LogAddress {
        self.objects.address()
    }

    /// The place of the newest commit. A listing may lag, so what follows it is asked for by name.
    pub fn newest(&self) -> Result<Option<u64>> {
        let listed = self.objects.list("commits")?;
        let mut next = listed.iter().filter_map(|name| Commit::sequence_of(name)).max().map_or(0, |n| n + 1);
        while self.objects.get(&Commit::key(next), LARGEST)?.is_some() {
            next += 1;
        }
        Ok(next.checked_sub(1))
    }

    /// A commit and the digest of its record; None if there is none.
    pub fn commit(&self, sequence: u64) -> Result<Option<(Commit, String)>> {
        let key = Commit::key(sequence);
        let Some(bytes) = self.objects.get(&key, LARGEST)? else { return Ok(None) };
        let mut record: Commit = serde_json::from_slice(&bytes)
            .map_err(|e| self.objects.damaged(&key, &format!("it is no commit: {e}")))?;
        if let Deed::Snapshot(published) = &mut record.deed {
            published.delta.version = VERSION_OF_DELTAS;
        }
        if record.sequence != sequence {
            return Err(self.objects.damaged(&key, &format!("it is commit {}", record.sequence)));
        }
        Ok(Some((record, blake3::hash(&bytes).to_hex().to_string())))
    }

    /// The newest commit and the digest of its record; None if there is none yet.
    pub fn head(&self) -> Result<Option<(Commit, String)>> {
        self.newest()?.map(|newest| self.there(newest)).transpose()
    }

    /// The newest snapshot, which is that of `head` unless other commits follow it.
    pub fn newest_snapshot(&self, head: &Commit) -> Result<Option<Commit>> {
        let line = self.line(head.clone(), |commit| commit.published().is_some())?;
        Ok(line.into_iter().next().filter(|commit| commit.published().is_some()))
    }

    /// The snapshots that are listed up to `head`.
    pub fn history(&self, head: &Commit) -> Result<LogHistory> {
        let checkpoint = head.checkpoint.as_ref().map(|at| self.checkpoint(at)).transpose()?;
        let last = checkpoint.as_ref().map(|checkpoint| checkpoint.sequence);
        let line = self.line(head.clone(), |commit| last.is_some_and(|last| commit.sequence == last + 1))?;
        let mut history = checkpoint.map(|checkpoint| checkpoint.history).unwrap_or_default();
        line.iter().for_each(|commit| history.add(commit));
        Ok(history)
    }

    /// What leads from nothing to the snapshot of a commit, which is listed.
    pub fn deltas_to(&self, commit: &Commit, history: &LogHistory) -> Result<Vec<Published>> {
        let at = history.checkpoint_for(commit.sequence);
        let Some(Checkpoint { sequence, published, .. }) = at.map(|at| self.checkpoint(at)).transpose()?
        else {
            let line = self.line(commit.clone(), |_| false)?;
            return Ok(line.iter().filter_map(Commit::published).cloned().collect());
        };
        let mut deltas = vec![published];
        if sequence < commit.sequence {
            let line = self.line(commit.clone(), |commit| commit.sequence == sequence + 1)?;
            deltas.extend(line.iter().filter_map(Commit::published).cloned());
        }
        Ok(deltas)
    }

    pub fn checkpoint(&self, at: &CheckpointAt) -> Result<Checkpoint> {
        let CheckpointAt { sequence, object } = at;
        let bytes = self.objects.get(&object.key, LARGEST_CHECKPOINT)?.unwrap_or_default();
        if blake3::hash(&bytes).to_hex().as_str() != object.blake3 {
            return Err(self.objects.damaged(&object.key, "it is not what a commit says of it"));
        }
        let mut checkpoint: Checkpoint = serde_json::from_slice(&bytes)
            .map_err(|e| self.objects.damaged(&object.key, &format!("it is no checkpoint: {e}")))?;
        if checkpoint.sequence != *sequence {
            return Err(self.objects.damaged(&object.key, "it is of another commit"));
        }
        checkpoint.published.delta.version = VERSION_OF_DELTAS;
        Ok(checkpoint)
    }

    /// The same for one that must be there.
    pub fn there(&self, sequence: u64) -> Result<(Commit, String)> {
        self.commit(sequence)?.ok_or_else(|| self.objects.damaged(&Commit::key(sequence), "it is not there"))
    }

    /// The commits up to `newest`, oldest first, from the first one on or from that for which `is_first`
    /// holds. Each is the successor of the one before it.
    pub fn line(&self, newest: Commit, is_first: impl Fn(&Commit) -> bool) -> Result<Vec<Commit>> {
        let mut line = vec![newest];
        while let Some(last) = line.last().filter(|last| !is_first(last) && last.sequence > 0) {
            let (older, digest) = self.there(last.sequence - 1)?;
            if digest != last.before || older.lineage != last.lineage || older.epoch > last.epoch {
                let key = Commit::key(last.sequence);
                return Err(self.objects.damaged(&key, "it does not follow the commit before it"));
            }
            line.push(older);
        }
        line.reverse();
        Ok(line)
    }

    /// Puts a commit in its place, if that is free. After this returns `Done` the commit is there for good.
    pub fn append(&self, record: &Commit) -> Result<Appended> {
        let key = Commit::key(record.sequence);
        let bytes = record.to_bytes()?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::failed(
                format!("one commit of {} cannot name so many packs", self.address()),
                "publish less at once: leave a part of the tree out in the first round",
            ));
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let put = self.objects.put_new(&key, bytes.clone());
            if matches!(put, Ok(Put::Made)) {
                return Ok(Appended::Done);
            }
            // An earlier try may have come through although its answer did not.
            match (self.commit(record.sequence)?, put) {
                (Some((found, _)), _) if found.token == record.token => return Ok(Appended::Done),
                (Some((found, _)), _) => return Ok(Appended::Taken(Box::new(found))),
                (None, Err(error)) if tries == TRIES => return Err(error),
                (None, _) if tries == TRIES => {
                    return Err(Error::failed(
                        format!("{} says that it has a commit, and does not show it", self.address()),
                        "try again; if it stays so, use another store",
                    ));
                }
                (None, _) => {}
            }
        }
    }

    /// Writes an object from a file.
    pub fn put_file(&self, key: String, from: &dyn Named) -> Result<StoredObject> {
        let read = || {
            let mut bytes = Vec::new();
            from.open()?.read_to_end(&mut bytes).map(|_| bytes)
        };
        let bytes =
            read().map_err(|source| Error::Io { action: "read", path: from.show().into_owned(), source })?;
        self.put(key, bytes)
    }

    pub(crate) fn put(&self, key: String, bytes: Vec<u8>) -> Result<StoredObject> {
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let size = bytes.len() as u64;
        self.objects.put(&key, bytes)?;
        Ok(StoredObject { key, size, blake3 })
    }

    /// The frames of an index.
    pub fn index(&self, object: &StoredObject) -> Result<Vec<FrameRow>> {
        let file = tempfile::NamedTempFile::new();
        let file = file.context("make a temporary file in", std::env::temp_dir())?;
        self.download(object, &file.path().to_path_buf())?;
        read_frames(file.path())
    }

    /// Uploads an index of frames, which are sorted, if there are any.
    pub fn put_index(&self, key: String, frames: &[FrameRow]) -> Result<Option<StoredObject>> {
        if frames.is_empty() {
            return Ok(None);
        }
        let file = tempfile::NamedTempFile::new();
        let file = file.context("make a temporary file in", std::env::temp_dir())?;
        write_frames(file.path(), frames)?;
        self.put_file(key, &file.path().to_path_buf()).map(Some)
    }

    /// Brings an object into a file; it is what its commit says, or nothing is returned.
    pub fn download(&self, object: &StoredObject, to: &dyn Named) -> Result<()> {
        if object.size > LARGEST_TABLE {
            return Err(self.objects.damaged(&object.key, "its commit gives it too many bytes"));
        }
        let show = to.show().into_owned();
        let io = |source| Error::Io { action: "write", path: show.clone(), source };
        let mut file = to.create().map_err(io)?;
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < object.size {
            let end = object.size.min(at + PART);
            let bytes = self.objects.range(&object.key, at..end)?;
            hasher.update(&bytes);
            file.write_all(&bytes).map_err(io)?;
            at = end;
        }
        if hasher.finalize().to_hex().as_str() != object.blake3 {
            return Err(self.objects.damaged(&object.key, "it is not what its commit says"));
        }
        Ok(())
    }
}
