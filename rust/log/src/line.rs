//! The line of commits: reads it, and appends to it.

use crate::at_once::{REQUESTS, at_once};
use crate::commit::{Checkpoint, CheckpointAt, Commit, Deed, LARGEST, LogHistory, Published};
use crate::keys::{Signer, is_signed_by};
use crate::log::Log;
use crate::store::Put;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;
use snapsync_model::{Error, Result};
use snapsync_stream::wire::VERSION as VERSION_OF_DELTAS;
use std::collections::VecDeque;

/// The most bytes of a checkpoint's record.
const LARGEST_CHECKPOINT: u64 = 1 << 30;

/// How many commits are asked for before it is known that they are needed, at most.
const AHEAD: u64 = 64;

/// How often a commit is tried again whose fate the store does not tell.
const TRIES: usize = 5;

/// What came of a commit.
#[derive(Debug)]
pub enum Appended {
    /// With this digest.
    Done { digest: String },
    /// Another one has its place.
    Taken(Box<Commit>),
}

impl Log {
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
}
