//! Restores a snapshot of a log, or some of its paths, into a directory.

use crate::accounts::left::tell_left;
use crate::delta::landing::{Filling, Landing, RestoreTarget, id_of};
use crate::delta::outgoing::{announce, copy_file};
use crate::delta::selected::{Chosen, Select};
use crate::delta::staging::take;
use crate::location::inside::within;
use crate::location::logs::LogPlace;
use crate::log::wanted::{READERS, wanted};
use crate::options::Terms;
use crate::report::snapshots::RestoredTo;
use snapsync_apply::Loss;
use snapsync_log::{Fetch, Log, LogAddress, Whole, fold};
use snapsync_model::{Context, Error, Monitor, RelPath, Result, Stage};
use snapsync_stream::wire::{Digest, write_head};
use std::path::{Path, PathBuf};
use std::time::Instant;
use uuid::Uuid;

/// What fills the directory.
struct FromLog<'a> {
    log: &'a Log,
    whole: Whole,
    id: Uuid,
}

/// Makes the directory `to` hold a snapshot of a log, or only `paths` of it or what is selected, and the
/// directories above them.
pub(crate) fn restore(
    (address, snapshot): (&LogAddress, &str),
    (paths, select): (&[PathBuf], &Select),
    to: &Path,
    terms: Terms,
    monitor: &Monitor,
) -> Result<RestoredTo> {
    let started = Instant::now();
    let selection = select.asked()?;
    let place = LogPlace::find(address, snapshot)?;
    let log = &*place.log;
    let paths = within(Path::new("/"), paths)?;
    let landing = RestoreTarget::find(to, None)?;
    monitor.start(Stage::Compare, 0);
    let mut whole = fold(log, &place.deltas, monitor)?;
    let snapshot = whole.delta.snapshot.clone();
    let reduce = |whole: &mut Whole, paths: &[RelPath]| {
        let is_all = paths.iter().all(RelPath::is_root);
        match if is_all { None } else { whole.reduce(paths)? } {
            None => Ok(()),
            Some(path) => Err(Error::usage(
                format!("snapshot {} of {address} has no {}", snapshot.name, path.display()),
                "name paths as they were in that snapshot, from the root of the tree on",
            )),
        }
    };
    reduce(&mut whole, &paths)?;
    let mut chosen = Chosen::named(paths);
    if let Some(selection) = &selection {
        chosen = Chosen::of_manifest(&whole.manifest(), &chosen.paths, selection, monitor)?;
        reduce(&mut whole, &chosen.paths)?;
    }
    let id = id_of(&snapshot, &chosen.paths);
    let filled = if chosen.is_nothing() {
        None
    } else {
        Some(landing.fill(&mut FromLog { log, whole, id }, terms, monitor)?)
    };
    let (counts, shared_bytes, losses) =
        filled.map(|filled| (filled.counts, filled.shared, filled.losses)).unwrap_or_default();
    Ok(RestoredTo {
        verb: "restore",
        volume: place.volume(),
        snapshot,
        paths: chosen.paths.iter().map(|path| path.as_path().to_path_buf()).collect(),
        searched: chosen.searched,
        to: landing.path,
        changes: counts,
        data_bytes: counts.data_bytes,
        shared_bytes,
        losses,
        notes: monitor.take_notes(),
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl Filling for FromLog<'_> {
    fn id(&self) -> Uuid {
        self.id
    }

    fn bring(&mut self, to: &Landing<'_>, terms: Terms) -> Result<(Vec<Loss>, u64)> {
        copy_file(&self.whole.manifest(), to.manifest)?;
        let mut head = self.whole.delta.clone();
        head.snapshot.id = self.id;
        let (mut incoming, begun) = to.begin(&head, terms, false)?;
        to.monitor.start(Stage::Receive, head.totals.data_bytes);
        to.monitor.advance(begun.kept);
        let missing = wanted(&self.whole.frames, &self.whole.packs, &incoming)?;
        let fetch = Fetch::new(self.log, missing, None, to.monitor)?;
        let digest = write_head(&mut std::io::sink(), &head).context("describe", self.whole.manifest())?;
        let seed: [Digest; 2] = [digest, announce(to.manifest)?.digest];
        take(&incoming, fetch.arrivals(READERS, seed), seed, to.monitor)?;
        incoming.seal()?;
        incoming.commit()?;
        tell_left(&head, incoming.root().path(), to.monitor);
        Ok((begun.losses, 0))
    }
}
