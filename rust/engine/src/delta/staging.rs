//! Stages a delta, or resumes an interrupted stage.

use crate::delta::room::{Room, has_space};
use crate::digest::hex;
use crate::keep::Keep;
use crate::options::Terms;
use serde::{Deserialize, Serialize};
use snapsync_apply::{Incoming, Journal, Loss, OwnManifest, Phase, discard, is_intact};
use snapsync_manifest::{ChangeRows, ManifestReader};
use snapsync_model::{Change, Error, Monitor, PlainFiles, Restless, Result, Side, SnapshotInfo, entries};
use snapsync_snapshot::Volume;
use snapsync_stream::wire::{DeltaEnd, DeltaHead, Digest, ManifestHead, lift};
use snapsync_stream::{Arrivals, Budget, Held, Limit, MEMORY, Readable, Sink, Transferred, receive, run};
use snapsync_sys::{Named, Root, Spot};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Gives the files in the manifest at this place the owners that they have here; returns what has come of
/// it, unless it is as it was.
pub(crate) type Own<'f> = &'f mut dyn FnMut(&Spot) -> Result<Option<OwnManifest>>;

/// Leaves them as they are.
pub(crate) fn as_offered(_: &Spot) -> Result<Option<OwnManifest>> {
    Ok(None)
}

/// Whether the same delta can be resumed after this failure.
pub(crate) fn is_cut(error: &Error) -> bool {
    error.exit_code() == 5
}

/// Reading waits for the disk, so more workers than cores keep it busy.
pub(crate) fn workers() -> usize {
    2 * rayon::current_num_threads()
}

/// The place where a delta is staged.
pub(crate) struct StageTarget {
    /// The root of the `.snapsync` that contains the stage.
    pub(crate) root: Arc<Root>,
    pub(crate) store: Spot,
    /// Whether a snapshot of it copies data.
    pub(crate) copies: bool,
    /// Whether older snapshots find bytes in the tree.
    pub(crate) displaces: bool,
    /// Whether only what is overwritten is kept for them, where that is less.
    pub(crate) by_range: bool,
    /// Whether it may hold entries that no snapshot has.
    pub(crate) unlisted: bool,
    /// Whether the data is on its file system and is shared.
    pub(crate) shares: bool,
    /// The name of the snapshot that it holds.
    pub(crate) base: Option<String>,
    /// Whether this process has staged what is in the stage, under the lock of the volume.
    pub(crate) is_own: bool,
    /// Where it is told which files have nothing but data.
    pub(crate) plain: Arc<PlainFiles>,
}

impl StageTarget {
    /// The stage of a volume whose tree is `base`.
    pub(crate) fn of(volume: &Volume, base: Option<&SnapshotInfo>) -> Result<StageTarget> {
        Ok(StageTarget {
            root: volume.root().clone(),
            store: volume.store(),
            copies: volume.copies_for_snapshots()?,
            displaces: volume.is_partly_in_tree(),
            plain: volume.plain_files().clone(),
            by_range: false,
            // Entries outside the base may have come and gone, and changed the times of directories.
            unlisted: base.is_some_and(|base| !base.subset.is_everything()),
            // A standby that shared blocks with its primary would be lost together with it.
            shares: false,
            base: base.map(|base| base.name.clone()),
            is_own: false,
        })
    }
}

/// The rows of a manifest whose data travels.
pub(crate) fn with_data(manifest: &dyn Named) -> Result<impl Iterator<Item = Result<Change>> + Send + use<>> {
    Ok(ManifestReader::open(manifest)?.only(|row| row.data_bytes > 0))
}

/// Copies data that this process can read into the stage.
pub(crate) fn fill(
    incoming: &Incoming<'_>,
    data: &Data<'_>,
    limit: Option<&Limit>,
    monitor: &Monitor,
) -> Result<Transferred> {
    let make_sink = || -> Sink<'_> {
        let mut sink = incoming.sink();
        let Some(limit) = limit else { return sink };
        Box::new(move |frame| {
            let waited = limit.wait(frame.bytes.len() as u64, monitor);
            waited.map_err(|e| lift(e, "write", incoming.root().path()))?;
            sink(frame)
        })
    };
    // Its rows have the owners that files have here.
    let manifest = incoming.manifest();
    let counts = ManifestReader::open(&manifest)?.counts()?;
    let budget = Budget::new(MEMORY);
    run(with_data(&manifest)?, data.readable(), workers(), &budget, monitor, &make_sink)?;
    Ok(Transferred { frames: 0, raw: counts.data_bytes, stored: counts.data_bytes })
}

/// How a stage comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Anew,
    /// It is of the same manifest.
    Resumed,
    /// It is of an earlier manifest of the same snapshot.
    Again,
}

