//! Makes a standby the primary.

use crate::location::directory::{open_directory, open_volume};
use crate::log::promotion::announce;
use crate::options::OnDrift;
use crate::report::volumes::{PromotePreview, Promoted};
use crate::volume::recovery::unfinished;
use crate::volume::roles::{Wanted, expect_standby, newest_of, promote_in};
use snapsync_model::{Monitor, Result};
use snapsync_snapshot::Unkept;
use std::collections::BTreeMap;
use std::path::Path;

/// Makes a standby the primary. If it follows a log, the log is in the new epoch first.
pub fn promote(path: &Path, name: Option<String>, on_drift: OnDrift, monitor: &Monitor) -> Result<Promoted> {
    let wanted = Wanted { name, on_drift, standbys: BTreeMap::new() };
    let mut tell = |volume: &_, newest: &_, raised| announce(volume, newest, raised, monitor);
    promote_in(open_directory(path)?, wanted, &mut tell, monitor)
}

/// Says what that would have to do first. Only reads, and does not look for what was changed by hand.
pub fn promote_preview(path: &Path, monitor: &Monitor) -> Result<PromotePreview> {
    let volume = open_volume(path)?;
    expect_standby(&volume)?;
    let newest = newest_of(&volume)?;
    let Unkept { files, bytes, is_kept, seconds, thins } = volume.unkept(&newest, monitor)?;
    Ok(PromotePreview {
        verb: "promote",
        volume: volume.info(),
        newest,
        clones: is_kept,
        files,
        bytes,
        clone_seconds: seconds,
        thins,
        unfinished: unfinished(&volume)?,
        notes: monitor.take_notes(),
    })
}
