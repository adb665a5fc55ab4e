//! Runs one round, on this machine or with a volume on another.

use crate::location::directory;
use crate::location::text::Location;
use crate::log::follow::follow;
use crate::log::publish::{LogStandby, Publisher};
use crate::options::{Options, Scrubbing, SshOptions, TransferOptions};
use crate::remote::client::{plan_push, pull, push};
use crate::report::rounds::{Planned, Synced};
use crate::round::known;
use crate::round::plan::plan as planned;
use crate::round::primary::drive;
use crate::round::rights::Rights;
use crate::round::standby::Local;
use snapsync_log::LogAddress;
use snapsync_model::{Error, Monitor, Result};
use std::path::Path;

/// Brings `target` in step with `source`. The first round makes both volumes. Either may be
/// `[user@]host:PATH`, or the address of a log.
pub fn sync(
    source: &Path,
    target: &Path,
    options: &Options,
    transfer: &TransferOptions,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<Synced> {
    let logs = (LogAddress::parse(source)?, LogAddress::parse(target)?);
    if let (Some(log), _) | (_, Some(log)) = &logs
        && options.adopt.is_some()
    {
        return Err(Error::usage(
            format!("nothing is adopted with {log}: only a directory is, from its primary"),
            "leave out --adopt, or name directories, of which one may be on another machine",
        ));
    }
    match logs {
        (None, None) => {}
        (None, Some(log)) => {
            finds_no_owners(&log, options)?;
            return publish(source, log, options, transfer, monitor);
        }
        (Some(log), None) => {
            only_follows(&log, options)?;
            return follow(&log, target, options, transfer, monitor);
        }
        (Some(_), Some(_)) => {
            return Err(Error::usage(
                "both source and target are logs",
                "a log is copied by the tools of its store; a standby of one can publish to the other",
            ));
        }
    }
    match (Location::parse(source)?.there(), Location::parse(target)?.there()) {
        (None, None) => local(source, target, options, transfer, monitor),
        (None, Some(target)) => push(source, &target, options, transfer, ssh, monitor),
        (Some(source), None) => {
            has_no_hooks(options, "a primary on another machine")?;
            pull(&source, target, options, transfer, ssh, monitor)
        }
        (Some(_), Some(_)) => Err(Error::usage(
            "both source and target are on other machines",
            "run snapsync on one of the two",
        )),
    }
}

/// What a round would do, which changes nothing; with `paths` every change. It is made where the primary
/// is.
pub fn plan(
    source: &Path,
    target: &Path,
    options: &Options,
    ssh: &SshOptions,
    paths: bool,
    monitor: &Monitor,
) -> Result<Planned> {
    options.keep.check()?;
    if options.adopt.is_some() {
        return Err(Error::usage(
            "what a copy differs in is found by adopting it, and not by a plan",
            "`snapsync diff TARGET SOURCE` shows it; or leave out --dry-run: what is replaced is kept",
        ));
    }
    if LogAddress::parse(source)?.is_some() || Location::parse(source)?.there().is_some() {
        return Err(Error::usage(
            format!("{} is not a directory of this machine, and only that has a plan", source.display()),
            "a plan is made where the primary is: run this there, with this standby as the target; or leave \
             out --dry-run: guards, --strict and --check refuse a round before it changes its standby",
        ));
    }
    if let Some(log) = LogAddress::parse(target)? {
        let (source, transfer) = (directory::open_directory(source)?, TransferOptions::default());
        let own = Publisher { root: &source, monitor };
        return planned(&source, &mut LogStandby::new(log, own, &transfer, monitor), options, paths, monitor);
    }
    if let Some(target) = Location::parse(target)?.there() {
        return plan_push(source, &target, options, ssh, paths, monitor);
    }
    let source =
        directory::open_directory(source).map_err(|error| known::without_source(source, target, error))?;
    directory::not_inside(target, source.path())?;
    planned(&source, &mut Local::new(target, Some(source.path()), monitor)?, options, paths, monitor)
}

/// A log has the numbers and the names, and no files.
fn finds_no_owners(log: &LogAddress, options: &Options) -> Result<()> {
    if options.owners.is_none() {
        return Ok(());
    }
    Err(Error::usage(
        format!("{log} has no owners to find: its followers do that"),
        "leave out --owners here, and give it where a standby follows the log",
    ))
}

/// Refuses what only a primary can do.
fn only_follows(log: &LogAddress, options: &Options) -> Result<()> {
    has_no_hooks(options, "a log")?;
    let patterns = options.everything || !options.exclude.is_empty() || !options.include.is_empty();
    if options.name.is_none() && options.snap.is_none() && options.history.is_none() && !patterns {
        return options.keep.check();
    }
    Err(Error::usage(
        format!("{log} has the snapshots of its primary, and the newest of them is brought as it is"),
        "leave out --name, --snap, --history and the patterns, or give them where the primary is",
    ))
}

/// Commands run where the volume is, and nobody but its owner there says which.
fn has_no_hooks(options: &Options, what: &str) -> Result<()> {
    if options.hooks.is_empty() && options.taking.is_empty() {
        return Ok(());
    }
    Err(Error::usage(
        format!("the snapshots of {what} are taken there, and no command of this machine is run around them"),
        "leave out --before-snapshot, --after-snapshot and --take here; a job where the primary is can have \
         them, or `snapsync snapshot` there, whose snapshot `sync --snap latest` brings",
    ))
}

fn publish(
    source: &Path,
    log: LogAddress,
    options: &Options,
    transfer: &TransferOptions,
    monitor: &Monitor,
) -> Result<Synced> {
    let source = match Location::parse(source)?.there() {
        None => directory::open_directory(source)?,
        Some(there) => {
            return Err(Error::usage(
                format!("{there} is on another machine, and only its own snapsync can publish it"),
                format!("run `snapsync sync` there, with {log} as its target"),
            ));
        }
    };
    // What a log holds is not read again file by file.
    let options = Options { scrub: Scrubbing::default(), ..options.clone() };
    let root = source.again()?;
    let own = Publisher { root: &root, monitor };
    drive(source, &mut LogStandby::new(log, own, transfer, monitor), &options, Rights::OWNER, monitor)
}

fn local(
    source: &Path,
    target: &Path,
    options: &Options,
    transfer: &TransferOptions,
    monitor: &Monitor,
) -> Result<Synced> {
    let source =
        directory::open_directory(source).map_err(|error| known::without_source(source, target, error))?;
    directory::not_inside(target, source.path())?;
    let mut standby = Local::new(target, Some(source.path()), monitor)?.limited(transfer.limit);
    drive(source, &mut standby, options, Rights::OWNER, monitor)
}
