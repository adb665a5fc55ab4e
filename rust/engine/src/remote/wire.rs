//! A channel for messages, and the greeting of both ends.

use crate::delta::incoming::{BUFFER, nonsense};
use crate::remote::messages::{
    ADOPT, Answer, DIGEST, FETCH, FORESEE, Failure, Hello, LONGEST, Message, OWNERS, Request,
};
use crate::remote::question::QUESTION;
use crate::remote::screen::screened;
use serde::Serialize;
use snapsync_model::{Context, Error, Monitor, Result, printable_within};
use snapsync_stream::wire::{fill, lift};
use snapsync_stream::{Arrivals, Channel, Connection, Fate, Heart, Limit, Outlet};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The first bytes from either end, so that no other output of a remote shell is taken for an answer. The
/// protocol number and the end of the line follow.
const GREETING: &[u8] = b"snapsync protocol ";
const VERSION: u32 = 3;
/// The last version of the protocol whose messages are not in packets.
const WITHOUT_PACKETS: u32 = 1;

/// The bytes that are shown of something that is not a greeting.
const SHOWN: usize = 100;

fn hello(patience: Option<u64>) -> Hello {
    Hello {
        software: snapsync_stream::wire::software(),
        features: [ADOPT, DIGEST, FETCH, FORESEE, OWNERS, QUESTION].map(str::to_owned).to_vec(),
        patience,
    }
}

