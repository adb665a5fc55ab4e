//! The line of commits of a log.

use crate::at_once::{REQUESTS, at_once};
use crate::commit::{Checkpoint, CheckpointAt, Commit, Deed, LARGEST, LogHistory, Published, StoredObject};
use crate::format::{FORMAT, Format};
use crate::keyring::Keyring;
use crate::keys::{LogKey, Signer, is_signed_by};
use crate::numbers::PackNumbers;
use crate::probe::probe;
use crate::seals::{Header, Seals, Unopened};
use crate::store::{LogAddress, Objects, Put};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;
use snapsync_manifest::{FrameRow, read_frames, write_frames};
use snapsync_model::{Context, Error, Result, locked};
use snapsync_stream::wire::VERSION as VERSION_OF_DELTAS;
use snapsync_sys::{Named, scratch};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use uuid::Uuid;

/// The most bytes of what says to whom an object is encrypted.
const LARGEST_HEADER: u64 = 1 << 20;
/// How many of these are kept.
const HEADERS: usize = 64;
/// The most bytes of a checkpoint's record.
const LARGEST_CHECKPOINT: u64 = 1 << 30;
/// The most bytes of a manifest or an index.
const LARGEST_TABLE: u64 = 64 << 30;
/// How many bytes of it are read at a time.
const PART: u64 = 8 << 20;

/// How many commits are asked for before it is known that they are needed, at most.
const AHEAD: u64 = 64;

/// How often a commit is tried again whose fate the store does not tell.
const TRIES: usize = 5;

/// An open log.
pub struct Log {
    objects: Objects,
    format: Format,
    keyring: Keyring,
    /// Whose commits are believed here.
    trusted: BTreeSet<LogKey>,
    pub(crate) seals: Seals,
    /// What the packs begin with that were read last, by their keys.
    headers: Mutex<VecDeque<(String, Header)>>,
    numbers: PackNumbers,
}

