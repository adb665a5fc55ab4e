//! Runs one round, on this machine or with a volume on another.

use crate::location::directory;
use crate::location::text::Location;
use crate::options::{Options, SshOptions, TransferOptions};
use crate::remote::client::{pull, push};
use crate::report::rounds::Synced;
use crate::round::known;
use crate::round::primary::drive;
use crate::round::rights::Rights;
use crate::round::standby::Local;
use snapsync_model::{Error, Monitor, Result};
use std::path::Path;

/// Brings `target` in step with `source`. The first round makes both volumes. Either may be
/// `[user@]host:PATH`.
pub fn sync(
    source: &Path,
    target: &Path,
    options: &Options,
    transfer: &TransferOptions,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<Synced> {
    match (Location::parse(source)?.there(), Location::parse(target)?.there()) {
        (None, None) => local(source, target, options, transfer, monitor),
        (None, Some(target)) => push(source, &target, options, transfer, ssh, monitor),
        (Some(source), None) => pull(&source, target, options, transfer, ssh, monitor),
        (Some(_), Some(_)) => Err(Error::usage(
            "both source and target are on other machines",
            "run snapsync on one of the two",
        )),
    }
}

fn local(
    source: &Path,
    target: &Path,
    options: &Options,
    transfer: &TransferOptions,
    monitor: &Monitor,
) -> Result<Synced> {
    let source = directory::open_directory(source).map_err(|error| known::without_source(target, error))?;
    directory::not_inside(target, source.path())?;
    let mut standby = Local::new(target, Some(source.path()), monitor)?.limited(transfer.limit);
    drive(source, &mut standby, options, Rights::OWNER, monitor)
}
