//! A round with a volume on another machine, where a second snapsync is started over the user's own `ssh`.

use crate::Terms;
use crate::attend::{Wishes, attend, out_of_turn};
use crate::child::Process;
use crate::join::Gathering;
use crate::known::Looked;
use crate::protocol::{Answer, Ask, Request, Wire};
use crate::pulled::Pulled;
use crate::report::Synced;
use crate::retention::Keep;
use crate::rights::Rights;
use crate::roles::{Deed, Outcome};
use crate::scrub::{Piece, Seen};
use crate::secret::Secret;
use crate::staging::{hex, is_cut, with_data, workers};
use crate::standby::{Begun, Data, Local, Offer, Opening, Pending, StandbyEnd, State};
use crate::sync::drive;
use crate::{Options, Travel, trust};
use snapsync_model::{Error, Monitor, Result, SnapshotInfo, printable};
use snapsync_stream::wire::{lift, write_head};
use snapsync_stream::{Arrivals, Fate, Limit, Link, Outlet, PATIENCE, Sent, send};
use snapsync_sys::Spot;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How another machine is reached.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The command that runs another on a host, and its arguments.
    pub rsh: Vec<String>,
    /// What snapsync is called there, as its shell understands it.
    pub remote_path: String,
    /// Each is given as `-o OPTION`.
    pub options: Vec<String>,
    /// How long without a byte from there before it is given up.
    pub patience: Duration,
    pub channels: usize,
}

impl Default for Reach {
    fn default() -> Self {
        Reach {
            rsh: vec!["ssh".into()],
            remote_path: "snapsync".into(),
            options: Vec::new(),
            patience: PATIENCE,
            channels: 1,
        }
    }
}

impl Reach {
    /// What ssh is told beyond its own configuration: the first of two options counts, so that the user's comes first.
    fn ssh_options(&self) -> Vec<String> {
        let mut options = self.options.clone();
        if self.rsh == Reach::default().rsh {
            let seconds = self.patience.as_secs().max(3);
            options.push(format!("ConnectTimeout={seconds}"));
            options.push(format!("ServerAliveInterval={}", seconds / 3));
            options.push("ServerAliveCountMax=3".to_owned());
        }
        options
    }
}

const MOST_CHANNELS: usize = 64;
/// Notes, losses and the like that are taken from one answer.
pub(crate) const MOST_TOLD: usize = 100;
/// Who has failed says so within this time.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// `[user@]host:PATH`: a path with a colon before its first slash.
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) path: Vec<u8>,
}

impl Address {
    /// None for a path on this machine.
    pub(crate) fn parse(text: &Path) -> Result<Option<Address>> {
        let bytes = text.as_os_str().as_bytes();
        is_no_url(text)?;
        let before_slash = bytes.split(|b| *b == b'/').next().unwrap_or_default();
        // An IPv6 address is in brackets.
        let from =
            if before_slash.contains(&b'[') { before_slash.iter().position(|b| *b == b']') } else { Some(0) };
        let colon =
            from.and_then(|from| before_slash[from..].iter().position(|b| *b == b':').map(|at| from + at));
        let Some(colon) = colon else { return Ok(None) };
        let host = String::from_utf8_lossy(&bytes[..colon]).replace(['[', ']'], "");
        if host.is_empty() || host.starts_with('-') {
            let what = format!("{} names no host", text.display());
            return Err(Error::usage(what, "write [user@]host:PATH, or ./PATH for a name with a colon"));
        }
        Ok(Some(Address { host, path: bytes[colon + 1..].to_vec() }))
    }

    pub(crate) fn show(&self) -> String {
        shown(&self.host, &String::from_utf8_lossy(&self.path))
    }
}

/// `host:PATH` as it can be named again: an IPv6 address is in brackets.
fn shown(host: &str, path: &str) -> String {
    match host.rsplit_once('@').map_or(("", host), |(user, host)| (user, host)) {
        (_, address) if !address.contains(':') => format!("{host}:{path}"),
        ("", address) => format!("[{address}]:{path}"),
        (user, address) => format!("{user}@[{address}]:{path}"),
    }
}

