//! The end that another snapsync starts, over ssh or as an administrator's forced command: it speaks on its standard
//! input and output, and may be kept to one directory and one direction.

use crate::attend::{Pruning, attend};
use crate::digest::Reading;
use crate::join::relay;
use crate::place::{self, Place};
use crate::protocol::{Answer, Request, Wire};
use crate::remote::{Further, Remote};
use crate::rights::Rights;
use crate::roles::{Deed, perform};
use crate::standby::Local;
use crate::sync::drive;
use crate::{Options, Travel, far};
use rustix::event::{PollFd, PollFlags, poll};
use snapsync_model::{Context, Error, Monitor, Result};
use snapsync_stream::{Fate, Link, PATIENCE, Watch};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use uuid::Uuid;

/// What the other end may ask for.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Volumes lie beneath this directory.
    pub restrict_to: Option<PathBuf>,
    /// Volumes are only sent from.
    pub read_only: bool,
    /// Volumes are only received into.
    pub receive_only: bool,
    /// Old snapshots may be deleted, also where anything is restricted.
    pub allow_prune: bool,
}

/// Serves one client, until it is done or gone. The exit code: a failure that the client was told is its to tell.
pub fn serve(gate: &Gate, monitor: &Monitor) -> Result<i32> {
    let [from, to] = standard_streams()?;
    let peer = std::env::var("SSH_CONNECTION").ok().and_then(|c| c.split(' ').next().map(PathBuf::from));
    let peer = peer.unwrap_or_else(|| PathBuf::from("client"));
    let mut wire = Wire::new(from, to, peer, PATIENCE, Fate::default(), monitor)?;
    match wire
        .greet_back()
        .and_then(|()| wire.hear())
        .and_then(|request| answer(&mut wire, request, gate, monitor))
    {
        Ok(()) => Ok(0),
        Err(error) if wire.fail(&error, false) => Ok(error.exit_code()),
        Err(error) => Err(error),
    }
}

fn answer<'a>(wire: &mut Wire<'a>, request: Request, gate: &Gate, monitor: &'a Monitor) -> Result<()> {
    match request {
        Request::Push { target, channels } => push(wire, gate, &target, channels, monitor),
        Request::Pull { source, options, travel, channels } => {
            pull(wire, gate, &source, &options, &travel, channels, monitor)
        }
        Request::Join { volume, token } => {
            let path = place::existing_directory(&gate.admit(&volume)?)?;
            relay(&path.join(snapsync_walk::STORE).join("store"), token, wire, monitor)
        }
        Request::Do { volume, deed } => perform_for(wire, gate, &volume, deed, monitor),
        Request::Digest { place, reading, lineage } => digest(wire, gate, &place, reading, lineage, monitor),
    }
}

fn standard_streams() -> Result<[OwnedFd; 2]> {
    let from = io::stdin().as_fd().try_clone_to_owned().context("open", "standard input")?;
    let to = io::stdout().as_fd().try_clone_to_owned().context("open", "standard output")?;
    Ok([from, to])
}

fn push<'a>(
    wire: &mut Wire<'a>,
    gate: &Gate,
    target: &[u8],
    channels: usize,
    monitor: &'a Monitor,
) -> Result<()> {
    if gate.read_only {
        return Err(forbidden("receives nothing", "--read-only"));
    }
    let named = || {
        let standby = Local::new(&gate.admit(target)?, None, monitor)?;
        gate.is_beneath(&standby.target().path)?;
        Ok(standby)
    };
    let mut standby = if gate.receive_only {
        let called = String::from_utf8_lossy(target).into_owned();
        named().map_err(|_: Error| place::not_own(&called))?.discreet(called)
    } else {
        named()?
    };
    let target = standby.target().path.clone();
    wire.tell(&Answer::Ready)?;
    let pruning = if gate.prunes() { Pruning::AsAsked } else { Pruning::Never };
    attend(wire, &mut standby, Further::wait(channels, &target), pruning, monitor).map(drop)
}

fn pull<'a>(
    wire: &mut Wire<'a>,
    gate: &Gate,
    source: &[u8],
    options: &Options,
    travel: &Travel,
    channels: usize,
    monitor: &'a Monitor,
) -> Result<()> {
    if gate.receive_only {
        return Err(forbidden("sends nothing", "--receive-only"));
    }
    let source = place::existing_directory(&gate.admit(source)?)?;
    gate.is_beneath(&source)?;
    wire.tell(&Answer::Ready)?;
    let link = Arc::clone(wire.link());
    while_wanted(&link, monitor, || {
        let mut standby = Remote::new(wire, travel, Further::wait(channels, &source), monitor);
        let result = drive(&source, &mut standby, options, gate.rights(), monitor);
        result.and_then(|report| standby.done(&report))
    })
}