/// How to go on with what is in the stage; None if that is of no use.
fn start(journal: &Journal, offer: &IncomingDelta<'_>, digest: &str) -> Option<Start> {
    let header = offer.header;
    if journal.phase != Phase::Staging
        || journal.snapshot.id != header.snapshot.id
        || journal.base != header.base.map(|base| base.id)
    {
        return None;
    }
    let manifest = journal.manifest.as_deref()?;
    match &offer.again {
        Some(again) => (again.from == manifest).then_some(Start::Again),
        None => (digest == manifest).then_some(Start::Resumed),
    }
}

/// Begins an empty stage; what a failed attempt has left of it goes first.
fn begin_anew<'a>(
    stage: &StageTarget,
    snapshot: &SnapshotInfo,
    base: Option<&(Uuid, Option<String>)>,
    monitor: &'a Monitor,
) -> Result<Incoming<'a>> {
    let StageTarget { root, store, plain, .. } = stage;
    if let Some(journal) = Journal::load(store)? {
        give_up(root, store, &journal)?;
    }
    Ok(Incoming::begin(root, store, snapshot.clone(), base.cloned(), monitor)?.telling(plain))
}

/// Stages everything that needs no data, or goes on with what an interrupted run of the same delta has
/// staged, or one of an earlier manifest of the same snapshot.
pub(crate) fn begin<'a>(
    stage: &StageTarget,
    offer: IncomingDelta<'_>,
    own: Own<'_>,
    room: &mut Room<'_>,
    monitor: &'a Monitor,
) -> Result<(Incoming<'a>, StageReport)> {
    let digest = hex(&offer.manifest.digest);
    let mut left = Journal::load(&stage.store)?;
    let found = left.as_ref().and_then(|journal| Some((journal, start(journal, &offer, &digest)?)));
    let start = match found {
        Some((journal, start)) if is_intact(&stage.root, journal)? => start,
        _ => Start::Anew,
    };
    let mut incoming = match left.take() {
        Some(journal) if start != Start::Anew => {
            Incoming::go_on(&stage.root, &stage.store, journal, monitor)?
        }
        left => {
            if let Some(journal) = left {
                monitor.note(format!("discarded what was staged of snapshot {}", journal.snapshot.name));
                give_up(&stage.root, &stage.store, &journal)?;
            }
            let snapshot = offer.header.snapshot.clone();
            let base = offer.header.base.map(|base| (base.id, stage.base.clone()));
            // The journal comes before it is known how much is needed, and a full disk has no space for it.
            room.take(|| begin_anew(stage, &snapshot, base.as_ref(), monitor))?
        }
    };
    let error = match prepare(&mut incoming, stage, offer, (&digest, start), own, room) {
        Ok(begun) => return Ok((incoming, begun)),
        Err(error) => error,
    };
    // Some file systems do not remove files that are still open.
    drop(incoming);
    if !is_cut(&error)
        && let Ok(Some(journal)) = Journal::load(&stage.store)
    {
        let _ = give_up(&stage.root, &stage.store, &journal);
    }
    Err(error)
}

fn prepare(
    incoming: &mut Incoming<'_>,
    stage: &StageTarget,
    offer: IncomingDelta<'_>,
    (digest, start): (&str, Start),
    own: Own<'_>,
    room: &mut Room<'_>,
) -> Result<StageReport> {
    let IncomingDelta { header, manifest, terms, fetch, again, .. } = offer;
    if start != Start::Resumed && !terms.no_space_check {
        room.take(|| has_space(&stage.root, manifest.length))?;
    }
    match start {
        Start::Anew => {
            fetch(&incoming.manifest())?;
            let own = own(&incoming.manifest())?;
            incoming.keep(digest, own)?;
        }
        Start::Resumed => {}
        Start::Again => {
            fetch(&incoming.next_manifest())?;
            let own = own(&incoming.next_manifest())?;
            let unlike: BTreeSet<u64> = again.iter().flat_map(|again| &again.unlike).copied().collect();
            incoming.carry(header.snapshot.clone(), (digest, own), &unlike, stage.is_own)?;
        }
    }
    let found = ManifestReader::open(&incoming.manifest())?.counts()?;
    if header.totals != (&found).into() {
        return Err(Error::integrity("the delta's header and manifest differ", "send it again"));
    }
    if stage.displaces {
        incoming.will_displace(stage.by_range);
    }
    let report = incoming.prepare(stage.copies, stage.unlisted, stage.shares)?;
    if terms.strict && !report.losses.is_empty() {
        return Err(too_strict(stage.root.path(), &report.losses));
    }
    if !terms.no_space_check {
        // What was staged of the earlier manifest alone is gone.
        room.frees = start == Start::Again;
        let enough = room.take(|| incoming.has_room(false));
        enough.or_else(|error| match error {
            Error::NoSpace { .. } => incoming.has_room(true),
            other => Err(other),
        })?;
    }
    incoming.entries()?;
    let pruned = std::mem::take(&mut room.pruned);
    Ok(StageReport { losses: report.losses, held: report.held, kept: report.kept, pruned })
}

