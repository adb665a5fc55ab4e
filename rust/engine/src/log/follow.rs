//! Brings a standby to the newest snapshot of a log, commit by commit.

use crate::delta::outgoing::{announce, copy_file};
use crate::delta::sides::Sides;
use crate::delta::staging::{IncomingDelta, StageReport};
use crate::location::logs;
use crate::log::pinned::{followed, is_same};
use crate::log::wanted::{READERS, wanted};
use crate::options::{Options, Terms, TransferOptions};
use crate::report::rounds::{Scrubbed, Synced};
use crate::round::brought::together;
use crate::round::guard;
use crate::round::standby::Local;
use crate::round::steps::{OpenRequest, StandbyEnd, StandbyInfo, State};
use crate::volume::standing::expect_standby;
use snapsync_log::{
    Commit, Deed, Fetch, Log, LogAddress, LogHistory, LogReader, LogSnapshot, Published, StoredObject, fold,
};
use snapsync_manifest::{FrameRow, ManifestHeader, ManifestReader};
use snapsync_model::{Context, Counts, Error, Identity, Monitor, Op, Result, Role, SnapshotInfo, Stage};
use snapsync_stream::Limit;
use snapsync_stream::wire::{DeltaHead, Digest, write_head};
use snapsync_sys::Spot;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// Brings the standby at `target` to the newest snapshot of a log, and makes it if there is none.
pub(crate) fn follow(
    address: &LogAddress,
    target: &Path,
    options: &Options,
    transfer: &TransferOptions,
    monitor: &Monitor,
) -> Result<Synced> {
    let started = Instant::now();
    let log = Arc::new(logs::open(address)?);
    log.expect_open()?;
    let nothing = || Error::refused(format!("{address} has no snapshot yet"), "sync its primary to it first");
    let (head, digest) = log.head()?.ok_or_else(nothing)?;
    let newest = log.newest_snapshot(&head)?.ok_or_else(nothing)?;
    let mut standby = Local::new(target, None, monitor)?.fed_by_log();
    let result =
        Following { log: &log, head, digest, newest, options, transfer, monitor, started }.run(&mut standby);
    if let Err(error) = &result {
        standby.failed(error, Uuid::nil());
    }
    result
}

struct Following<'a> {
    log: &'a Arc<Log>,
    head: Commit,
    /// That of its record.
    digest: String,
    /// The commit of its newest snapshot.
    newest: Commit,
    options: &'a Options,
    transfer: &'a TransferOptions,
    monitor: &'a Monitor,
    started: Instant,
}

/// A delta that is about to come.
struct Coming<'a> {
    delta: &'a DeltaHead,
    manifest: PathBuf,
    frames: Vec<FrameRow>,
    packs: &'a [StoredObject],
}

/// What has come so far.
#[derive(Default)]
struct Come {
    counts: Counts,
    report: StageReport,
}