/// What came of a commit.
#[derive(Debug)]
pub enum Appended {
    /// With this digest.
    Done { digest: String },
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
        let Some(format) = Format::read(&objects)? else { return Ok(None) };
        let keyring = Keyring::of(format.id)?;
        let mut trusted = keyring.trusted()?;
        if trusted.is_empty() {
            trusted.insert(format.signer);
        } else if !trusted.contains(&format.signer) {
            return Err(objects.damaged(FORMAT, "it names another key than the one that this machine knows"));
        }
        let seals = Seals::new(format.recipients()?)?;
        let (headers, numbers) = Default::default();
        Ok(Some(Log { objects, format, keyring, trusted, seals, headers, numbers }))
    }

    /// Begins a log at an empty prefix, or opens the one that is there. A new one is encrypted to these
    /// recipients of age, if there are any.
    pub fn init(address: &LogAddress, recipients: &[String]) -> Result<Log> {
        if let Some(log) = Log::open(address)? {
            log.format.is_encrypted_to(address, recipients)?;
            return Ok(log);
        }
        // Before anything is written.
        crate::seals::recipients(recipients)?;
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
        let (format, signer) = Format::new(recipients)?;
        // Nobody could ever write to a log whose key got lost.
        let keyring = Keyring::of(format.id)?;
        keyring.keep_signer(&signer)?;
        // Whoever was first has made it; that may have been an earlier try of this one.
        objects.put_new(FORMAT, format.signed(&signer)?)?;
        let log = Log::at(objects)?.ok_or_else(|| {
            Error::failed(format!("{address} does not show what was just written there"), "try again")
        })?;
        if log.id() != format.id {
            keyring.forget_signer()?;
        }
        log.format.is_encrypted_to(address, recipients)?;
        Ok(log)
    }

    pub fn id(&self) -> Uuid {
        self.format.id
    }

    /// Whether what is in it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.seals.are_used()
    }

    /// Whether all of it can be read here: it is not encrypted, or an identity is at hand.
    pub fn can_open(&self) -> bool {
        self.seals.can_open()
    }

    /// Fails unless all of it can be read here.
    pub fn expect_open(&self) -> Result<()> {
        if self.can_open() { Ok(()) } else { Err(self.unopened("", Unopened::NoIdentity)) }
    }

    /// Where the key is, or belongs, by which this machine signs its commits.
    pub fn key_path(&self) -> PathBuf {
        self.keyring.path()
    }

    /// Believes from now on, on this machine, what this key signs.
    pub fn trust(&self, key: LogKey) -> Result<()> {
        self.keyring.trust(key)
    }

    /// Whether this machine has a key of it already.
    pub fn is_known(&self) -> Result<bool> {
        self.keyring.trusted().map(|keys| !keys.is_empty())
    }

    /// Whom it believed this time it believes from now on, too.
    pub fn trust_as_now(&self) -> Result<()> {
        self.trusted.iter().try_for_each(|key| self.keyring.trust(*key))
    }

    /// The key that signs on this machine; None if it has none, and cannot get the one that lies in the log.
    pub(crate) fn signer(&self) -> Result<Option<Signer>> {
        if let Some(signer) = self.keyring.signer()? {
            return Ok(Some(signer));
        }
        let Some(signer) = self.format.sealed_signer(&self.seals) else { return Ok(None) };
        // Anybody can encrypt a key to these recipients, so that of a log is kept once it is believed.
        if self.is_known()? {
            self.keyring.keep_signer(&signer)?;
        }
        Ok(Some(signer))
    }

    /// Fails if this machine cannot sign what it publishes.
    pub fn can_sign(&self) -> Result<()> {
        self.needed_signer().map(drop)
    }

    pub(crate) fn needed_signer(&self) -> Result<Signer> {
        self.signer()?.ok_or_else(|| self.cannot_sign())
    }

    /// Makes a key of its own for this machine, if it has none. Tells a key which is not that of the log:
    /// those who read it must be told, again if an earlier try was interrupted.
    pub fn need_signer(&self) -> Result<Option<LogKey>> {
        let signer = match self.signer()? {
            Some(signer) => signer,
            None => {
                // Whoever forgot to name an identity has the key of the log.
                self.expect_open()?;
                // With a key of its own alone this machine would not know the log any more.
                self.trust_as_now()?;
                let signer = Signer::new()?;
                self.keyring.keep_signer(&signer)?;
                signer
            }
        };
        Ok(Some(signer.key()).filter(|key| *key != self.format.signer))
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
        let commit = self.read_commit(sequence, &bytes).map_err(|why| self.objects.damaged(&key, &why))?;
        Ok(Some((commit, blake3::hash(&bytes).to_hex().to_string())))
    }

    fn read_commit(&self, sequence: u64, bytes: &[u8]) -> std::result::Result<Commit, String> {
        let none = |e: serde_json::Error| format!("it is no commit: {e}");
        let record: Value = serde_json::from_slice(bytes).map_err(none)?;
        let mut commit = Commit::deserialize(&record).map_err(none)?;
        if commit.sequence != sequence {
            return Err(format!("it is commit {}", commit.sequence));
        }
        match commit.signer {
            Some(signer) if !is_signed_by(signer, self.id(), &record) => {
                return Err("it is not what was signed".to_owned());
            }
            Some(signer) if !self.trusted.contains(&signer) && self.own_key() != Some(signer) => {
                return Err(format!(
                    "it is signed by {signer}, which this machine does not know: if a standby was promoted \
                     that did not have the key of the log, `snapsync trust {} {signer}` makes it known",
                    self.address()
                ));
            }
            None if commit.deed.needs_signature() => return Err("nobody has signed it".to_owned()),
            _ => {}
        }
        if let Some(sealed) = commit.sealed.take().filter(|_| self.can_open()) {
            let private = BASE64.decode(sealed).ok().and_then(|sealed| self.seals.open(sealed).ok());
            let private = private.and_then(|private| serde_json::from_slice(&private).ok());
            if !private.is_some_and(|private| commit.deed.put_private(private)) {
                return Err("what is encrypted in it is of something else, or for others".to_owned());
            }
        }
        if let Deed::Snapshot(published) = &mut commit.deed {
            published.delta.version = VERSION_OF_DELTAS;
        }
        Ok(commit)
    }

    /// A record as it goes into the log, encrypted and signed.
    fn to_record(&self, commit: &Commit) -> Result<Vec<u8>> {
        let failed =
            |e: serde_json::Error| Error::failed(format!("cannot write a commit: {e}"), "report this");
        let mut commit = commit.clone();
        if self.is_encrypted()
            && let Some(private) = commit.deed.take_private()
        {
            let private = serde_json::to_vec(&private).map_err(failed)?;
            commit.sealed = Some(BASE64.encode(self.seals.seal(private)?));
        }
        let signer = self.signer()?;
        commit.signer = signer.as_ref().map(Signer::key);
        let mut record = serde_json::to_value(&commit).map_err(failed)?;
        match signer {
            Some(signer) => signer.sign(self.id(), &mut record),
            None if commit.deed.needs_signature() => return Err(self.cannot_sign()),
            None => {}
        }
        serde_json::to_vec_pretty(&record).map_err(failed)
    }

    fn own_key(&self) -> Option<LogKey> {
        self.keyring.signer().ok().flatten().map(|signer| signer.key())
    }

    fn cannot_sign(&self) -> Error {
        let path = self.key_path();
        let name = path.file_name().unwrap_or_default().display();
        Error::refused(
            format!("this machine does not have the key that signs for {}", self.address()),
            format!(
                "copy {name} to {} from the machine where the log began or was written to; in an encrypted \
                 log an identity does too",
                path.display()
            ),
        )
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
        let is_first = |commit: &Commit| last.is_some() && commit.sequence.checked_sub(1) == last;
        let line = self.line(head.clone(), is_first)?;
        let names_it = |commit: &Commit| commit.signer.is_some() && commit.checkpoint == head.checkpoint;
        if let Some(at) = head.checkpoint.as_ref().filter(|_| !line.iter().any(names_it)) {
            return Err(self.objects.damaged(&at.object.key, "no commit that is signed names it"));
        }
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
        self.expect_open()?;
        let bytes = self.objects.get(&object.key, LARGEST_CHECKPOINT)?.unwrap_or_default();
        if blake3::hash(&bytes).to_hex().as_str() != object.blake3 {
            return Err(self.objects.damaged(&object.key, "it is not what a commit says of it"));
        }
        let bytes = self.seals.open(bytes).map_err(|why| self.unopened(&object.key, why))?;
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
        // More and more are asked for at once: where one goes on, it mostly goes on for long.
        let (mut ahead, mut count) = (VecDeque::new(), 1);
        while let Some(last) = line.last().filter(|last| !is_first(last) && last.sequence > 0) {
            if ahead.is_empty() {
                let next = last.sequence - 1;
                let asked =
                    at_once(count.min(last.sequence) as usize, REQUESTS, |n| self.there(next - n as u64));
                (ahead, count) = (asked.into(), (2 * count).min(AHEAD));
            }
            let Some(read) = ahead.pop_front() else { break };
            let (older, digest) = read?;
            let is_same = older.epoch == last.epoch
                && older.promotions == last.promotions
                && older.checkpoint == last.checkpoint;
            let may_differ = last.signer.is_some() && older.epoch <= last.epoch;
            if digest != last.before || older.lineage != last.lineage || !(is_same || may_differ) {
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
        let bytes = self.to_record(record)?;
        let done = || Ok(Appended::Done { digest: blake3::hash(&bytes).to_hex().to_string() });
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
                return done();
            }
            // An earlier try may have come through although its answer did not.
            match (self.commit(record.sequence)?, put) {
                (Some((found, _)), _) if found.token == record.token => return done(),
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

    /// Writes an object, encrypted if the log is.
    pub(crate) fn put(&self, key: String, bytes: Vec<u8>) -> Result<StoredObject> {
        self.put_sealed(key, self.seals.seal(bytes)?)
    }

    pub(crate) fn put_sealed(&self, key: String, bytes: Vec<u8>) -> Result<StoredObject> {
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let size = bytes.len() as u64;
        self.objects.put(&key, bytes)?;
        Ok(StoredObject { key, size, blake3 })
    }

    /// The frames of an index.
    pub fn index(&self, object: &StoredObject) -> Result<Vec<FrameRow>> {
        let dir = scratch()?;
        let file = dir.path().join("index.arrow");
        self.download(object, &file)?;
        read_frames(&file)
    }

    /// Uploads an index of frames, which are sorted, if there are any.
    pub fn put_index(&self, key: String, frames: &[FrameRow]) -> Result<Option<StoredObject>> {
        if frames.is_empty() {
            return Ok(None);
        }
        let dir = scratch()?;
        let file = dir.path().join("index.arrow");
        write_frames(&file, frames)?;
        self.put_file(key, &file).map(Some)
    }

    /// Brings an object into a file; it is what its commit says, or nothing is returned.
    pub fn download(&self, object: &StoredObject, to: &dyn Named) -> Result<()> {
        if !self.is_encrypted() {
            return self.bring(object, to);
        }
        self.expect_open()?;
        let dir = scratch()?;
        let sealed = dir.path().join("sealed");
        self.bring(object, &sealed)?;
        let show = to.show().into_owned();
        let io = |source| Error::Io { action: "write", path: show.clone(), source };
        let reader = self.seals.reader(File::open(&sealed).context("open", &sealed)?);
        let mut reader = reader.map_err(|why| self.unopened(&object.key, why))?;
        let mut file = to.create().map_err(io)?;
        let mut part = vec![0; 1 << 20];
        loop {
            let length = reader.read(&mut part).map_err(|_| self.unopened(&object.key, Unopened::Damaged))?;
            if length == 0 {
                return Ok(());
            }
            file.write_all(&part[..length]).map_err(io)?;
        }
    }

    fn bring(&self, object: &StoredObject, to: &dyn Named) -> Result<()> {
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

    /// How many bytes a pack has, of those that `pack_range` reads.
    pub(crate) fn pack_length(&self, key: &str, size: u64) -> Result<u64> {
        if self.is_encrypted() { self.header(key, size).map(|header| header.length()) } else { Ok(size) }
    }

    /// A range of a pack of `size` bytes in the store.
    pub(crate) fn pack_range(&self, (key, size): (&str, u64), range: Range<u64>) -> Result<Vec<u8>> {
        if !self.is_encrypted() {
            return self.objects.range(key, range);
        }
        let header = self.header(key, size)?;
        if range.end > header.length() {
            return Err(self.objects.damaged(key, "it is shorter than what names it says"));
        }
        let chunks = self.objects.range(key, header.chunks(&range))?;
        header.open(&self.seals, &range, chunks).map_err(|why| self.unopened(key, why))
    }

    fn header(&self, key: &str, size: u64) -> Result<Header> {
        if let Some((_, header)) = locked(&self.headers).iter().find(|(of, _)| of == key) {
            return Ok(header.clone());
        }
        let mut length = Header::GUESS.min(size);
        let header = loop {
            match Header::find(&self.objects.range(key, 0..length)?, size) {
                Some(header) => break header,
                None if length == size.min(LARGEST_HEADER) => {
                    return Err(self.objects.damaged(key, "it is not encrypted, as all of the log is"));
                }
                None => length = size.min(LARGEST_HEADER),
            }
        };
        let mut headers = locked(&self.headers);
        headers.truncate(HEADERS - 1);
        headers.push_front((key.to_owned(), header.clone()));
        Ok(header)
    }

    pub(crate) fn unopened(&self, key: &str, why: Unopened) -> Error {
        match why {
            Unopened::Damaged => self.objects.damaged(key, "it cannot be decrypted"),
            Unopened::NoIdentity => Error::usage(
                format!("{} is encrypted, and no identity that opens it is at hand", self.address()),
                "set SNAPSYNC_IDENTITY to the file that `age-keygen` made",
            ),
        }
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }
}
