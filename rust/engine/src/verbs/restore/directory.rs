//! Restores a snapshot, or some of its paths, into an absent or empty directory.

use crate::delta::landing::RestoreTarget;
use crate::location::inside::within;
use crate::location::place::named;
use crate::log::restored;
use crate::options::{Supply, Terms};
use crate::remote::supply;
use crate::report::snapshots::RestoredTo;
use snapsync_log::LogAddress;
use snapsync_model::{Monitor, Result, Stage};
use snapsync_snapshot::Volume;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Makes the directory `to` hold a snapshot, or only `paths` of it and the directories above them.
pub fn restore_to(
    address: &Path,
    paths: &[PathBuf],
    to: &Path,
    terms: Terms,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<RestoredTo> {
    if let Some((log, snapshot)) = LogAddress::parse_snapshot(address)? {
        let snapshot = snapshot.as_deref().unwrap_or("latest");
        return restored::restore((&log, snapshot), paths, to, terms, monitor);
    }
    restore_into(address, paths, &|volume| RestoreTarget::find(to, Some(volume)), terms, supply, monitor)
}

/// The same in a directory that is looked up after the volume.
pub(crate) fn restore_into(
    address: &Path,
    paths: &[PathBuf],
    find: &dyn Fn(&Volume) -> Result<RestoreTarget>,
    terms: Terms,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<RestoredTo> {
    let started = Instant::now();
    let (volume, snapshot) = named(address)?;
    let paths = within(volume.root().path(), paths)?;
    let landing = find(&volume)?;
    monitor.start(Stage::Compare, 0);
    let mut content = supply::content(&volume, &snapshot, &paths, supply, monitor)?;
    let filled = landing.fill(&mut *content, terms, monitor)?;
    Ok(RestoredTo {
        verb: "restore",
        volume: volume.info(),
        snapshot,
        paths: paths.iter().map(|path| path.as_path().to_path_buf()).collect(),
        to: landing.path,
        changes: filled.counts,
        data_bytes: filled.counts.data_bytes,
        shared_bytes: filled.shared,
        losses: filled.losses,
        notes: monitor.take_notes(),
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}
