//! The server that another snapsync starts, over ssh or as an administrator's forced command. It speaks on
//! standard input and output, and may be restricted to one directory and one direction.

use crate::digest::Reading;
use crate::location::beneath::Admission;
use crate::location::place::Place;
use crate::location::text::Host;
use crate::options::{Options, TransferOptions};
use crate::remote::answered::{self, Asked, Verbs};
use crate::remote::channels::Channels;
use crate::remote::digests;
use crate::remote::fetched;
use crate::remote::gate::{Gate, forbidden};
use crate::remote::messages::{Answer, Request};
use crate::remote::relay::{nobody_waits, relay};
use crate::remote::standby_client::Remote;
use crate::remote::standby_server::{RoundOptions, serve_standby};
use crate::remote::wire::Wire;
use crate::round::primary::drive;
use crate::round::rights::Rights;
use crate::round::standby::Local;
use crate::volume::roles::{RoleRequest, perform_in};
use crate::volume::standing;
use rustix::event::{PollFd, PollFlags, poll};
use snapsync_model::{Context, Error, Monitor, Result};
use snapsync_snapshot::Volume;
use snapsync_stream::{Connection, Fate, PATIENCE, Watch};
use snapsync_sys::Root;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use uuid::Uuid;

/// Serves one client until it is done or gone, and returns the exit code. The client itself reports a failure
/// that it was told.
pub(crate) fn serve(gate: &Gate, verbs: Verbs, monitor: &Monitor) -> Result<i32> {
    let [from, to] = standard_streams()?;
    let address = std::env::var("SSH_CONNECTION").ok();
    let address = address.as_deref().and_then(|connection| connection.split(' ').next());
    let peer = Host::called(address.unwrap_or("client")).to_string().into();
    let wire = Wire::new(from, to, peer, PATIENCE, Fate::default(), monitor)?;
    // This happens before the client can say anything.
    let admission = Admission::new(gate.restrict_to.as_deref());
    serve_over(wire, gate, admission, verbs, monitor)
}

/// The same over any channel.
pub(crate) fn serve_over<'a>(
    mut wire: Wire<'a>,
    gate: &Gate,
    admission: Result<Admission>,
    verbs: Verbs,
    monitor: &'a Monitor,
) -> Result<i32> {
    let heard = wire.greet_back().and_then(|()| wire.hear());
    match heard.and_then(|request| answer(&mut wire, request, gate, (&admission?, verbs), monitor)) {
        Ok(()) => Ok(0),
        Err(error) if wire.fail(&error, false) => Ok(error.exit_code()),
        Err(error) => Err(error),
    }
}

fn answer<'a>(
    wire: &mut Wire<'a>,
    request: Request,
    gate: &Gate,
    (admission, verbs): (&Admission, Verbs),
    monitor: &'a Monitor,
) -> Result<()> {
    match request {
        Request::Push { .. } if gate.read_only => Err(forbidden("receives nothing", "--read-only")),
        Request::Push { target, channels } => {
            let standby = standby(gate, admission, &target, monitor)?;
            push(wire, gate, standby, channels, monitor)
        }
        Request::Pull { .. } if gate.receive_only => Err(forbidden("sends nothing", "--receive-only")),
        Request::Pull { source, options, transfer, channels } => {
            let source = admission.directory(&source)?;
            pull(wire, source, gate.rights(), &options, &transfer, channels, monitor)
        }
        Request::Join { volume, token } => {
            let volume =
                admission.directory(&volume).and_then(Volume::open_in).map_err(|_| nobody_waits())?;
            relay(&volume.store(), token, wire, monitor)
        }
        // A client that may only send or receive may not change roles.
        Request::Do { request, .. }
            if gate.receive_only || (gate.is_narrow() && !matches!(request, RoleRequest::Describe)) =>
        {
            Err(Error::refused(
                "this server does not let its clients change roles",
                "run promote, rejoin or switch on that machine, or ask its administrator",
            ))
        }
        Request::Do { volume, request } => {
            perform_for(wire, gate, admission.directory(&volume)?, request, monitor)
        }
        Request::Digest { place: called, reading, lineage } => {
            let place = read_place(gate, admission, &called, lineage)?;
            digest(wire, (&place, lineage), reading, monitor)
        }
        Request::Fetch { .. } if gate.receive_only => Err(forbidden("sends nothing", "--receive-only")),
        Request::Fetch { place, lineage, paths } => {
            let place = admission.place(&place)?;
            let link = Arc::clone(wire.link());
            while_wanted(&link, monitor, || fetched::send(wire, place, lineage, &paths, monitor))
        }
        Request::Question { place, question } => {
            answered::admit(&question, gate)?;
            let dir = snapsync_sys::scratch()?;
            let manifest = &dir.path().join("manifest.arrow");
            let (place, is_narrow) = (&*place, gate.is_narrow());
            let asked = Asked { admission, place, question, is_narrow, manifest };
            let report = while_wanted(wire.link(), monitor, || verbs(asked, monitor))?;
            answered::tell(wire, &report, manifest)
        }
    }
}

