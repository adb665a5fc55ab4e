//! Brings a standby to the newest snapshot of a log, commit by commit.

use crate::delta::staging::{IncomingDelta, StageReport};
use crate::digest::of_hex;
use crate::log::seen;
use crate::options::{Options, Terms, TransferOptions};
use crate::report::rounds::{Scrubbed, Synced};
use crate::round::primary::together;
use crate::round::standby::Local;
use crate::round::steps::{OpenRequest, StandbyEnd, StandbyInfo, State};
use snapsync_log::{Commit, Fetch, Log, LogAddress, Wanted};
use snapsync_manifest::{ManifestReader, read_frames};
use snapsync_model::{Context, Counts, Error, Monitor, Result, Role, SnapshotInfo, Stage};
use snapsync_stream::Limit;
use snapsync_stream::wire::{Digest, ManifestHead, write_head};
use snapsync_sys::Spot;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;
use uuid::Uuid;

/// How many requests are made at once.
const READERS: usize = 4;

/// Brings the standby at `target` to the newest snapshot of a log, and makes it if there is none.
pub(crate) fn follow(
    address: &LogAddress,
    target: &Path,
    options: &Options,
    transfer: &TransferOptions,
    monitor: &Monitor,
) -> Result<Synced> {
    let started = Instant::now();
    let log = Log::open(address)?.ok_or_else(|| {
        Error::usage(
            format!("{address} is no log"),
            "check the address; `snapsync sync SOURCE LOG` begins one",
        )
    })?;
    let (newest, _) = log.head()?.ok_or_else(|| {
        Error::refused(format!("{address} has no snapshot yet"), "sync its primary to it first")
    })?;
    let mut standby = Local::new(target, None, monitor)?;
    let result = Following { log: &log, newest, options, transfer, monitor, started }.run(&mut standby);
    if let Err(error) = &result {
        standby.failed(error, Uuid::nil());
    }
    result
}

struct Following<'a> {
    log: &'a Log,
    newest: Commit,
    options: &'a Options,
    transfer: &'a TransferOptions,
    monitor: &'a Monitor,
    started: Instant,
}

/// What has come so far.
#[derive(Default)]
struct Come {
    counts: Counts,
    report: StageReport,
}