/// Other programs take `ssh://[user@]host[:port]/path`, and what is before the first colon is no host then.
fn is_no_url(text: &Path) -> Result<()> {
    let whole = text.to_string_lossy();
    let Some((scheme, rest)) = whole.split_once("://") else { return Ok(()) };
    let is_word = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c));
    if !is_word {
        return Ok(());
    }
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port = place.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let (host, port) =
        port.map_or((place, String::new()), |(host, port)| (host, format!(" with `-o Port={port}`")));
    Err(Error::usage(
        format!("{whole} is no place that snapsync understands"),
        match scheme {
            "ssh" | "sftp" | "scp" => format!("write it as {host}:/{path}{port}"),
            "file" => format!("write the path alone: /{path}"),
            _ => format!("write [user@]host:PATH, or ./{whole} for a directory of that name"),
        },
    ))
}

/// A snapsync on another machine, started for one request.
pub(crate) struct Peer<'a> {
    pub(crate) wire: Wire<'a>,
    /// What it can do beyond the protocol's first version.
    pub(crate) features: Vec<String>,
    child: Process,
}

impl<'a> Peer<'a> {
    pub(crate) fn start(host: &str, reach: &Reach, monitor: &'a Monitor) -> Result<Peer<'a>> {
        Peer::start_with(host, reach, Fate::default(), monitor)
    }

    fn start_with(host: &str, reach: &Reach, fate: Fate, monitor: &'a Monitor) -> Result<Peer<'a>> {
        let (program, arguments) = reach
            .rsh
            .split_first()
            .ok_or_else(|| Error::usage("--rsh names no command", "use --rsh ssh, or leave it out"))?;
        let options = reach.ssh_options();
        trust::files_named_in(arguments)?;
        trust::files_named_in(&options)?;
        let options = options.iter().flat_map(|option| ["-o", option]);
        let mut command = Command::new(trust::program(program)?);
        command
            .arg0(program)
            .args(arguments)
            .args(options)
            .arg(host)
            .arg(format!("{} serve", reach.remote_path));
        let (child, to, from) = Process::start(command, host)?;
        let wire = Wire::new(from, to, PathBuf::from(host), reach.patience, fate, monitor)?;
        let mut peer = Peer { wire, features: Vec::new(), child };
        match peer.wire.greet() {
            Ok(hello) => Ok(Peer { features: hello.features, ..peer }),
            Err(Error::Cut { .. }) if peer.has_ended() => Err(peer.did_not_start(program, reach, monitor)),
            Err(other) => Err(other),
        }
    }

    /// It is gone by itself, and not given up.
    fn has_ended(&self) -> bool {
        !self.wire.link().is_gone()
    }

    fn did_not_start(&mut self, program: &str, reach: &Reach, monitor: &Monitor) -> Error {
        let host = self.wire.peer.display();
        match self.child.wait(monitor) {
            Some(255) => Error::failed(
                format!("cannot connect to {host}"),
                format!("see what {program} said, and try `{program} {host} true`"),
            ),
            code => Error::failed(
                format!(
                    "`{} serve` does not start on {host} (exit code {})",
                    reach.remote_path,
                    code.map_or("none".to_owned(), |code| code.to_string())
                ),
                "install snapsync there, or say where it is with --remote-path",
            ),
        }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Result<()> {
        self.wire.tell(request)?;
        match self.wire.hear_answer()? {
            Answer::Ready => Ok(()),
            _ => Err(out_of_turn(&self.wire)),
        }
    }

    /// Lets it end by itself after a round that is done.
    pub(crate) fn end(self, monitor: &Monitor) {
        let Peer { child, wire, .. } = self;
        drop(wire);
        let _ = child.wait(monitor);
    }

    /// Another channel to the round that `token` is of.
    fn join(
        address: &Address,
        reach: &Reach,
        token: Uuid,
        fate: Fate,
        monitor: &'a Monitor,
    ) -> Result<Peer<'a>> {
        let mut peer = Peer::start_with(&address.host, reach, fate, monitor)?;
        peer.ask(&Request::Join { volume: address.path.clone(), token })?;
        Ok(peer)
    }
}

/// Further channels of a round.
pub(crate) enum Further<'f, 'a> {
    /// The other end opens them, and they come in at the store of the volume here.
    Wait { count: usize, gathering: Option<Gathering> },
    /// This end starts a process for each.
    Open { address: &'f Address, reach: &'f Reach, peers: Vec<Peer<'a>> },
}

impl<'a> Further<'_, 'a> {
    pub(crate) fn wait(channels: usize) -> Further<'static, 'a> {
        Further::Wait { count: channels.clamp(1, MOST_CHANNELS) - 1, gathering: None }
    }

    /// Where they come in, if they come in here.
    pub(crate) fn announce(&mut self, store: Option<Spot>) -> Result<Option<Uuid>> {
        let Further::Wait { count: count @ 1.., gathering } = self else { return Ok(None) };
        let Some(store) = store else { return Ok(None) };
        let waiting = gathering.insert(Gathering::new(&store, *count)?);
        Ok(Some(waiting.token()))
    }

    /// Opens them where the other end waits.
    pub(crate) fn open(&mut self, token: Option<Uuid>, first: &Link, monitor: &'a Monitor) -> Result<()> {
        if let (Further::Open { address, reach, peers }, Some(token)) = (self, token) {
            for _ in 1..reach.channels {
                peers.push(Peer::join(address, reach, token, first.fate(), monitor)?);
            }
        }
        Ok(())
    }

    pub(crate) fn arrivals(&mut self, name: &Path, monitor: &'a Monitor) -> Result<Vec<Arrivals<'_>>> {
        match self {
            Further::Wait { gathering: Some(gathering), .. } => gathering.arrivals(name, monitor),
            Further::Wait { .. } => Ok(Vec::new()),
            Further::Open { peers, .. } => Ok(peers.iter_mut().map(|peer| peer.wire.arrivals()).collect()),
        }
    }

    fn outlets(
        &mut self,
        name: &Path,
        limit: Option<&Arc<Limit>>,
        monitor: &'a Monitor,
    ) -> Result<Vec<Outlet<'_>>> {
        match self {
            Further::Wait { gathering: Some(gathering), .. } => gathering.outlets(name, limit, monitor),
            Further::Wait { .. } => Ok(Vec::new()),
            Further::Open { peers, .. } => Ok(peers.iter_mut().map(|peer| peer.wire.outlet(limit)).collect()),
        }
    }
}

/// Has the snapsync on another machine do something with a volume there.
pub(crate) fn perform_there(
    address: &Address,
    deed: Deed,
    reach: &Reach,
    monitor: &Monitor,
) -> Result<Outcome> {
    let mut peer = Peer::start(&address.host, reach, monitor)?;
    peer.wire.tell(&Request::Do { volume: address.path.clone(), deed })?;
    match peer.wire.hear_answer()? {
        Answer::Did(outcome) => {
            peer.end(monitor);
            Ok(*outcome)
        }
        _ => Err(out_of_turn(&peer.wire)),
    }
}

/// Brings the standby at `target` in step with the primary here.
pub(crate) fn push(
    source: &Path,
    target: &Address,
    options: &Options,
    travel: &Travel,
    reach: &Reach,
    monitor: &Monitor,
) -> Result<Synced> {
    let source = crate::place::open_directory(source)?;
    let mut peer = Peer::start(&target.host, reach, monitor)?;
    peer.ask(&Request::Push { target: target.path.clone(), channels: reach.channels })?;
    let further = Further::Open { address: target, reach, peers: Vec::new() };
    let mut standby = Remote::new(&mut peer.wire, travel, further, monitor);
    let report = drive(source, &mut standby, options, Rights::OWNER, monitor)?;
    standby.done(&report)?;
    peer.end(monitor);
    Ok(report)
}

/// Brings the standby here in step with the primary at `source`.
pub(crate) fn pull(
    source: &Address,
    target: &Path,
    options: &Options,
    travel: &Travel,
    reach: &Reach,
    monitor: &Monitor,
) -> Result<Synced> {
    let started = Instant::now();
    let mut standby = Local::new(target, None, monitor)?;
    let mut peer = Peer::start(&source.host, reach, monitor)?;
    let (theirs, travel, channels) = (options.clone(), travel.clone(), reach.channels);
    peer.ask(&Request::Pull { source: source.path.clone(), options: theirs, travel, channels })?;
    let further = Further::Open { address: source, reach, peers: Vec::new() };
    let attended = attend(&mut peer.wire, &mut standby, further, Wishes::Own(options), monitor);
    if attended.as_ref().err().is_none_or(|error| !is_cut(error)) {
        // After a failure, too: it takes away what was for this round alone.
        peer.end(monitor);
    }
    let (seen, report) = attended?;
    let (host, report) = (Path::new(&source.host), &*report);
    let named = options.snap.as_ref().and_then(|snap| standby.find(snap));
    Pulled { seen, report, source: source.show(), host, options, named, started }.report(monitor)
}

/// A standby at the other end of a channel.
pub(crate) struct Remote<'w, 'a> {
    wire: &'w mut Wire<'a>,
    travel: &'w Travel,
    further: Further<'w, 'a>,
    monitor: &'a Monitor,
    limit: Option<Arc<Limit>>,
    pending: Option<Pending>,
    /// Frames are under way: no message can be put between them.
    is_sending: bool,
    /// What it answers may be a lie, and the snapshot be there.
    has_asked_to_commit: bool,
}

impl<'w, 'a> Remote<'w, 'a> {
    pub(crate) fn new(
        wire: &'w mut Wire<'a>,
        travel: &'w Travel,
        further: Further<'w, 'a>,
        monitor: &'a Monitor,
    ) -> Remote<'w, 'a> {
        Remote {
            wire,
            travel,
            further,
            monitor,
            limit: travel.limit.map(Limit::new),
            pending: None,
            is_sending: false,
            has_asked_to_commit: false,
        }
    }

    fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        self.wire.tell(ask)?;
        self.wire.hear_answer()
    }

    /// Ends the round with its report, which the other end may need.
    pub(crate) fn done(&mut self, report: &Synced) -> Result<()> {
        let report = serde_json::value::to_raw_value(report)
            .map_err(|e| Error::failed(format!("cannot tell the report: {e}"), ""))?;
        self.wire.tell(&Ask::Done { report })
    }

    fn there(&self, path: &str) -> String {
        shown(&self.wire.peer.to_string_lossy(), path)
    }

    fn offer(&mut self, offer: &Offer<'_>) -> Result<()> {
        let has_manifest = self.pending.as_ref().is_some_and(|pending| {
            pending.snapshot == offer.header.snapshot.id
                && pending.base == offer.header.base.map(|base| base.id)
                && pending.manifest == hex(&offer.manifest.digest)
        });
        let Terms { strict, no_space_check } = offer.terms;
        let spare = offer.spare.clone().filter(|spare| !spare.keep.is_empty());
        self.wire.tell(&Ask::Begin { strict, has_manifest, no_space_check, spare })?;
        self.wire.to.get_mut().limit(self.limit.as_ref());
        let to = &mut self.wire.to;
        let mut put = || {
            write_head(to, offer.header)?;
            to.write_all(&offer.manifest.to_bytes())?;
            if !has_manifest {
                std::io::copy(&mut offer.file.open()?, to)?;
            }
            to.flush()
        };
        put().map_err(|e| lift(e, "write to", &self.wire.peer))
    }

    /// The other end may have said why it is gone.
    fn explained(&mut self, error: Error) -> Error {
        match error {
            // It may also wait for what does not come any more: this end is not to wait for it in turn.
            Error::Cut { .. } => {
                self.wire.from.get_mut().hurry(LAST_WORDS);
                match self.wire.hear_answer() {
                    Err(told) if self.wire.is_needed.is_some() => told,
                    _ => error,
                }
            }
            other => other,
        }
    }
}

impl StandbyEnd for Remote<'_, '_> {
    fn look(&mut self, lineage: Option<Uuid>) -> Result<Looked> {
        match self.ask(&Ask::Look { lineage })? {
            Answer::Looked(looked) => Ok(Looked { path: self.there(&looked.path), ..looked }.bounded()),
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn open(&mut self, opening: Opening) -> Result<State> {
        let Opening { lineage, epoch, promotions, care, store } = opening;
        let join = self.further.announce(store)?;
        match self.ask(&Ask::Open { lineage, epoch, promotions, join, care })? {
            Answer::Opened(mut state) => {
                self.further.open(state.join, self.wire.link(), self.monitor)?;
                state.volume.path = self.there(&state.volume.path.to_string_lossy()).into();
                state.recovered.truncate(MOST_TOLD);
                self.pending.clone_from(&state.pending);
                Ok(*state)
            }
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn begin(&mut self, offer: Offer<'_>) -> Result<Begun> {
        self.has_asked_to_commit = false;
        let offered = self.offer(&offer);
        offered.map_err(|e| self.explained(e))?;
        match self.wire.hear_answer()? {
            Answer::Begun(mut begun) => {
                begun.losses.truncate(MOST_TOLD);
                begun.pruned.truncate(MOST_TOLD);
                Ok(*begun)
            }
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn transfer(&mut self, data: Data<'_>) -> Result<Sent> {
        self.is_sending = true;
        let rows = with_data(data.manifest)?;
        let peer = self.wire.peer.clone();
        let mut outlets = vec![self.wire.outlet(self.limit.as_ref())];
        outlets.extend(self.further.outlets(&peer, self.limit.as_ref(), self.monitor)?);
        let (side, held, seed) = (data.side, data.held, data.seed);
        let compression = self.travel.compression;
        let sent = send(rows, side, held, seed, outlets, compression, workers(), self.monitor);
        let sent = sent.map_err(|e| self.explained(e))?;
        self.is_sending = false;
        Ok(sent)
    }

    fn commit(&mut self) -> Result<SnapshotInfo> {
        self.has_asked_to_commit = true;
        match self.ask(&Ask::Commit)? {
            Answer::Committed { snapshot, notes } => {
                let whom = self.wire.peer.display();
                notes
                    .into_iter()
                    .take(MOST_TOLD)
                    .for_each(|note| self.monitor.note(format!("{whom}: {note}")));
                Ok(*snapshot)
            }
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn keep_secret(&mut self, secret: &Secret) -> Result<()> {
        match self.ask(&Ask::Secret { secret: secret.clone() })? {
            Answer::Kept => Ok(()),
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn scrub(&mut self, pieces: &[Piece], meanwhile: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Seen>> {
        self.wire.tell(&Ask::Scrub { pieces: pieces.to_vec() })?;
        meanwhile()?;
        match self.wire.hear_answer()? {
            Answer::Scrubbed(seen) if seen.len() == pieces.len() => Ok(seen),
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn prune(&mut self, keep: &Keep, needed: &[Uuid]) -> Result<Vec<SnapshotInfo>> {
        match self.ask(&Ask::Prune { keep: keep.clone(), needed: needed.to_vec() })? {
            Answer::Pruned(mut pruned) => {
                pruned.truncate(MOST_TOLD);
                Ok(pruned)
            }
            Answer::Unpruned(failure) => Err(failure.into_error(&self.wire.peer)),
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn tells(&self) -> Option<String> {
        Some(printable(&self.wire.peer.to_string_lossy()).into_owned())
    }

    fn failed(&mut self, error: &Error, _snapshot: Uuid) -> bool {
        if !self.is_sending {
            self.wire.fail(error, false);
        }
        // Where it has not said: it may have a part of it, or have been about to make it when it was heard of last.
        let may_be = self.has_asked_to_commit || (self.is_sending && is_cut(error));
        self.wire.is_needed.unwrap_or(may_be)
    }
}
