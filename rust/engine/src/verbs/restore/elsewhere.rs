//! Restores a snapshot of a volume on another machine, or some of its paths, into a directory here.

use crate::delta::landing::RestoreTarget;
use crate::delta::selected::Select;
use crate::location::inside::within;
use crate::location::text::Location;
use crate::options::{SshOptions, Supply, Terms};
use crate::remote::supply::{from_there, named_there};
use crate::report::snapshots::RestoredTo;
use snapsync_model::{Error, Monitor, Result, Stage};
use std::path::PathBuf;
use std::time::Instant;

/// Makes a directory hold that snapshot, or only `paths` of it and the directories above them.
pub(super) fn restore_from(
    location: &Location,
    (paths, select): (&[PathBuf], &Select),
    landing: RestoreTarget,
    terms: Terms,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<RestoredTo> {
    let started = Instant::now();
    expect_plain(location, select, supply)?;
    let ssh: &SshOptions = &supply.ssh;
    let (address, mut named) = named_there(location, ssh, monitor)?;
    let paths = within(&named.volume.path, paths)?;
    monitor.start(Stage::Compare, 0);
    let mut content = from_there(&address, ssh, &named, &paths, monitor)?;
    let filled = landing.fill(&mut *content, terms, monitor)?;
    named.volume.path = address.to_string().into();
    Ok(RestoredTo {
        verb: "restore",
        volume: named.volume,
        snapshot: named.snapshot,
        paths: paths.iter().map(|path| path.as_path().to_path_buf()).collect(),
        searched: None,
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

fn expect_plain(location: &Location, select: &Select, supply: &Supply) -> Result<()> {
    if select.asked()?.is_some() {
        return Err(Error::usage(
            format!("cannot select in {location}: that is done on the machine where the snapshot is"),
            "name paths, or run the command there; `snapsync find` takes patterns over ssh too",
        ));
    }
    if supply.standby.is_some() {
        return Err(Error::usage(
            format!("--from is for a volume on this machine, and {location} is on another one"),
            "name the standby itself as VOLUME@SNAP, without --from",
        ));
    }
    Ok(())
}