impl Following<'_> {
    fn run(&self, standby: &mut Local<'_>) -> Result<Synced> {
        let looked = standby.look(Some(self.newest.lineage))?;
        self.is_of(&looked)?;
        // A new standby is of the epoch that its first snapshot is of, and goes on to later ones from there.
        let begins = if looked.lineage.is_none() { &self.log.first()? } else { &self.newest };
        let state = standby.open(OpenRequest {
            lineage: begins.lineage,
            epoch: begins.epoch,
            promotions: begins.published.delta.promotions.clone(),
            drift: self.options.drift,
            store: None,
        })?;
        if !state.lost.is_empty() {
            return Err(Error::refused(
                format!("files of {} have lost what they held", looked.path),
                "sync from the primary itself, or begin a new standby",
            ));
        }
        let line = self.missing(&state)?;
        let mut come = Come::default();
        for commit in &line {
            self.bring(standby, commit, &mut come)?;
        }
        self.report(state, come, line.is_empty())
    }

    /// Whether the volume at the target may follow this log.
    fn is_of(&self, looked: &StandbyInfo) -> Result<()> {
        looked.expect_reachable()?;
        looked.role.map_or(Ok(()), |role| crate::volume::standing::expect_standby(&looked.path, role))?;
        if looked.lineage.is_none_or(|lineage| lineage == self.newest.lineage) {
            return Ok(());
        }
        Err(Error::refused(
            format!("{} is the standby of another volume than {} is of", looked.path, self.log.address()),
            "name the log of its own primary, or another target",
        ))
    }

    /// The commits that the standby does not have, oldest first.
    fn missing(&self, state: &State) -> Result<Vec<Commit>> {
        let Some(base) = &state.newest else { return self.log.line(self.newest.clone(), |_| false) };
        let line = self.log.line(self.newest.clone(), |commit| commit.info().id == base.id)?;
        match line.split_first() {
            Some((first, rest)) if first.info().id == base.id => Ok(rest.to_vec()),
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

    fn bring(&self, standby: &mut Local<'_>, commit: &Commit, come: &mut Come) -> Result<()> {
        let (published, monitor) = (&commit.published, self.monitor);
        let dir = tempfile::tempdir().context("make a temporary directory in", std::env::temp_dir())?;
        let manifest = dir.path().join("manifest.arrow");
        let announced = self.manifest_of(commit, &manifest)?;
        let head = write_head(&mut std::io::sink(), &published.delta).context("describe", &manifest)?;
        let terms = Terms { strict: self.options.strict, no_space_check: self.options.no_space_check };
        let begun = standby.begin(IncomingDelta {
            header: &published.delta,
            manifest: announced,
            terms,
            spare: None,
            file: &manifest,
            fetch: &mut |to: &Spot| copy(&manifest, to),
            again: None,
        })?;
        let counts = ManifestReader::open(&standby.incoming()?.manifest())?.counts()?;
        monitor.start(Stage::Receive, counts.data_bytes);
        monitor.advance(begun.kept);
        let wanted = self.frames_of(commit, standby, &dir)?;
        let limit = self.transfer.limit.map(Limit::new);
        let fetch = Fetch::new(self.log, wanted, limit, monitor)?;
        let seed: [Digest; 2] = [head, announced.digest];
        standby.take(fetch.arrivals(READERS, seed), seed)?;
        standby.commit()?;
        come.counts = come.counts.and(counts);
        come.report.kept = come.report.kept.saturating_add(begun.kept);
        come.report.losses = together(std::mem::take(&mut come.report.losses), begun.losses);
        come.report.pruned.extend(begun.pruned);
        Ok(())
    }

    /// Brings a manifest into a file, and checks it before anything believes it.
    fn manifest_of(&self, commit: &Commit, to: &std::path::PathBuf) -> Result<ManifestHead> {
        let stored = &commit.published.manifest;
        self.log.download(stored, to)?;
        snapsync_manifest::vet(to)?;
        let digest = of_hex(&stored.blake3).and_then(|digest| digest.try_into().ok());
        let digest = digest.ok_or_else(|| Error::integrity("a commit has a digest that is none", ""))?;
        Ok(ManifestHead { length: stored.size, digest })
    }

    /// The frames of a commit that the stage does not hold yet.
    fn frames_of(&self, commit: &Commit, standby: &Local<'_>, dir: &TempDir) -> Result<Vec<Wanted>> {
        let Some(index) = &commit.published.index else { return Ok(Vec::new()) };
        let file = dir.path().join("index.arrow");
        self.log.download(index, &file)?;
        let packs: Vec<_> = commit.published.packs.iter().cloned().map(Arc::new).collect();
        let incoming = standby.incoming()?;
        let mut wanted = Vec::new();
        for row in read_frames(&file)? {
            let range = snapsync_model::Range { offset: row.offset, length: row.raw.into() };
            if incoming.holds(row.ino, range) {
                continue;
            }
            let pack = packs.get(row.pack as usize).cloned().ok_or_else(|| {
                Error::integrity(
                    format!("the index {} names a pack that its commit does not have", index.key),
                    "something changes what is in the log",
                )
            })?;
            wanted.push(Wanted { pack, row });
        }
        Ok(wanted)
    }

    fn report(&self, state: State, come: Come, has_all: bool) -> Result<Synced> {
        let snapshot: SnapshotInfo = self.newest.info().clone();
        let Come { counts, report } = come;
        Ok(Synced {
            verb: "sync",
            primary: seen::info(self.log, Some(&self.newest), Role::Primary),
            standby: state.volume,
            set_aside: state.set_aside,
            base: state.newest,
            unchanged: has_all || counts.rows == 0,
            changes: counts,
            data_bytes: counts.data_bytes,
            kept_bytes: report.kept,
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

fn copy(from: &Path, to: &Spot) -> Result<()> {
    let mut manifest = std::fs::File::open(from).context("open", from)?;
    let mut file = snapsync_sys::Named::create(to).context("create", snapsync_sys::Named::show(to))?;
    std::io::copy(&mut manifest, &mut file).map(drop).context("write", snapsync_sys::Named::show(to))
}
