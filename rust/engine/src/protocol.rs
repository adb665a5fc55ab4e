//! What two snapsyncs say to each other over a channel; docs/format.md has every message.
//!
//! The primary's half asks and the standby's half answers, whichever of the two started the other.

use crate::digest::Reading;
use crate::receive::BUFFER;
use crate::retention::Keep;
use crate::roles::{Deed, Outcome};
use crate::standby::{Begun, Looked, State};
use crate::{Care, Options, Travel};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use snapsync_model::{Context, Error, Monitor, Result, SnapshotInfo};
use snapsync_stream::wire::{fill, lift};
use snapsync_stream::{Arrivals, Channel, Limit, Outlet};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// The first bytes of either end, so that whatever else a remote shell prints is not taken for an answer.
const GREETING: &[u8] = b"snapsync protocol 1\n";
pub(crate) const LONGEST: u32 = 4 << 20;
/// The feature of an end that answers `Request::Digest`.
pub(crate) const DIGEST: &str = "digest";

/// Who speaks, and what it can do beyond the protocol's first version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) software: String,
    pub(crate) features: Vec<String>,
}

/// What the end that was started is asked for first. Paths are bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Be the standby's half of a round.
    Push { target: Vec<u8>, channels: usize },
    /// Be the primary's half.
    Pull { source: Vec<u8>, options: Options, travel: Travel, channels: usize },
    /// Be a further channel of the round that works on this volume.
    Join { volume: Vec<u8>, token: Uuid },
    /// Do something with one volume.
    Do { volume: Vec<u8>, deed: Deed },
    /// Tell what a directory or `VOLUME@SNAP` holds.
    Digest { place: Vec<u8>, reading: Reading },
}

/// What the primary's half asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    Look,
    /// `join`: where further channels come in at the primary's end.
    Open {
        lineage: Uuid,
        epoch: u64,
        join: Option<Uuid>,
        #[serde(default)]
        care: Care,
    },
    /// Head and manifest of a delta follow, the manifest's bytes only if they are not there from a cut round; after the
    /// answer the frames, and the end.
    Begin {
        strict: bool,
        has_manifest: bool,
    },
    Commit,
    Prune {
        keep: Keep,
        needed: Vec<Uuid>,
    },
    /// The round has failed at the primary's end; told as an answer is.
    Failed(Failure),
    /// The round is done, and this is its report.
    Done {
        report: Box<RawValue>,
    },
}

/// What the standby's half answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ready,
    Looked(Looked),
    Opened(Box<State>),
    Begun(Box<Begun>),
    Committed {
        snapshot: Box<SnapshotInfo>,
        notes: Vec<String>,
    },
    Pruned(Vec<SnapshotInfo>),
    Did(Box<Outcome>),
    /// So many bytes of records follow.
    Records {
        length: u32,
    },
    /// That was all of the tree.
    Digested {
        entries: u64,
        notes: Vec<String>,
    },
    Failed(Failure),
}

/// An error as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    exit_code: i32,
    what: String,
    advice: String,
    /// The standby goes on with the snapshot by itself, or from what it has of it.
    #[serde(default)]
    needed: bool,
}

impl Failure {
    fn of(error: &Error, needed: bool) -> Failure {
        Failure { exit_code: error.exit_code(), what: error.sentence(), advice: error.advice(), needed }
    }

    /// The same error, told by `whom`.
    pub(crate) fn into_error(self, whom: &Path) -> Error {
        let Failure { exit_code, what, advice, .. } = self;
        let what = format!("{}: {what}", whom.display());
        match exit_code {
            2 => Error::Usage { what, advice },
            3 => Error::Refused { what, advice },
            4 => Error::Integrity { what, advice },
            5 => Error::Cut { what, advice },
            _ => Error::Failed { what, advice },
        }
    }
}

