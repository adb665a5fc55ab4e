//! What of a log is still needed, and what can go.
//!
//! Nobody waits and no clock is asked: what is not needed is listed first, then a commit is appended, and
//! only then is deleted what was listed. Whoever was uploading when it was listed meant to commit in that
//! place, and cannot any more.

use crate::commit::{Commit, LogHistory, Published};
use crate::fold::{Pieces, each_with_tables};
use crate::log::Log;
use crate::seals::Unopened;
use serde::{Deserialize, Serialize};
use snapsync_model::{Error, Monitor, Result};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The folders whose objects are deleted when no commit needs them.
const FOLDERS: [&str; 5] = ["packs", "manifests", "index", "tables", "probe"];
const READERS: &str = "readers";
const LARGEST_READER: u64 = 64 << 10;

/// How far a standby is: it needs all that came since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReader {
    /// The id of its volume.
    pub volume: Uuid,
    pub path: String,
    /// The commit of the snapshot that it holds.
    pub sequence: u64,
    pub snapshot: Uuid,
    pub name: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// An object that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unneeded {
    pub key: String,
    pub size: u64,
}

impl Log {
    fn reader_key(volume: Uuid) -> String {
        format!("{READERS}/{volume}.json")
    }

    /// Records how far a standby is.
    pub fn note_reader(&self, reader: &LogReader) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(reader).map_err(|e| {
            Error::failed(format!("cannot describe a standby of {}: {e}", self.address()), "")
        })?;
        self.objects().put(&Log::reader_key(reader.volume), self.seals.seal(bytes)?)
    }

    pub fn forget_reader(&self, volume: Uuid) -> Result<()> {
        self.objects().delete(&Log::reader_key(volume))
    }

    /// The standbys that have said how far they are.
    pub fn readers(&self) -> Result<Vec<LogReader>> {
        let readers = self.reader_ids()?.into_iter().map(|volume| self.reader(volume).transpose());
        readers.flatten().collect()
    }

    /// The volumes of these. Who cannot read what they have said can forget them.
    pub fn reader_ids(&self) -> Result<BTreeSet<Uuid>> {
        let named = |volume: &Uuid, name: &str| Log::reader_key(*volume) == format!("{READERS}/{name}");
        let listed = self.objects().list(READERS)?;
        let volume = |name: &String| name.strip_suffix(".json")?.parse().ok().filter(|it| named(it, name));
        Ok(listed.iter().filter_map(volume).collect())
    }

    /// What the standby with this volume has said; None if nothing.
    fn reader(&self, volume: Uuid) -> Result<Option<LogReader>> {
        let key = Log::reader_key(volume);
        let Some(bytes) = self.objects().get(&key, LARGEST_READER)? else { return Ok(None) };
        let said = self.seals.open(bytes).and_then(|bytes| {
            let reader: Option<LogReader> = serde_json::from_slice(&bytes).ok();
            reader.filter(|reader| reader.volume == volume).ok_or(Unopened::Damaged)
        });
        match said {
            Ok(reader) => Ok(Some(reader)),
            Err(Unopened::NoIdentity) if !self.can_open() => Err(self.unopened(&key, Unopened::NoIdentity)),
            Err(_) => Err(Error::integrity(
                format!("{} does not say how far a standby is", self.objects().show(&key)),
                format!(
                    "the next round of the standby writes it again; if it is gone, `snapsync release {} \
                     --standby {volume}` forgets it",
                    self.address()
                ),
            )),
        }
    }

    /// The objects that neither the snapshots at some places of the line need, nor the standbys. To be asked
    /// before the commit that lets them go.
    pub fn unneeded(
        &self,
        (head, history): (&Commit, &LogHistory),
        kept: &BTreeSet<u64>,
        monitor: &Monitor,
    ) -> Result<Vec<Unneeded>> {
        let listed = FOLDERS.iter().map(|folder| self.objects().list_all(folder));
        let listed = listed.chain([self.objects().left()]);
        let listed: Vec<_> = listed.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let needed = self.needed((head, history), kept, monitor)?;
        let goes = listed.into_iter().filter(|(key, _)| !needed.contains(key));
        Ok(goes.map(|(key, size)| Unneeded { key, size }).collect())
    }

    fn needed(
        &self,
        (head, history): (&Commit, &LogHistory),
        kept: &BTreeSet<u64>,
        monitor: &Monitor,
    ) -> Result<BTreeSet<String>> {
        // The history itself begins in the newest checkpoint.
        let mut needed: BTreeSet<String> = head.checkpoint.iter().map(|at| at.object.key.clone()).collect();
        let mut of = BTreeMap::<Option<u64>, Vec<Commit>>::new();
        for sequence in kept {
            let from = history.checkpoint_for(*sequence).map(|at| at.sequence);
            of.entry(from).or_default().push(self.there(*sequence)?.0);
        }
        for commits in of.into_values() {
            self.needed_from_one(&commits, history, &mut needed, monitor)?;
        }
        let least = self.readers()?.iter().map(|reader| reader.sequence).min();
        if let Some(least) = least.filter(|least| *least < head.sequence) {
            for commit in self.line(head.clone(), |commit| commit.sequence == least + 1)? {
                let published = commit.published();
                published.iter().for_each(|published| needed.extend(all_of(published)));
            }
        }
        needed.extend(self.kept_manifests(head)?);
        Ok(needed)
    }

    /// What snapshots need that begin at the same checkpoint, given in order.
    fn needed_from_one(
        &self,
        commits: &[Commit],
        history: &LogHistory,
        needed: &mut BTreeSet<String>,
        monitor: &Monitor,
    ) -> Result<()> {
        let Some(last) = commits.last() else { return Ok(()) };
        let ends: BTreeSet<Uuid> = commits.iter().filter_map(Commit::info).map(|info| info.id).collect();
        needed.extend(history.checkpoint_for(last.sequence).map(|at| at.object.key.clone()));
        let dir = snapsync_sys::scratch()?;
        let mut pieces = Pieces::default();
        let deltas = self.deltas_to(last, history)?;
        each_with_tables(self, &deltas, dir.path(), &mut |published, tables| {
            monitor.check()?;
            pieces.add(published, &tables)?;
            needed.extend(tables_of(published));
            if ends.contains(&published.delta.snapshot.id) {
                needed.extend(pieces.used_packs().map(|pack| pack.key.clone()));
            }
            tables.remove()
        })
    }

    /// Deletes objects that nothing needs any more. Returns those that the store does not let go of, and why.
    pub fn delete<'a>(&self, unneeded: &'a [Unneeded]) -> Result<(Vec<&'a Unneeded>, String)> {
        let keys: Vec<&str> = unneeded.iter().map(|object| object.key.as_str()).collect();
        let (kept, why) = self.objects().delete_all(&keys)?;
        Ok((unneeded.iter().filter(|object| kept.contains(&object.key)).collect(), why))
    }
}

fn tables_of(published: &Published) -> impl Iterator<Item = String> {
    let index = published.index.as_ref().map(|index| index.key.clone());
    std::iter::once(published.manifest.key.clone()).chain(index)
}

fn all_of(published: &Published) -> impl Iterator<Item = String> {
    tables_of(published).chain(published.packs.iter().map(|pack| pack.key.clone()))
}
