//! Recovers from an interrupted command, without needing the other volume.

use crate::location::directory::{open_directory, part_of};
use crate::report::volumes::Recovered;
use crate::volume::recovery::{can_go_on, go_on, is_back, take_back, throw_away, unfinished};
use snapsync_apply::{Journal, Phase};
use snapsync_model::{Error, Monitor, Result, Stage};
use snapsync_snapshot::Volume;
use snapsync_sys::Root;
use std::ffi::OsStr;
use std::path::Path;

/// Only recovers a volume: forwards, or with `back` to the snapshot before. With `adopt` a store that was
/// moved belongs to its directory from then on.
pub fn recover_volume(path: &Path, back: bool, adopt: bool, monitor: &Monitor) -> Result<Recovered> {
    let root = open_directory(path)?;
    let mut volume = if adopt { adopt_all(root)? } else { Volume::open_in(root)? }.lock()?;
    monitor.start(Stage::Recover, 0);
    let mut recovered = Vec::new();
    if adopt {
        recovered.push("adopted the store that lies in it".to_owned());
    }
    recovered.append(&mut volume.recovered());
    let journal = Journal::load(&volume.store())?;
    if let Some(journal) = &journal {
        recovered.extend(match (journal.phase, back) {
            (Phase::Staging, false) if can_go_on(&volume, journal) => None,
            (Phase::Staging, _) => Some(throw_away(&mut volume, journal)?),
            (Phase::Settling | Phase::Applied, true) => return Err(is_done(&volume, journal)),
            (_, true) => Some(take_back(&mut volume, journal, monitor)?),
            (_, false) => {
                let done = go_on(&mut volume, journal, monitor);
                if done.is_err() {
                    is_back(&mut volume)?;
                }
                Some(done?)
            }
        });
    }
    Ok(Recovered {
        verb: "recover",
        latest: volume.line()?.pop(),
        unfinished: unfinished(&volume)?,
        volume: volume.info(),
        recovered,
        notes: monitor.take_notes(),
    })
}

/// The parts of a tree were moved with it.
fn adopt_all(root: Root) -> Result<Volume> {
    let volume = Volume::adopt(root)?;
    for part in if volume.root().part().is_none() { volume.parts()? } else { Vec::new() } {
        let part = part_of(volume.root().whole()?, OsStr::new(&part))?;
        Volume::adopt(part)?;
    }
    Ok(volume)
}

fn is_done(volume: &Volume, journal: &Journal) -> Error {
    let (name, show) = (&journal.snapshot.name, volume.path().display());
    Error::refused(
        format!("everything of snapshot {name} is in {show} already: there is no way back"),
        "run `snapsync recover` without --back; on a primary `snapsync restore` brings an older snapshot",
    )
}