impl Following<'_> {
    fn run(&self, standby: &mut Local<'_>) -> Result<Synced> {
        let looked = standby.look(Some(self.head.lineage), None)?;
        self.is_of(&looked)?;
        // A new standby is of the epoch of its snapshot, as no snapshot may be of an earlier one than it is.
        let of = if looked.lineage.is_none() { &self.newest } else { &self.head };
        let state = standby.open(OpenRequest {
            lineage: self.head.lineage,
            epoch: of.epoch,
            promotions: of.promotions.clone(),
            drift: self.options.drift,
            owners: self.options.owners.clone(),
            adopt: None,
            store: None,
        })?;
        if !state.lost.is_empty() {
            return Err(Error::refused(
                format!("files of {} have lost what they held", looked.path),
                "sync from the primary itself, or begin a new standby",
            ));
        }
        if let Some(known) = standby.follows()? {
            is_same(self.log, (&self.head, &self.digest), &known)?;
        }
        let mut come = Come::default();
        let line = match &state.newest {
            Some(base) => self.missing(base, &state)?,
            None => Vec::new(),
        };
        self.log.trust_as_now()?;
        standby.follow(followed(self.log, (&self.head, &self.digest)))?;
        let is_prune = |commit: &Commit| matches!(commit.deed, Deed::Pruned { .. });
        match line.split_first() {
            None => {
                let history = self.log.history(&self.head)?;
                match &self.log.deltas_to(&self.newest, &history)?[..] {
                    [whole] => self.replay(standby, whole, &mut come)?,
                    deltas => self.begin(standby, deltas, &mut come)?,
                }
            }
            Some((base, rest)) if rest.iter().any(is_prune) => self.go_on(standby, base, rest, &mut come)?,
            Some((_, rest)) => self.replay_all(standby, rest, &mut come)?,
        }
        let has_all = line.len() == 1;
        if !self.options.keep.is_empty() {
            come.report.pruned.extend(standby.prune(&self.options.keep, &[])?);
        }
        if !has_all {
            self.note_reader(&state);
        }
        self.report(state, come, has_all)
    }

    /// Tells the log how far the standby is, so that it keeps what comes next for it.
    fn note_reader(&self, state: &State) {
        let Some(snapshot) = self.newest.info() else { return };
        let reader = LogReader {
            volume: state.volume.id,
            path: state.volume.path.to_string_lossy().into_owned(),
            sequence: self.newest.sequence,
            snapshot: snapshot.id,
            name: snapshot.name.clone(),
            at: jiff::Timestamp::now().to_string(),
        };
        if let Err(error) = self.log.note_reader(&reader) {
            let (log, why) = (self.log.address(), error.sentence());
            self.monitor.note(format!("{log} does not know of this standby, and may not wait for it: {why}"));
        }
    }

    /// Whether the volume at the target may follow this log.
    fn is_of(&self, looked: &StandbyInfo) -> Result<()> {
        looked.expect_reachable()?;
        looked.role.map_or(Ok(()), |role| expect_standby(&looked.path, role))?;
        if looked.lineage.is_none_or(|lineage| lineage == self.head.lineage) {
            return Ok(());
        }
        Err(Error::refused(
            format!("{} is the standby of another volume than {} is of", looked.path, self.log.address()),
            "name the log of its own primary, or another target",
        ))
    }

    /// The commits from that of the snapshot on which the standby holds, oldest first.
    fn missing(&self, base: &SnapshotInfo, state: &State) -> Result<Vec<Commit>> {
        let line = self.log.line(self.head.clone(), |commit| commit.is_of(base.id))?;
        match line.first() {
            Some(first) if first.is_of(base.id) => Ok(line),
            _ => Err(Error::refused(
                format!(
                    "{} does not have snapshot {}, the newest of {}",
                    self.log.address(),
                    base.name,
                    state.volume.path.display()
                ),
                "a new standby can follow it: name an empty target",
            )),
        }
    }

    fn replay_all(&self, standby: &mut Local<'_>, line: &[Commit], come: &mut Come) -> Result<()> {
        let mut deltas = line.iter().filter_map(Commit::published);
        deltas.try_for_each(|published| self.replay(standby, published, come))
    }

    /// After something was let go: what only snapshots needed that are not listed any more may be gone,
    /// unless the log knows of this standby.
    fn go_on(&self, standby: &mut Local<'_>, base: &Commit, rest: &[Commit], come: &mut Come) -> Result<()> {
        let history = self.log.history(&self.head)?;
        let is_listed = |commit: &Commit| history.snapshots.iter().any(|(at, _)| *at == commit.sequence);
        let is_whole = rest.iter().all(|commit| commit.published().is_none() || is_listed(commit));
        let numbers = |commit: &Commit| commit.published().map(|of| (of.delta.volume, of.delta.epoch));
        if !is_whole && is_listed(base) && numbers(base) == numbers(&self.newest) {
            return self.skip_to_newest(standby, base, &history, come);
        }
        match self.replay_all(standby, rest, come) {
            Err(error @ Error::Integrity { .. }) if !is_whole => Err(Error::refused(
                format!("{} has let go of what this standby needs: {}", self.log.address(), error.sentence()),
                "begin a new standby: name an empty target",
            )),
            other => other,
        }
    }

    /// The changes of one commit.
    fn replay(&self, standby: &mut Local<'_>, published: &Published, come: &mut Come) -> Result<()> {
        let Published { delta, manifest: stored, index, packs } = published;
        let dir = snapsync_sys::scratch()?;
        let manifest = dir.path().join("manifest.arrow");
        self.log.download(stored, &manifest)?;
        snapsync_manifest::vet(&manifest)?;
        let frames = index.as_ref().map(|index| self.log.index(index)).transpose()?.unwrap_or_default();
        self.bring(standby, &Coming { delta, manifest, frames, packs }, come)
    }

    /// All of the newest snapshot, for a standby that has nothing yet.
    fn begin(&self, standby: &mut Local<'_>, line: &[Published], come: &mut Come) -> Result<()> {
        let whole = fold(self.log, line, self.monitor)?;
        let delta = whole.delta.clone();
        let (manifest, frames, packs) = (whole.manifest(), whole.frames.clone(), &whole.packs);
        self.bring(standby, &Coming { delta: &delta, manifest, frames, packs }, come)
    }

    /// The changes from a listed snapshot to the newest, without those between them: of both is known where
    /// their bytes are.
    fn skip_to_newest(
        &self,
        standby: &mut Local<'_>,
        base: &Commit,
        history: &LogHistory,
        come: &mut Come,
    ) -> Result<()> {
        let (Some(held), Some(published)) = (base.info(), self.newest.published()) else { return Ok(()) };
        let whole = |commit: &Commit| fold(self.log, &self.log.deltas_to(commit, history)?, self.monitor);
        let (old, new) = (whole(base)?, whole(&self.newest)?);
        let names = new.delta.names.clone();
        let (old, new) = (LogSnapshot::new(self.log, old)?, LogSnapshot::new(self.log, new)?);
        let all = new.frames();
        let dir = snapsync_sys::scratch()?;
        let manifest = dir.path().join("manifest.arrow");
        let header = ManifestHeader::of(Some(held.id), &published.delta.snapshot);
        let sides = Sides::between_sides(Box::new(old), Box::new(new));
        let counts = sides.write_manifest(&manifest, &header, self.monitor)?;
        let mut frames = Vec::new();
        for row in ManifestReader::open(&manifest)?.only(|row| row.data_bytes > 0) {
            let row = row?;
            let data = row.extents.iter().filter(|extent| extent.op == Op::Data);
            data.for_each(|extent| frames.extend(all.pieces(row.ino, extent.range())));
        }
        let base = Some(Identity { id: held.id, origin: None });
        let delta = DeltaHead { base, totals: (&counts).into(), names, ..published.delta.clone() };
        self.bring(standby, &Coming { delta: &delta, manifest, frames, packs: all.packs() }, come)
    }

    fn bring(&self, standby: &mut Local<'_>, coming: &Coming<'_>, come: &mut Come) -> Result<()> {
        let monitor = self.monitor;
        let Coming { delta, manifest, .. } = coming;
        self.guard(standby, coming)?;
        let announced = announce(manifest)?;
        let head = write_head(&mut std::io::sink(), delta).context("describe", manifest)?;
        let begun = standby.begin(IncomingDelta {
            header: delta,
            manifest: announced,
            terms: Terms { strict: self.options.strict, no_space_check: self.options.no_space_check },
            spare: None,
            file: manifest,
            fetch: &mut |to: &Spot| copy_file(manifest, to),
            again: None,
        })?;
        let counts = ManifestReader::open(&standby.incoming()?.manifest())?.counts()?;
        monitor.start(Stage::Receive, counts.data_bytes);
        monitor.advance(begun.kept);
        let limit = self.transfer.limit.map(Limit::new);
        let missing = wanted(&coming.frames, coming.packs, standby.incoming()?)?;
        let fetch = Fetch::new(self.log, missing, limit, monitor)?;
        let seed: [Digest; 2] = [head, announced.digest];
        standby.take(fetch.arrivals(READERS, seed), seed)?;
        standby.commit()?;
        come.counts = come.counts.and(counts);
        come.report.kept = come.report.kept.saturating_add(begun.kept);
        come.report.losses = together(std::mem::take(&mut come.report.losses), begun.losses);
        come.report.pruned.extend(begun.pruned);
        Ok(())
    }

    /// Whoever published may have let through what this standby is guarded from.
    fn guard(&self, standby: &mut Local<'_>, coming: &Coming<'_>) -> Result<()> {
        let (Some(limits), Some(base)) = (&self.options.guard, standby.newest()?) else { return Ok(()) };
        let counts = ManifestReader::open(&coming.manifest)?.counts()?;
        let snapshot = &coming.delta.snapshot;
        guard::check(
            limits,
            &coming.manifest,
            &counts,
            (&base, snapshot),
            &format!("the standby of {}", self.log.address()),
        )
    }

    fn report(&self, state: State, come: Come, has_all: bool) -> Result<Synced> {
        let nothing = || Error::failed("a commit of a snapshot has none", "report this");
        let snapshot = self.newest.info().cloned().ok_or_else(nothing)?;
        let Come { counts, report } = come;
        Ok(Synced {
            verb: "sync",
            primary: logs::info(self.log, Some(&self.head), Role::Primary),
            standby: state.volume,
            set_aside: state.set_aside,
            base: state.newest,
            unchanged: has_all || counts.rows == 0,
            changes: counts,
            data_bytes: counts.data_bytes,
            kept_bytes: report.kept,
            skipped: Vec::new(),
            tree_bytes: snapshot.bytes.unwrap_or(0),
            tree_entries: snapshot.entries.unwrap_or(0),
            snapshot,
            losses: report.losses,
            notes: self.monitor.take_notes(),
            recovered: state.recovered,
            pruned: report.pruned,
            scrub: Scrubbed::default(),
            counters: self.monitor.counters(),
            seconds: self.started.elapsed().as_secs_f64(),
            claimed: None,
        })
    }
}
