//! What two snapsyncs say to each other over a channel; docs/format.md has every message.
//!
//! The primary's half asks and the standby's half answers, whichever of the two started the other.

use crate::delta::staging::{Spare, StageReport};
use crate::digest::Reading;
use crate::keep::Keep;
use crate::options::{DriftOptions, Options, TransferOptions};
use crate::round::steps::{StandbyInfo, State};
use crate::secret::Secret;
use crate::volume::pieces::{Piece, Seen};
use crate::volume::roles::{RoleReply, RoleRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use snapsync_model::{Error, Promotions, SnapshotInfo, printable_within};
use std::path::Path;
use uuid::Uuid;

/// Bytes that are shown of a sentence.
const WORDS: usize = 4000;

pub(crate) const LONGEST: u32 = 4 << 20;
/// The feature of an end that answers `Request::Digest`. Before the 2, digests were of all bytes of a file,
/// and records told less of an inode.
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
    Pull {
        source: Vec<u8>,
        options: Options,
        #[serde(rename = "travel")]
        transfer: TransferOptions,
        channels: usize,
    },
    /// Be a further channel of the round that works on this volume.
    Join { volume: Vec<u8>, token: Uuid },
    /// Do something with one volume.
    Do {
        volume: Vec<u8>,
        #[serde(rename = "deed")]
        request: RoleRequest,
    },
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
        care: DriftOptions,
    },
    /// Head and manifest of a delta follow, the manifest's bytes only if they are not there from a cut round;
    /// after the answer the frames, and the end.
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
    Looked(StandbyInfo),
    Opened(Box<State>),
    Begun(Box<StageReport>),
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
    Did(Box<RoleReply>),
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
    pub(super) needed: bool,
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

/// Notes, losses and the like that are taken from one answer.
pub(crate) const MOST_TOLD: usize = 100;
