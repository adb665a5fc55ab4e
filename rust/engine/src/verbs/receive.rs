//! Applies a delta from a file or a pipe to its standby.

use crate::delta::incoming::Delta;
use crate::options::{DriftOptions, Terms};
use crate::report::rounds::Received;
use crate::round::standby::Local;
use crate::round::steps::{OpenRequest, StandbyEnd};
use snapsync_manifest::ManifestReader;
use snapsync_model::{Error, Monitor, Naming, Result, Stage};
use snapsync_stream::Channel;
use std::io::BufReader;
use std::path::Path;
use std::time::Instant;

/// Applies the delta in `input`, or from standard input, to the standby at `volume`.
pub fn receive(
    volume: &Path,
    input: Option<&Path>,
    terms: Terms,
    (drift, owners): (DriftOptions, Option<Naming>),
    monitor: &Monitor,
) -> Result<Received> {
    let started = Instant::now();
    let mut delta = Delta::open(input, monitor)?;
    let mut standby = Local::new(volume, None, monitor)?;
    let result = apply(&mut delta, &mut standby, terms, (drift, owners), started, monitor);
    if let Err(error) = &result {
        standby.failed(error, delta.header.snapshot.id);
    }
    result
}

fn apply(
    delta: &mut Delta<BufReader<Channel<'_>>>,
    standby: &mut Local<'_>,
    terms: Terms,
    (drift, owners): (DriftOptions, Option<Naming>),
    started: Instant,
    monitor: &Monitor,
) -> Result<Received> {
    let header = delta.header.clone();
    let lineage = header.lineage.ok_or_else(|| {
        Error::refused(
            format!("{} is of a snapshot that belongs to no volume", delta.name.display()),
            "receive it with --as-snapshot DIR",
        )
    })?;
    let promotions = header.promotions.clone();
    let state = standby.open(OpenRequest {
        lineage,
        epoch: header.epoch,
        promotions,
        drift,
        owners,
        adopt: None,
        store: None,
    })?;
    if !state.lost.is_empty() {
        return Err(Error::refused(
            format!(
                "files of {} have lost what they held, and only their primary has it",
                state.volume.path.display()
            ),
            "sync from the primary: such a round brings them",
        ));
    }
    let begun = delta.offer(terms, false, |offer| standby.begin(offer))?;
    let counts = ManifestReader::open(&standby.incoming()?.manifest())?.counts()?;
    monitor.start(Stage::Receive, counts.data_bytes);
    monitor.advance(begun.kept);
    let seed = delta.seed();
    standby.take(vec![delta.frames()], seed)?;
    delta.expect_end()?;
    let snapshot = standby.commit()?;
    Ok(Received {
        verb: "receive",
        standby: Some(state.volume),
        path: None,
        base: state.newest,
        snapshot,
        changes: counts,
        data_bytes: counts.data_bytes,
        kept_bytes: begun.kept,
        losses: begun.losses,
        notes: monitor.take_notes(),
        recovered: state.recovered,
        set_aside: state.set_aside,
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}
