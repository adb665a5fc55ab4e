//! A primary that keeps no history of its own: its snapshots are tables, and their bytes are in the tree for
//! as long as nobody changes them. While a round reads them, others write. What was changed before it was
//! read is not the snapshot's any more, so the snapshot is taken again, as long as nobody else has it.

use crate::pool::elusive::Elusive;
use crate::pool::ground::Ground;
use crate::pool::objects::Counts;
use crate::pool::{earlier_rows, take};
use crate::snapshots::differing::files_that_differ;
use crate::snapshots::lost::AGAIN;
use crate::snapshots::take::write;
use crate::store::steady::{Seen, Steady};
use crate::volume::handle::Volume;
use crate::volume::locked::LockedVolume;
use serde::{Deserialize, Serialize};
use snapsync_manifest::Table;
use snapsync_model::{Context, Error, History, Monitor, Provider, Result, SnapshotInfo};
use snapsync_sys::{Spot, fault, supports_reflinks};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// In a snapshot's directory: the manifests that were made of its tables, and what has changed since.
const SENT: &str = "sent.json";
/// How many of them are remembered: a standby may not have begun with the last one.
const MOST_SENT: usize = 2;

/// A manifest of a snapshot that was taken again since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentManifest {
    /// Its BLAKE3, in hexadecimal.
    pub manifest: String,
    /// Inodes that have other bytes since, or are gone.
    pub unlike: BTreeSet<u64>,
}

/// Inodes that were not what their rows say when they were read, and were read nevertheless.
pub type Moved = Arc<Mutex<BTreeSet<u64>>>;

impl Volume {
    /// Fails where the times of its files do not tell who has written to them.
    pub fn expect_can_be_light(&self) -> Result<()> {
        let path = self.path().display();
        if self.info().provider != Provider::Pool {
            return Err(Error::usage(
                format!("the snapshots of {path} are subvolumes, which share what they hold with its tree"),
                "leave out --history",
            ));
        }
        if self.tells_changes()? {
            return Ok(());
        }
        Err(Error::usage(
            format!("{path} cannot go without its history: its file system does not tell which files change"),
            "leave out --history light",
        ))
    }

    fn tells_changes(&self) -> Result<bool> {
        Ok(Ground::of_all(&self.as_pool_store()?, &self.root().underneath()?)?.tells_changes())
    }

    /// Whether this command has taken it, and reads it from the tree.
    pub fn has_just_taken(&self, snapshot: Uuid) -> bool {
        self.taken_now.as_ref().is_some_and(|now| now.snapshot == snapshot)
    }

    /// What is remembered of the manifests of a snapshot.
    pub fn sent(&self, info: &SnapshotInfo) -> Result<Vec<SentManifest>> {
        let file = self.dir_of(info.id).join(SENT);
        let text = file.read_if_there().context("read", file.show())?;
        // What cannot be read is not known: all of it is sent again then.
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }
}

impl LockedVolume {
    /// Chooses what a primary keeps of its older snapshots, from its next one on.
    pub fn set_history(&mut self, history: History) -> Result<()> {
        if history == History::Light {
            self.expect_can_be_light()?;
        } else if self.info().provider != Provider::Pool {
            return Ok(());
        }
        self.note_history(history)
    }

    /// Chooses it for a new primary for which nobody has: where blocks cannot be shared, a full history would
    /// be a second copy of its tree.
    pub fn choose_history(&mut self) -> Result<()> {
        let shares = || self.store().directory().map(supports_reflinks).context("open", self.store().show());
        if self.info().provider == Provider::Pool && !shares()? && self.tells_changes()? {
            self.note_history(History::Light)?;
        }
        Ok(())
    }

    /// Remembers that a manifest was made of a snapshot's table.
    pub fn note_sent(&self, info: &SnapshotInfo, manifest: String) -> Result<()> {
        let mut sent = self.sent(info)?;
        sent.retain(|sent| sent.manifest != manifest);
        sent.push(SentManifest { manifest, unlike: BTreeSet::new() });
        let first = sent.len().saturating_sub(MOST_SENT);
        self.write_sent(&self.dir_of(info.id), &sent[first..])
    }

    fn write_sent(&self, dir: &Spot, sent: &[SentManifest]) -> Result<()> {
        let text = serde_json::to_vec(sent).map_err(|e| Error::failed(format!("cannot write: {e}"), ""))?;
        write(dir, SENT, &text)
    }

    /// Reads what was just taken though it is not what it was, and notes it in `moved`.
    pub fn read_as_it_is(&mut self, info: &SnapshotInfo, moved: Moved) {
        self.read_as(info.id, Steady::AsItIs(moved, Seen::default()));
    }

    /// Takes a snapshot of a light primary again, which nobody else has. Whoever has begun to read it
    /// learns from `sent` what is not the same any more. The bytes of what is elusive are kept.
    pub fn retake(&mut self, info: &mut SnapshotInfo, elusive: &Elusive, monitor: &Monitor) -> Result<()> {
        let mut store = self.as_pool_store()?;
        store.doubted.extend(&elusive.files);
        store.elusive = elusive.clone();
        let subset = info.subset.clone();
        self.replace(info, monitor, |round, again| take::take(&store, &subset, round, again, monitor))
    }

    /// Gives up reading some files of it: they stay as `base` has them, and are left out where it does not.
    pub fn keep_files(
        &mut self,
        info: &mut SnapshotInfo,
        files: &BTreeSet<u64>,
        base: Option<&SnapshotInfo>,
        monitor: &Monitor,
    ) -> Result<()> {
        let (before, dir) = (info.clone(), self.dir_of(info.id));
        let base = base.map(|base| Table::open(&self.dir_of(base.id))).transpose()?;
        self.replace(info, monitor, |_, again| {
            earlier_rows::keep((&before, &Table::open(&dir)?), files, base.as_ref(), again)
        })
    }

    /// `make` writes another table of a snapshot.
    fn replace(
        &mut self,
        info: &mut SnapshotInfo,
        monitor: &Monitor,
        make: impl FnOnce(u64, &Spot) -> Result<Counts>,
    ) -> Result<()> {
        self.expect_unread(info)?;
        let dir = self.dir_of(info.id);
        let again = dir.join(AGAIN);
        if again.is_there() {
            self.settle(&dir)?;
        }
        dir.join("garbage").remove_file().context("remove", dir.show())?;
        again.create_dir().context("create the directory", again.show())?;
        let round = self.claim_round()?;
        write(&again, "round", round.to_string().as_bytes())?;
        let counts = make(round, &again)?;
        let changed = files_that_differ(&Table::open(&dir)?, &Table::open(&again)?)?;
        let mut sent = self.sent(info)?;
        sent.iter_mut().for_each(|sent| sent.unlike.extend(&changed));
        self.write_sent(&dir, &sent)?;
        fault::point("retake.made");
        self.replace_with_again(&dir, &self.objects_without(info, &again, monitor)?)?;
        (info.entries, info.bytes) = (Some(counts.entries), Some(counts.bytes));
        self.record_snapshot(info)?;
        self.read_as(info.id, Steady::Fresh(Seen::default()));
        Ok(())
    }
}
