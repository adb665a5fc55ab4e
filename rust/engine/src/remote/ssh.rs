//! Starts a second snapsync on another machine over the user's own `ssh`.

use crate::location::text::{Address, Host};
use crate::options::SshOptions;
use crate::process::trust;
use crate::remote::child::Process;
use crate::remote::messages::{Answer, Request};
use crate::remote::ssh_config::options_for;
use crate::remote::wire::{Wire, out_of_turn};
use snapsync_model::{Error, Monitor, Result, printable_within};
use snapsync_stream::Fate;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use uuid::Uuid;

pub(super) const MOST_CHANNELS: usize = 64;
/// The bytes that are shown of the name of its software.
const SHOWN: usize = 100;

/// A snapsync on another machine that was started for one request.
pub(crate) struct Peer<'a> {
    pub(crate) wire: Wire<'a>,
    /// Its features beyond the first version of the protocol.
    features: Vec<String>,
    software: String,
    child: Process,
}

impl<'a> Peer<'a> {
    pub(crate) fn start(address: &Address, ssh: &SshOptions, monitor: &'a Monitor) -> Result<Peer<'a>> {
        Peer::start_with(address, ssh, Fate::default(), monitor)
    }

    fn start_with(address: &Address, ssh: &SshOptions, fate: Fate, monitor: &'a Monitor) -> Result<Peer<'a>> {
        let (program, arguments) = ssh
            .rsh
            .split_first()
            .ok_or_else(|| Error::usage("--rsh names no command", "use --rsh ssh, or leave it out"))?;
        trust::files_named_in(arguments)?;
        trust::files_named_in(&ssh.options)?;
        let path = trust::program(program)?;
        let options = options_for(ssh, &path, &address.host.for_ssh());
        let options = options.iter().flat_map(|option| ["-o", option]);
        let mut command = Command::new(path);
        command
            .arg0(program)
            .args(arguments)
            .args(options)
            .arg(address.host.for_ssh())
            .arg(format!("{} serve", ssh.remote_path));
        let host = address.host.to_string();
        let (child, to, from) = Process::start(command, &host)?;
        let mut wire = Wire::new(from, to, host.into(), ssh.patience, fate, monitor)?;
        OsStr::from_bytes(&address.path).clone_into(wire.about.as_mut_os_string());
        let mut peer = Peer { wire, features: Vec::new(), software: String::new(), child };
        match peer.wire.greet() {
            Ok(hello) => Ok(Peer { features: hello.features, software: hello.software, ..peer }),
            Err(Error::Cut { .. }) if peer.has_ended() => {
                Err(peer.did_not_start(&address.host, ssh, monitor))
            }
            Err(other) => Err(other),
        }
    }

    /// Whether it ended by itself and was not given up.
    fn has_ended(&self) -> bool {
        !self.wire.link().is_gone()
    }

    fn did_not_start(&mut self, host: &Host, ssh: &SshOptions, monitor: &Monitor) -> Error {
        match self.child.wait(monitor) {
            Some(255) => Error::failed(
                format!("cannot connect to {host}"),
                format!("see what {} said, and try `{}`", ssh.rsh[0], by_hand(host, ssh)),
            ),
            code => Error::failed(
                format!(
                    "`{} serve` does not start on {host} (exit code {})",
                    ssh.remote_path,
                    code.map_or("none".to_owned(), |code| code.to_string())
                ),
                "install snapsync there, or say where it is with --remote-path",
            ),
        }
    }

    pub(crate) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }

    /// Fails if the snapsync there lacks a feature, without which it cannot do `what`.
    pub(crate) fn expect(&self, feature: &str, what: &str) -> Result<()> {
        if self.has(feature) {
            return Ok(());
        }
        let (host, theirs) = (self.wire.peer.display(), printable_within(&self.software, SHOWN));
        let ours = snapsync_stream::wire::software();
        Err(Error::failed(
            format!("{host} runs {theirs}, which cannot {what} as {ours} here asks for it"),
            format!("install the version of this machine on {host}, or run the command there"),
        ))
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

    /// Opens another channel of the round with this `token`.
    pub(super) fn join(
        address: &Address,
        ssh: &SshOptions,
        token: Uuid,
        fate: Fate,
        monitor: &'a Monitor,
    ) -> Result<Peer<'a>> {
        let mut peer = Peer::start_with(address, ssh, fate, monitor)?;
        peer.ask(&Request::Join { volume: address.path.clone(), token })?;
        Ok(peer)
    }
}

/// What reaches that host without snapsync, for a shell.
fn by_hand(host: &Host, ssh: &SshOptions) -> String {
    let host = host.for_ssh();
    let options = ssh.options.iter().flat_map(|option| ["-o", option]);
    let words = ssh.rsh.iter().map(String::as_str).chain(options).chain([host.as_str(), "true"]);
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "%+,-./:=@_~[]".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''")).into()
}