/// A channel for messages and deltas.
pub(crate) struct Wire<'a> {
    pub(crate) from: BufReader<Channel<'a>>,
    pub(crate) to: BufWriter<Channel<'a>>,
    /// The name of the other end for messages.
    pub(crate) peer: PathBuf,
    /// What it was asked to work on, as it is called there.
    pub(crate) about: PathBuf,
    has_failed: bool,
    /// What the other end said about the snapshot when it failed.
    pub(crate) is_needed: Option<bool>,
    /// Ends after both directions.
    heart: Heart,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(
        from: impl Into<OwnedFd>,
        to: impl Into<OwnedFd>,
        peer: PathBuf,
        patience: Duration,
        fate: Fate,
        monitor: &'a Monitor,
    ) -> Result<Wire<'a>> {
        let (from, to) = (from.into(), to.into());
        let name = peer.to_string_lossy().into_owned();
        let heart = Heart::new(from.as_fd(), to.as_fd(), name, patience, fate).context("talk to", &peer)?;
        let channel = |fd: OwnedFd| Channel::of(heart.link(), fd, monitor).context("talk to", &peer);
        Ok(Wire {
            from: BufReader::with_capacity(BUFFER, channel(from)?),
            to: BufWriter::with_capacity(BUFFER, channel(to)?),
            peer,
            about: PathBuf::new(),
            has_failed: false,
            is_needed: None,
            heart,
        })
    }

    pub(crate) fn link(&self) -> &Arc<Connection> {
        self.heart.link()
    }

    /// Reports a failure once; returns whether the other end was told.
    pub(crate) fn fail(&mut self, error: &Error, needed: bool) -> bool {
        if !self.has_failed {
            // If the other end has failed itself or is gone, nobody listens.
            self.has_failed = self.tell(&Answer::Failed(Failure::of(error, needed))).is_ok();
        }
        self.has_failed
    }

    /// The channel on which frames arrive.
    pub(crate) fn arrivals(&mut self) -> Arrivals<'_> {
        Arrivals { from: Box::new(&mut self.from), name: self.peer.clone() }
    }

    /// The channel on which frames are sent.
    pub(crate) fn outlet(&mut self, limit: Option<&Arc<Limit>>) -> Outlet<'_> {
        self.to.get_mut().limit(limit);
        Outlet { to: Box::new(&mut self.to), name: self.peer.clone() }
    }

    /// Exchanges the greetings; the end that started the other is first.
    pub(crate) fn greet(&mut self) -> Result<Hello> {
        self.say_version(VERSION)?;
        let version = self.hear_version()?;
        if version != VERSION {
            return Err(self.speaks_another(version));
        }
        self.link().speak_in_packets();
        self.tell(&hello(Some(self.link().patience().as_secs())))?;
        self.hear()
    }

    pub(crate) fn greet_back(&mut self) -> Result<()> {
        let version = self.hear_version()?;
        self.say_version(if version == WITHOUT_PACKETS { version } else { VERSION })?;
        if version == WITHOUT_PACKETS {
            self.tell(&hello(None))?;
        }
        if version != VERSION {
            let error = self.speaks_another(version);
            if version == WITHOUT_PACKETS && self.fail(&error, false) {
                // Its request is read before it finds nobody there.
                let _ = self.hear::<Request>();
            }
            return Err(error);
        }
        self.link().speak_in_packets();
        self.tell(&hello(None))?;
        let theirs: Hello = self.hear()?;
        theirs.patience.into_iter().for_each(|seconds| {
            self.link().set_patience(Duration::from_secs(seconds.clamp(1, 86_400)));
        });
        Ok(())
    }

    fn say_version(&mut self, version: u32) -> Result<()> {
        let mut put = || {
            self.to.write_all(GREETING)?;
            writeln!(self.to, "{version}")?;
            self.to.flush()
        };
        put().map_err(|e| lift(e, "write to", &self.peer))
    }

    /// Reads no byte more, because the rest may be in packets.
    fn hear_version(&mut self) -> Result<u32> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            fill(self.from.get_mut(), &mut byte, &self.peer)?;
            line.push(byte[0]);
            let number = line.strip_prefix(GREETING);
            match (number.and_then(|number| number.strip_suffix(b"\n")), number) {
                (Some(number), _) => {
                    let version = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
                    return version.ok_or_else(|| self.strange(&line));
                }
                (None, Some(number)) if number.len() < 9 && number.iter().all(u8::is_ascii_digit) => {}
                (None, None) if GREETING.starts_with(&line) => {}
                _ => return Err(self.strange(&line)),
            }
        }
    }

    /// The error for another version; tells it to the other end too, if that understands it.
    fn speaks_another(&mut self, version: u32) -> Error {
        let hello = if version == WITHOUT_PACKETS { self.hear::<Hello>().ok() } else { None };
        let theirs =
            hello.map_or("another snapsync".to_owned(), |hello| printable_within(&hello.software, SHOWN));
        let (peer, ours) = (self.peer.display(), snapsync_stream::wire::software());
        let older = if version < VERSION { self.peer.display().to_string() } else { "this end".to_owned() };
        Error::failed(
            format!(
                "{peer} runs {theirs}, which speaks protocol {version}, and this is {ours}, which speaks \
                 protocol {VERSION}"
            ),
            format!("install the same version on both: the one on {older} is older"),
        )
    }

    fn strange(&mut self, start: &[u8]) -> Error {
        let mut text = start.to_vec();
        let mut more = [0; SHOWN];
        // Only bytes that have already arrived are read.
        self.from.get_mut().hurry(Duration::from_millis(100));
        let count = self.from.get_mut().read(&mut more).unwrap_or(0);
        text.extend(&more[..count]);
        Error::failed(
            format!(
                "{} does not answer as snapsync does: {:?}",
                self.peer.display(),
                String::from_utf8_lossy(&text)
            ),
            "its shell must not print anything at login, and both sides need the same protocol",
        )
    }

    pub(crate) fn tell(&mut self, message: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec(message)
            .map_err(|e| Error::failed(format!("cannot tell {}: {e}", self.peer.display()), ""))?;
        let mut put = || {
            self.to.write_all(&(text.len() as u32).to_le_bytes())?;
            self.to.write_all(&text)?;
            self.to.flush()
        };
        put().map_err(|e| lift(e, "write to", &self.peer))?;
        self.to.get_mut().step();
        Ok(())
    }

    pub(crate) fn hear<T: Message>(&mut self) -> Result<T> {
        let message = hear(&mut self.from, &self.peer)?;
        self.from.get_mut().step();
        Ok(message)
    }

    /// A failure at the other end, as an error here.
    pub(crate) fn told(&self, failure: Failure) -> Error {
        failure.into_error(&self.peer, &self.about)
    }

    /// Waits for an answer; a failure at the other end becomes an error here.
    pub(crate) fn hear_answer(&mut self) -> Result<Answer> {
        match self.hear()? {
            Answer::Failed(failure) => {
                self.is_needed = Some(failure.needed);
                Err(self.told(failure))
            }
            answer => Ok(answer),
        }
    }
}

/// Reads one message. Allocates no more than has arrived.
pub(crate) fn hear<T: Message>(from: &mut impl Read, peer: &Path) -> Result<T> {
    let mut length = [0; 4];
    fill(from, &mut length, peer)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(nonsense(peer, "a message that is too long"));
    }
    let mut text = vec![0; length as usize];
    fill(from, &mut text, peer)?;
    let text = screened(text, T::IS_EXACT).map_err(|what| nonsense(peer, what))?;
    serde_json::from_str(&text).map_err(|e| nonsense(peer, &format!("a message that makes no sense, {e}")))
}

/// The error for an answer to another question.
pub(crate) fn out_of_turn(wire: &Wire<'_>) -> Error {
    nonsense(&wire.peer, "an answer to another question")
}
