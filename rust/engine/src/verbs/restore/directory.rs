//! Restores a snapshot, or some of its paths, into an absent or empty directory.

use crate::delta::landing::RestoreTarget;
use crate::delta::selected::{Chosen, Select};
use crate::location::inside::within;
use crate::location::place::named;
use crate::location::text::Location;
use crate::log::restored;
use crate::options::{Supply, Terms};
use crate::remote::supply;
use crate::report::snapshots::RestoredTo;
use crate::verbs::restore::elsewhere::restore_from;
use snapsync_log::LogAddress;
use snapsync_model::{Monitor, Result, Stage};
use snapsync_snapshot::Volume;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Makes the directory `to` hold a snapshot, or only `paths` of it or what is selected, and the directories
/// above them. Where nothing is, it is not made.
pub fn restore_to(
    address: &Path,
    (paths, select): (&[PathBuf], &Select),
    to: &Path,
    terms: Terms,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<RestoredTo> {
    if let Some((log, snapshot)) = LogAddress::parse_snapshot(address)? {
        let snapshot = snapshot.as_deref().unwrap_or("latest");
        return restored::restore((&log, snapshot), (paths, select), to, terms, monitor);
    }
    let find = |volume: Option<&Volume>| RestoreTarget::find(to, volume);
    restore_into(address, (paths, select), &find, terms, supply, monitor)
}

/// The same in a directory that is looked up after the volume, if that is on this machine.
pub(crate) fn restore_into(
    address: &Path,
    (paths, select): (&[PathBuf], &Select),
    find: &dyn Fn(Option<&Volume>) -> Result<RestoreTarget>,
    terms: Terms,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<RestoredTo> {
    let location = Location::parse(address)?;
    if location.host.is_some() {
        return restore_from(&location, (paths, select), find(None)?, terms, supply, monitor);
    }
    let started = Instant::now();
    let selection = select.asked()?;
    let (volume, snapshot) = named(address)?;
    let paths = within(volume.root().path(), paths)?;
    let landing = find(Some(&volume))?;
    monitor.start(Stage::Compare, 0);
    let chosen = Chosen::of((&volume, &snapshot), paths, selection.as_ref(), monitor)?;
    let filled = if chosen.is_nothing() {
        None
    } else {
        let mut content = supply::content(&volume, &snapshot, &chosen.paths, supply, monitor)?;
        Some(landing.fill(&mut *content, terms, monitor)?)
    };
    let (counts, shared_bytes, losses) =
        filled.map(|filled| (filled.counts, filled.shared, filled.losses)).unwrap_or_default();
    Ok(RestoredTo {
        verb: "restore",
        volume: volume.info(),
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
