//! Receives a delta as a further snapshot in a directory, as `btrfs receive` does, on any file system.

use crate::accounts::left::tell_left;
use crate::delta::incoming::Delta;
use crate::delta::room::Room;
use crate::delta::staging::{StageTarget, as_offered, begin, is_cut, take, workers};
use crate::digest::hex;
use crate::location::directory::existing_directory;
use crate::location::place::describe;
use crate::options::Terms;
use crate::report::rounds::Received;
use snapsync_apply::{Incoming, Journal, Limits, Loss, Phase, is_intact};
use snapsync_manifest::ManifestReader;
use snapsync_model::{Error, Monitor, Result, SnapshotInfo, Stage};
use snapsync_snapshot::{Base, ReceivedDirectory, Volume, Work, can_be_a_name};
use snapsync_stream::{Channel, receive};
use std::io::{BufReader, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Makes a snapshot in `dir` from the delta in `input`, or from standard input, and the base that the delta
/// names.
pub fn receive_as_snapshot(
    dir: &Path,
    input: Option<&Path>,
    name: Option<String>,
    terms: Terms,
    monitor: &Monitor,
) -> Result<Received> {
    let started = Instant::now();
    if dir.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Err(Error::usage(
            format!("{} does not exist", dir.display()),
            "make that directory first: what is received becomes a new one in it",
        ));
    }
    let dir = existing_directory(dir)?;
    if Volume::find(&dir)?.is_some() {
        return Err(Error::refused(
            format!("{} is a volume: what is received there would change it", dir.display()),
            "name a directory that is not a volume",
        ));
    }
    let mut delta = Delta::open(input, monitor)?;
    let shelf = ReceivedDirectory::open(&dir)?;
    let mut snapshot = delta.header.snapshot.clone();
    if name.is_none() && can_be_a_name(&snapshot.name).is_err() {
        return Err(Error::integrity(
            format!("the delta's snapshot has the name {:?}, which no snapshot can have", snapshot.name),
            "give it another with --name",
        ));
    }
    snapshot.name = name.unwrap_or(snapshot.name);
    shelf.name_is_free(&snapshot.name)?;
    let (base, base_info) = base_of(&shelf, &delta)?.unzip();
    let identity = delta.header.identity();
    let mut work = shelf.begin(&identity, base, monitor)?;
    let brought = match bring(&mut work, &mut delta, terms, monitor) {
        Ok(brought) => brought,
        Err(error) => {
            if !is_cut(&error) {
                let _ = work.discard();
            }
            return Err(error);
        }
    };
    let path = work.publish(&snapshot.name, &identity)?;
    tell_left(&delta.header, &path, monitor);
    Ok(Received {
        verb: "receive",
        standby: None,
        path: Some(path),
        base: base_info,
        snapshot,
        changes: brought.counts,
        data_bytes: brought.counts.data_bytes,
        kept_bytes: brought.kept,
        losses: brought.losses,
        notes: monitor.take_notes(),
        recovered: Vec::new(),
        set_aside: None,
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

type Input<'a> = Delta<BufReader<Channel<'a>>>;

fn base_of(shelf: &ReceivedDirectory, delta: &Input<'_>) -> Result<Option<(Base, SnapshotInfo)>> {
    let Some(wanted) = &delta.header.base else { return Ok(None) };
    let Some(base) = shelf.find(wanted)? else {
        return Err(Error::refused(
            format!(
                "neither {} nor what is beside it has the snapshot {}, which this delta starts from",
                shelf.path().display(),
                wanted.id
            ),
            "receive that one first, or send without a base",
        ));
    };
    let info = describe(base.path(), wanted)?;
    Ok(Some((base, info)))
}

struct Brought {
    counts: snapsync_model::Counts,
    kept: u64,
    losses: Vec<Loss>,
}

/// Applies the delta to the working tree.
fn bring(work: &mut Work<'_>, delta: &mut Input<'_>, terms: Terms, monitor: &Monitor) -> Result<Brought> {
    if let Some(journal) = Journal::load(work.store())?.filter(|journal| journal.phase != Phase::Staging) {
        let is_same = journal.manifest.as_ref() == Some(&hex(&delta.manifest_digest()));
        // Once it is applied, the stage may be gone.
        if is_same && (journal.phase == Phase::Applied || is_intact(&work.root()?, &journal)?) {
            return finish(work, journal, delta, monitor);
        }
        work.start_over()?;
    }
    let stage = StageTarget {
        root: work.root()?,
        store: work.store().clone(),
        copies: false,
        displaces: false,
        by_range: false,
        unlisted: false,
        shares: false,
        base: None,
        is_own: false,
        plain: Arc::default(),
    };
    // The base has the same losses.
    Limits::remembered(&work.shelf())?.remember(work.store())?;
    let mut room = Room::given(&stage.root, monitor);
    let (mut incoming, begun) =
        delta.offer(terms, false, |offer| begin(&stage, offer, &mut as_offered, &mut room, monitor))?;
    let counts = ManifestReader::open(&incoming.manifest())?.counts()?;
    monitor.start(Stage::Receive, counts.data_bytes);
    monitor.advance(begun.kept);
    let seed = delta.seed();
    take(&incoming, vec![delta.frames()], seed, monitor)?;
    delta.expect_end()?;
    incoming.seal()?;
    Limits::remembered(work.store())?.remember(&work.shelf())?;
    incoming.commit()?;
    Ok(Brought { counts, kept: begun.kept, losses: begun.losses })
}

/// Everything had arrived when the last run was stopped.
fn finish(work: &Work<'_>, journal: Journal, delta: &mut Input<'_>, monitor: &Monitor) -> Result<Brought> {
    delta.pass_manifest()?;
    let seed = delta.seed();
    receive(vec![delta.frames()], seed, workers(), monitor, &|_, _| true, &|| Box::new(|_| Ok(())))?;
    delta.expect_end()?;
    if journal.phase != Phase::Applied {
        Incoming::open(&work.root()?, work.store(), journal, monitor)?.commit()?;
    }
    let counts = delta.header.totals.into();
    Ok(Brought { counts, kept: delta.header.totals.data_bytes, losses: Vec::new() })
}
