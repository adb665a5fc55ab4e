//! What two snapsyncs say to each other over a channel; docs/format.md has every message.
//!
//! The primary's half asks and the standby's half answers, whichever of the two started the other.

use crate::digest::Reading;
use crate::known::Looked;
use crate::receive::BUFFER;
use crate::retention::Keep;
use crate::roles::{Deed, Outcome};
use crate::screen::screened;
use crate::scrub::{Piece, Seen};
use crate::secret::Secret;
use crate::standby::{Begun, Spare, State};
use crate::{Care, Options, Travel};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use snapsync_model::{Context, Error, Monitor, Promotions, Result, SnapshotInfo, printable_within};
use snapsync_stream::wire::{fill, lift};
use snapsync_stream::{Arrivals, Channel, Fate, Heart, Limit, Link, Outlet};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// The first bytes of either end, so that whatever else a remote shell prints is not taken for an answer. The number of
/// the protocol and the end of the line follow.
const GREETING: &[u8] = b"snapsync protocol ";
const VERSION: u32 = 3;
/// The last version whose messages do not travel in packets.
const WITHOUT_PACKETS: u32 = 1;
/// Bytes that are shown of a sentence.
const WORDS: usize = 4000;
/// What is shown of something that is no greeting.
const SHOWN: usize = 100;
pub(crate) const LONGEST: u32 = 4 << 20;
/// The feature of an end that answers `Request::Digest`. Before the 2, digests were of all bytes of a file, and records told
/// less of an inode.
pub(crate) const DIGEST: &str = "digest 2";

/// Who speaks, and what it can do beyond the protocol's first version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) software: String,
    pub(crate) features: Vec<String>,
    /// Seconds without a byte after which the end that started the other gives up; both then do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) patience: Option<u64>,
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
    /// Tell what a directory or `VOLUME@SNAP` holds; `lineage` is that of the volume it is compared with.
    Digest {
        place: Vec<u8>,
        reading: Reading,
        #[serde(default)]
        lineage: Option<Uuid>,
    },
}

/// What the primary's half asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// What the standby is like. Who may learn of nothing else is told if it is of this lineage.
    Look {
        #[serde(default)]
        lineage: Option<Uuid>,
    },
    /// `join`: where further channels come in at the primary's end.
    Open {
        lineage: Uuid,
        epoch: u64,
        #[serde(default, skip_serializing_if = "Promotions::is_empty")]
        promotions: Promotions,
        join: Option<Uuid>,
        #[serde(default)]
        care: Care,
    },
    /// Head and manifest of a delta follow, the manifest's bytes only if they are not there from a cut round; after the
    /// answer the frames, and the end.
    Begin {
        strict: bool,
        has_manifest: bool,
        #[serde(default)]
        no_space_check: bool,
        #[serde(default)]
        spare: Option<Spare>,
    },
    Commit,
    /// Show this in the rounds to come.
    Secret {
        secret: Secret,
    },
    /// Bytes of files that the standby has, once it is open.
    Scrub {
        pieces: Vec<Piece>,
    },
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
    Kept,
    /// One for each piece.
    Scrubbed(Vec<Seen>),
    Pruned(Vec<SnapshotInfo>),
    /// All of them stay, and why.
    Unpruned(Failure),
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

/// What can be heard.
pub(crate) trait Message: DeserializeOwned {
    /// Its text is for this end to work with; else it is for people, and is made printable.
    const IS_EXACT: bool = false;
}

impl Message for Hello {}
impl Message for Ask {}
impl Message for Answer {}
impl Message for Request {
    const IS_EXACT: bool = true;
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
    pub(crate) fn of(error: &Error, needed: bool) -> Failure {
        Failure { exit_code: error.exit_code(), what: error.sentence(), advice: error.advice(), needed }
    }

    /// The same error, told by `whom`.
    pub(crate) fn into_error(self, whom: &Path) -> Error {
        let Failure { exit_code, what, advice, .. } = self;
        let what = format!("{}: {}", whom.display(), printable_within(&what, WORDS));
        let advice = printable_within(&advice, WORDS);
        match exit_code {
            2 => Error::Usage { what, advice },
            3 => Error::Refused { what, advice },
            4 => Error::Integrity { what, advice },
            5 => Error::Cut { what, advice },
            _ => Error::Failed { what, advice },
        }
    }
}

fn hello(patience: Option<u64>) -> Hello {
    Hello { software: snapsync_stream::wire::software(), features: vec![DIGEST.to_owned()], patience }
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
            has_failed: false,
            is_needed: None,
            heart,
        })
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        self.heart.link()
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

    /// Both ends say who they are before anything else: first the one that has started the other.
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
                // It is to have asked before it finds nobody there.
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

    /// No byte more is read: what follows may be in packets.
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

    /// Says who it is, where that can be heard.
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
        // Only what is there already.
        self.from.get_mut().hurry(Duration::from_millis(100));
        let count = self.from.get_mut().read(&mut more).unwrap_or(0);
        text.extend(&more[..count]);
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
        put().map_err(|e| lift(e, "write to", &self.peer))?;
        self.to.get_mut().step();
        Ok(())
    }

    pub(crate) fn hear<T: Message>(&mut self) -> Result<T> {
        let message = hear(&mut self.from, &self.peer)?;
        self.from.get_mut().step();
        Ok(message)
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

pub(crate) fn nonsense(peer: &Path, what: &str) -> Error {
    Error::integrity(
        format!("{} sent {what}", peer.display()),
        "use the same snapsync on both sides; if it is the same, something changes what it sends",
    )
}