fn standard_streams() -> Result<[OwnedFd; 2]> {
    let from = io::stdin().as_fd().try_clone_to_owned().context("open", "standard input")?;
    let to = io::stdout().as_fd().try_clone_to_owned().context("open", "standard output")?;
    Ok([from, to])
}

/// The place of a client's standby.
fn standby<'a>(gate: &Gate, admission: &Admission, target: &[u8], monitor: &'a Monitor) -> Result<Local<'a>> {
    let found = admission.target(target).map(|target| Local::at(target, monitor).adopting(gate.adopts()));
    if !gate.receive_only {
        return found;
    }
    let called = String::from_utf8_lossy(target).into_owned();
    found.map_err(|_| standing::not_own(&called)).map(|standby| standby.discreet(called))
}

fn push<'a>(
    wire: &mut Wire<'a>,
    gate: &Gate,
    mut standby: Local<'a>,
    channels: usize,
    monitor: &'a Monitor,
) -> Result<()> {
    wire.tell(&Answer::Ready)?;
    let options = RoundOptions::Asked { prunes: gate.prunes() };
    serve_standby(wire, &mut standby, Channels::wait(channels), options, monitor).map(drop)
}

fn pull<'a>(
    wire: &mut Wire<'a>,
    source: Root,
    rights: Rights,
    options: &Options,
    transfer: &TransferOptions,
    channels: usize,
    monitor: &'a Monitor,
) -> Result<()> {
    wire.tell(&Answer::Ready)?;
    let link = Arc::clone(wire.link());
    while_wanted(&link, monitor, || {
        let mut standby = Remote::new(wire, transfer, Channels::wait(channels), monitor);
        let result = drive(source, &mut standby, options, rights, monitor);
        result.and_then(|report| standby.done(&report))
    })
}

/// Verifying only reads, but a client that may only feed standbys must not learn about any but its own.
fn read_place(gate: &Gate, admission: &Admission, called: &[u8], lineage: Option<Uuid>) -> Result<Place> {
    let place = admission.place(called);
    if !gate.receive_only {
        return place;
    }
    let is_own = |place: &Place| {
        let volume = place.volume();
        volume.is_ok_and(|volume| volume.is_some_and(|volume| standing::is_fed_by(&volume, lineage)))
    };
    place.ok().filter(is_own).ok_or_else(|| standing::not_own(&String::from_utf8_lossy(called)))
}

fn digest(
    wire: &mut Wire<'_>,
    (place, lineage): (&Place, Option<Uuid>),
    reading: Reading,
    monitor: &Monitor,
) -> Result<()> {
    wire.tell(&Answer::Ready)?;
    let link = Arc::clone(wire.link());
    while_wanted(&link, monitor, || digests::tell(wire, place, lineage, reading, monitor))
}

/// While it reads a volume it does not listen to the client.
fn while_wanted<T>(link: &Connection, monitor: &Monitor, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (done, working) = io::pipe().context("talk to", "client")?;
    std::thread::scope(|scope| {
        scope.spawn(move || notice_the_end(link, monitor, &done));
        // It is closed when the work is done, even by a panic.
        let _working = working;
        work()
    })
}

fn perform_for(
    wire: &mut Wire<'_>,
    gate: &Gate,
    volume: Root,
    request: RoleRequest,
    monitor: &Monitor,
) -> Result<()> {
    let outcome = while_wanted(wire.link(), monitor, || perform_in(volume, request, monitor))?;
    let outcome = if gate.is_narrow() { outcome.without_standbys() } else { outcome };
    wire.tell(&Answer::Did(Box::new(outcome)))
}

/// Stops the work when the other end is gone.
fn notice_the_end(link: &Connection, monitor: &Monitor, done: &io::PipeReader) {
    let mut watch = Watch::new(link);
    let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP;
    loop {
        let mut fds = [PollFd::new(link, PollFlags::RDHUP), PollFd::new(done, PollFlags::empty())];
        match poll(&mut fds, Some(&tick)) {
            Ok(_) if fds[1].revents().intersects(gone) => return,
            Ok(_) if fds[0].revents().intersects(gone) || watch.is_silent() => return monitor.cancel(),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
