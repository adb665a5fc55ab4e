//! Runs a round with a volume on another machine.

use crate::delta::staging::is_cut;
use crate::location::text::Address;
use crate::options::{Options, SshOptions, TransferOptions};
use crate::remote::channels::Channels;
use crate::remote::messages::{ADOPT, FORESEE, OWNERS, Request};
use crate::remote::pulled::Pulled;
use crate::remote::ssh::Peer;
use crate::remote::standby_client::Remote;
use crate::remote::standby_server::{RoundOptions, serve_standby};
use crate::report::rounds::{Planned, Synced};
use crate::round::plan::plan;
use crate::round::primary::drive;
use crate::round::rights::Rights;
use crate::round::standby::Local;
use crate::round::steps::StandbyEnd;
use snapsync_model::{Error, Monitor, Result};
use snapsync_snapshot::Volume;
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

/// Brings the standby at `target` in step with the primary here.
pub(crate) fn push(
    source: &Path,
    target: &Address,
    options: &Options,
    transfer: &TransferOptions,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<Synced> {
    let source = crate::location::directory::open_directory(source)?;
    let mut peer = Peer::start(target, ssh, monitor)?;
    can_do(&peer, options)?;
    if Volume::find_in(source.again()?)?.is_some_and(|volume| volume.accounts().is_some()) {
        peer.expect(OWNERS, "tell owners by name")?;
    }
    peer.ask(&Request::Push { target: target.path.clone(), channels: ssh.channels })?;
    let channels = Channels::Open { address: target, ssh, peers: Vec::new() };
    let mut standby = Remote::new(&mut peer.wire, transfer, channels, monitor);
    let report = drive(source, &mut standby, options, Rights::OWNER, monitor)?;
    standby.done(&report)?;
    peer.end(monitor);
    Ok(report)
}

/// Whether the other end is new enough for what is asked for.
fn can_do(peer: &Peer<'_>, options: &Options) -> Result<()> {
    if options.adopt.is_some() {
        peer.expect(ADOPT, "adopt a copy")?;
    }
    if options.owners.is_some() { peer.expect(OWNERS, "tell owners by name") } else { Ok(()) }
}

/// What a round to the standby at `target` would do.
pub(crate) fn plan_push(
    source: &Path,
    target: &Address,
    options: &Options,
    ssh: &SshOptions,
    paths: bool,
    monitor: &Monitor,
) -> Result<Planned> {
    let source = crate::location::directory::open_directory(source)?;
    let mut peer = Peer::start(target, ssh, monitor)?;
    can_do(&peer, options)?;
    peer.ask(&Request::Push { target: target.path.clone(), channels: 1 })?;
    let channels = Channels::Open { address: target, ssh, peers: Vec::new() };
    let transfer = TransferOptions::default();
    let foresees = peer.has(FORESEE);
    let remote = Remote::new(&mut peer.wire, &transfer, channels, monitor);
    let mut standby = remote.foreseeing(foresees);
    let planned = plan(&source, &mut standby, options, paths, monitor);
    // The other end waits for the round.
    let enough = Error::refused("only a plan was asked for", "");
    standby.failed(planned.as_ref().err().unwrap_or(&enough), Uuid::nil());
    planned
}

/// Brings the standby here in step with the primary at `source`.
pub(crate) fn pull(
    source: &Address,
    target: &Path,
    options: &Options,
    transfer: &TransferOptions,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<Synced> {
    let started = Instant::now();
    let mut standby = Local::new(target, None, monitor)?;
    let mut peer = Peer::start(source, ssh, monitor)?;
    can_do(&peer, options)?;
    let (theirs, transfer, channels) = (Box::new(options.clone()), transfer.clone(), ssh.channels);
    peer.ask(&Request::Pull { source: source.path.clone(), options: theirs, transfer, channels })?;
    let channels = Channels::Open { address: source, ssh, peers: Vec::new() };
    let served = serve_standby(&mut peer.wire, &mut standby, channels, RoundOptions::Own(options), monitor);
    if served.as_ref().err().is_none_or(|error| !is_cut(error)) {
        // This is done after a failure too, because the other end removes temporary files.
        peer.end(monitor);
    }
    let (seen, report) = served?;
    let (host, report) = (&source.host.to_string(), &*report);
    let named = options.snap.as_ref().and_then(|snap| standby.find(snap));
    Pulled { seen, report, source: source.to_string(), host: Path::new(host), options, named, started }
        .report(monitor)
}