/// Refuses a delta that builds on files of which the change time is not that of the base, or takes them away.
pub(crate) fn expect_untouched(volume: &Volume, incoming: &mut Incoming<'_>) -> Result<()> {
    let base = incoming.base().filter(|base| volume.is_partly_in_tree() && volume.has_table(*base));
    let Some(base) = base else { return Ok(()) };
    let has = |file: &File, object| volume.has_bytes_of(file, object);
    incoming.expect_untouched((&mut |inos| volume.times_of(base, inos), &has))
}

/// Notes what the commit is to keep for older snapshots, which find it in the tree.
/// Returns whether numbers for what files are afterwards would save space.
pub(crate) fn displaces(volume: &Volume, incoming: &mut Incoming<'_>) -> Result<bool> {
    let base = incoming.base().filter(|_| volume.is_partly_in_tree());
    match base.filter(|base| volume.has_table(*base)) {
        Some(base) => incoming.displaces(&mut |inos| volume.unpacked_objects_of(base, inos)),
        None => Ok(false),
    }
}

pub(crate) fn too_strict(path: &Path, losses: &[Loss]) -> Error {
    let list: Vec<String> = losses
        .iter()
        .map(|loss| match &loss.right {
            Some(right) => format!("{} ({}, for want of {right})", loss.what, entries(loss.count)),
            None => format!("{} ({})", loss.what, entries(loss.count)),
        })
        .collect();
    let advice = if losses.iter().any(|loss| loss.right.is_some()) {
        "leave out --strict to go without, or run this as a user with these rights, such as root"
    } else {
        "leave out --strict to go without, or name a target that can"
    };
    Error::refused(format!("{} cannot hold: {}", path.display(), list.join("; ")), advice)
}

/// Removes the stage; the tree was not touched.
pub(crate) fn give_up(root: &Root, store: &Spot, journal: &Journal) -> Result<()> {
    discard(root, journal.snapshot.id)?;
    Journal::remove(store)
}

/// What the standby reports after checking a manifest and staging everything that needs no data.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StageReport {
    pub(crate) losses: Vec<Loss>,
    /// Data that it has already, and its number of bytes.
    pub(crate) held: Held,
    pub(crate) kept: u64,
    /// Old snapshots that were deleted to make space.
    #[serde(default)]
    pub(crate) pruned: Vec<SnapshotInfo>,
}

/// A delta that is about to arrive; its manifest is in a file or comes over a channel.
pub(crate) struct IncomingDelta<'a> {
    pub(crate) header: &'a DeltaHead,
    pub(crate) manifest: ManifestHead,
    pub(crate) terms: Terms,
    /// The manifest's file, if it is on this machine.
    pub(crate) file: &'a dyn Named,
    /// Writes the manifest to the given place; called only if it is not there yet.
    pub(crate) fetch: &'a mut dyn FnMut(&Spot) -> Result<()>,
    /// What may be deleted to make space: everything except this.
    pub(crate) spare: Option<Spare>,
    /// What to do with data that is staged already. Without it only the same manifest goes on with that.
    pub(crate) again: Option<Again>,
}

/// The snapshot was taken again after a part of its data had travelled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Again {
    /// BLAKE3 in hexadecimal of the manifest that the stage was made from.
    pub(crate) from: String,
    /// The inodes in either manifest whose data may be another one than when it travelled.
    pub(crate) unlike: Vec<u64>,
}

impl Again {
    /// The most inodes that fit into one message.
    pub(crate) const MOST: usize = 1 << 17;

    /// As it is told: if there are too many, no stage is right, and the delta begins anew.
    pub(crate) fn told(&self) -> Again {
        if self.unlike.len() <= Again::MOST { self.clone() } else { Again::default() }
    }
}

/// The snapshots of a standby that must be kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spare {
    pub(crate) keep: Keep,
    pub(crate) needed: Vec<Uuid>,
}

/// The readable data of a delta.
pub(crate) struct Data<'a> {
    pub(crate) manifest: &'a dyn Named,
    pub(crate) side: &'a dyn Side,
    pub(crate) held: &'a Held,
    /// Takes the files that are left out because they do not hold still; without it they are an error.
    pub(crate) restless: Option<&'a Restless>,
    pub(crate) seed: [Digest; 2],
}

impl<'a> Data<'a> {
    pub(crate) fn readable(&self) -> Readable<'a> {
        Readable { side: self.side, held: self.held, restless: self.restless }
    }
}

/// Takes the frames of a delta that has begun.
pub(crate) fn take(
    incoming: &Incoming<'_>,
    arrivals: Vec<Arrivals<'_>>,
    seed: [Digest; 2],
    monitor: &Monitor,
) -> Result<DeltaEnd> {
    let rows = ChangeRows::open(&incoming.manifest())?;
    let skip = |ino, range| incoming.holds(ino, range);
    receive(arrivals, seed, workers(), monitor, &skip, &|| incoming.taker(&rows))
}