/// A channel that messages and deltas go over.
pub(crate) struct Wire<'a> {
    pub(crate) from: BufReader<Channel<'a>>,
    pub(crate) to: BufWriter<Channel<'a>>,
    /// Who is at the other end, for messages.
    pub(crate) peer: PathBuf,
    has_failed: bool,
    /// What the other end has said of the snapshot when it failed.
    pub(crate) is_needed: Option<bool>,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(
        from: impl Into<OwnedFd>,
        to: impl Into<OwnedFd>,
        peer: PathBuf,
        monitor: &'a Monitor,
    ) -> Result<Wire<'a>> {
        let channel = |fd: OwnedFd| Channel::new(fd, monitor).context("talk to", &peer);
        Ok(Wire {
            from: BufReader::with_capacity(BUFFER, channel(from.into())?),
            to: BufWriter::with_capacity(BUFFER, channel(to.into())?),
            peer,
            has_failed: false,
            is_needed: None,
        })
    }

    /// Tells a failure, once; whether the other end has been told.
    pub(crate) fn fail(&mut self, error: &Error, needed: bool) -> bool {
        if !self.has_failed {
            // Where it has failed itself, or is gone, nobody listens.
            self.has_failed = self.tell(&Answer::Failed(Failure::of(error, needed))).is_ok();
        }
        self.has_failed
    }

    /// What comes as frames.
    pub(crate) fn arrivals(&mut self) -> Arrivals<'_> {
        Arrivals { from: Box::new(&mut self.from), name: self.peer.clone() }
    }

    /// Where frames go.
    pub(crate) fn outlet(&mut self, limit: Option<&Arc<Limit>>) -> Outlet<'_> {
        self.to.get_mut().limit(limit);
        Outlet { to: Box::new(&mut self.to), name: self.peer.clone() }
    }

    /// Both ends say who they are before anything else.
    pub(crate) fn greet(&mut self) -> Result<Hello> {
        self.to.write_all(GREETING).map_err(|e| lift(e, "write to", &self.peer))?;
        self.tell(&Hello { software: snapsync_stream::wire::software(), features: vec![DIGEST.to_owned()] })?;
        let mut greeting = [0; GREETING.len()];
        for at in 0..greeting.len() {
            fill(&mut self.from, &mut greeting[at..=at], &self.peer)?;
            if !GREETING.starts_with(&greeting[..=at]) {
                return Err(self.strange(&greeting[..=at]));
            }
        }
        self.hear()
    }

    fn strange(&mut self, start: &[u8]) -> Error {
        let mut text = start.to_vec();
        let more = self.from.buffer();
        text.extend(&more[..more.len().min(100)]);
        Error::failed(
            format!(
                "{} does not answer as snapsync does: {:?}",
                self.peer.display(),
                String::from_utf8_lossy(&text)
            ),
            "nothing that its shell runs at login may print anything; and the same protocol is needed on both sides",
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
        put().map_err(|e| lift(e, "write to", &self.peer))
    }

    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        hear(&mut self.from, &self.peer)
    }

    /// Waits for an answer; a failure at the other end is one here.
    pub(crate) fn hear_answer(&mut self) -> Result<Answer> {
        match self.hear()? {
            Answer::Failed(failure) => {
                self.is_needed = Some(failure.needed);
                Err(failure.into_error(&self.peer))
            }
            answer => Ok(answer),
        }
    }
}

/// Reads one message. No more is allocated than has come.
pub(crate) fn hear<T: DeserializeOwned>(from: &mut impl Read, peer: &Path) -> Result<T> {
    let mut length = [0; 4];
    fill(from, &mut length, peer)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(nonsense(peer, "a message that is too long"));
    }
    let mut text = vec![0; length as usize];
    fill(from, &mut text, peer)?;
    serde_json::from_slice(&text).map_err(|e| nonsense(peer, &format!("a message that makes no sense, {e}")))
}

pub(crate) fn nonsense(peer: &Path, what: &str) -> Error {
    Error::integrity(
        format!("{} sent {what}", peer.display()),
        "use the same snapsync on both sides; if it is the same, something changes what it sends",
    )
}