/// Verifying is reading; but who may only feed standbys learns of nothing but those that are its own.
fn digest(
    wire: &mut Wire<'_>,
    gate: &Gate,
    called: &[u8],
    reading: Reading,
    lineage: Option<Uuid>,
    monitor: &Monitor,
) -> Result<()> {
    let place = gate.admit_place(called);
    let place = if gate.receive_only {
        let is_own = |place: &Place| {
            let volume = place.volume();
            volume.is_ok_and(|volume| volume.is_some_and(|volume| place::is_fed_by(&volume, lineage)))
        };
        let not_own = || place::not_own(&String::from_utf8_lossy(called));
        place.ok().filter(is_own).ok_or_else(not_own)?
    } else {
        place?
    };
    wire.tell(&Answer::Ready)?;
    let link = Arc::clone(wire.link());
    while_wanted(&link, monitor, || far::tell(wire, &place, reading, monitor))
}

/// While it reads a volume it does not listen.
fn while_wanted<T>(link: &Link, monitor: &Monitor, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| notice_the_end(link, monitor, &is_done));
        let _done = AtEnd(&is_done);
        work()
    })
}

/// Says that the work is done, also where it panics.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Whoever may only send or receive may not say who is primary.
fn perform_for(wire: &mut Wire<'_>, gate: &Gate, volume: &[u8], deed: Deed, monitor: &Monitor) -> Result<()> {
    if gate.receive_only || (gate.is_narrow() && !matches!(deed, Deed::Describe)) {
        return Err(Error::refused(
            "this server does not let its clients change roles",
            "run promote, rejoin or switch on that machine, or ask its administrator",
        ));
    }
    let path = gate.admit(volume)?;
    let outcome = while_wanted(wire.link(), monitor, || perform(&path, deed, monitor))?;
    let outcome = if gate.is_narrow() { outcome.without_standbys() } else { outcome };
    wire.tell(&Answer::Did(Box::new(outcome)))
}

/// Stops the work when nobody is at the other end any more.
fn notice_the_end(link: &Link, monitor: &Monitor, is_done: &AtomicBool) {
    let mut watch = Watch::new(link);
    let stdin = io::stdin();
    let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    while !is_done.load(Relaxed) {
        let mut fds = [PollFd::new(&stdin, PollFlags::RDHUP)];
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP;
        match poll(&mut fds, Some(&tick)) {
            Ok(n) if n > 0 && fds[0].revents().intersects(gone) => return monitor.cancel(),
            Ok(_) if watch.is_silent() => return monitor.cancel(),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn forbidden(what: &str, option: &str) -> Error {
    Error::refused(format!("this server {what}: it was started with {option}"), "ask its administrator")
}

impl Gate {
    fn is_narrow(&self) -> bool {
        self.restrict_to.is_some() || self.read_only || self.receive_only
    }

    fn prunes(&self) -> bool {
        !self.is_narrow() || self.allow_prune
    }

    /// What a round may change here, where the primary is.
    fn rights(&self) -> Rights {
        Rights { prunes: self.prunes(), replaces: !self.is_narrow(), only_reads: self.read_only }
    }

    /// The path that a client means, if it may.
    fn admit(&self, text: &[u8]) -> Result<PathBuf> {
        let text = Path::new(OsStr::from_bytes(text));
        let path = match (&self.restrict_to, text.strip_prefix("~")) {
            (Some(root), _) => root.join(text),
            (None, Ok(below)) => home()?.join(below),
            (None, Err(_)) => text.to_path_buf(),
        };
        let climbs = || path.components().any(|part| part == Component::ParentDir);
        if self.restrict_to.is_some() && climbs() {
            return Err(outside(&path));
        }
        let path = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path };
        let real = match (place::resolved(&path), &self.restrict_to) {
            // What is outside must not even tell whether it is there.
            (Err(_), Some(_)) => return Err(outside(&path)),
            (resolved, _) => resolved?,
        };
        self.is_beneath(&real)?;
        Ok(real)
    }

    /// The directory or snapshot that a client means. What it names is looked up in what was admitted only.
    fn admit_place(&self, text: &[u8]) -> Result<Place> {
        let path = self.admit(text);
        match place::split_at_sign(Path::new(OsStr::from_bytes(text))) {
            Some((volume, snapshot)) if !path.as_ref().is_ok_and(|path| path.is_dir()) => {
                Place::snapshot(&self.admit(volume.as_os_str().as_bytes())?, &snapshot)
            }
            _ => place::existing_directory(&path?).map(Place::Directory),
        }
    }

    /// Whether a path without links and `..` may be worked on.
    fn is_beneath(&self, path: &Path) -> Result<()> {
        if path.components().any(|part| part.as_os_str() == snapsync_walk::STORE) {
            return Err(outside(path));
        }
        let Some(root) = &self.restrict_to else { return Ok(()) };
        let root = root.canonicalize().context("find", root)?;
        if path.starts_with(&root) {
            return Ok(());
        }
        Err(outside(path))
    }
}

fn outside(path: &Path) -> Error {
    Error::refused(
        format!("{} is not for this server to work on", path.display()),
        "name a volume beneath what it was restricted to, or ask its administrator",
    )
}

fn home() -> Result<PathBuf> {
    std::env::home_dir().ok_or_else(|| Error::usage("there is no home directory", "write the whole path"))
}
