//! Deletes snapshots that no rule keeps.

use crate::keep::Keep;
use crate::location::directory::open_volume;
use crate::log::keeping;
use crate::report::snapshots::Pruned;
use crate::volume::recovery;
use crate::volume::retention::{apply, plan};
use snapsync_log::LogAddress;
use snapsync_model::{Error, Monitor, Result};
use snapsync_snapshot::Volume;
use std::path::Path;

/// Deletes the snapshots of a volume that nothing keeps, or only lists them.
pub fn prune(path: &Path, keep: &Keep, dry_run: bool, monitor: &Monitor) -> Result<Pruned> {
    expect_some(keep, path)?;
    if let Some(log) = LogAddress::parse(path)? {
        return keeping::prune(&log, keep, dry_run, monitor);
    }
    prune_in(&open_volume(path)?, keep, dry_run, monitor)
}

fn expect_some(keep: &Keep, path: &Path) -> Result<()> {
    keep.check()?;
    if keep.is_empty() {
        return Err(Error::usage(
            format!("cannot prune {}: nothing says which snapshots to keep", path.display()),
            "say how many, as in --keep-last 10 --keep-daily 14",
        ));
    }
    Ok(())
}

/// The same of a volume that is open.
pub(crate) fn prune_in(volume: &Volume, keep: &Keep, dry_run: bool, monitor: &Monitor) -> Result<Pruned> {
    expect_some(keep, volume.path())?;
    let (pruned, kept) = if dry_run {
        plan(volume, keep, &[])?
    } else {
        let (mut volume, _) = recovery::lock(volume, monitor)?;
        apply(&mut volume, keep, &[], monitor)?
    };
    // A dry run lists all snapshots that are kept.
    for stays in kept.iter().filter(|kept| !dry_run && !kept.by_rule) {
        monitor.note(format!("snapshot {} stays: {}", stays.snapshot.name, stays.why.join("; ")));
    }
    Ok(Pruned { verb: "prune", volume: volume.info(), dry_run, pruned, kept, notes: monitor.take_notes() })
}
