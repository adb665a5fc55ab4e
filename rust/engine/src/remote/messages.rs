//! The messages of the protocol; docs/format.md describes each of them.
//!
//! The primary's half asks and the standby's half answers, whichever of them started the other.

use crate::delta::staging::{Again, Spare, StageReport};
use crate::digest::Reading;
use crate::keep::Keep;
use crate::options::{DriftOptions, Options, TransferOptions};
use crate::remote::question::Question;
use crate::round::steps::{Adopt, Outlook, StandbyInfo, State};
use crate::secret::Secret;
use crate::volume::copies::{Copied, Stretch};
use crate::volume::lost::LostPaths;
use crate::volume::pieces::{Piece, Seen};
use crate::volume::roles::{RoleReply, RoleRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use snapsync_model::{
    AccountNames, Error, Guarded, Naming, Promotions, SnapshotInfo, Subset, printable_within,
};
use std::path::Path;
use uuid::Uuid;

/// The number of bytes of a message to people that are shown.
const WORDS: usize = 4000;

pub(crate) const LONGEST: u32 = 4 << 20;
/// The feature of an end that answers `Request::Digest`. Earlier versions hashed all bytes of a file and had
/// less in a record.
pub(crate) const DIGEST: &str = "digest 2";
/// The feature of an end that answers `Ask::Records`.
pub(crate) const ADOPT: &str = "adopt";
/// The feature of an end that finds owners by name, and tells names.
pub(crate) const OWNERS: &str = "owners";
/// The feature of an end that answers `Request::Fetch`.
pub(crate) const FETCH: &str = "fetch";
/// The feature of an end that answers `Ask::Foresee`.
pub(crate) const FORESEE: &str = "foresee";

/// The greeting: who speaks, and its features beyond the first version of the protocol.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) software: String,
    pub(crate) features: Vec<String>,
    /// The seconds of silence after which both ends give up, as the end that started the other sets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) patience: Option<u64>,
}

/// The first request to the end that was started. Paths are bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Run the standby's half of a round.
    Push { target: Vec<u8>, channels: usize },
    /// Run the primary's half of a round.
    Pull {
        source: Vec<u8>,
        options: Box<Options>,
        #[serde(rename = "travel")]
        transfer: TransferOptions,
        channels: usize,
    },
    /// Serve as a further channel of the round that works on this volume.
    Join { volume: Vec<u8>, token: Uuid },
    /// Do something with one volume.
    Do {
        volume: Vec<u8>,
        #[serde(rename = "deed")]
        request: RoleRequest,
    },
    /// Send the records of a directory or `VOLUME@SNAP`; `lineage` is that of the volume it is compared with.
    Digest {
        place: Vec<u8>,
        reading: Reading,
        #[serde(default)]
        lineage: Option<Uuid>,
    },
    /// Send a snapshot of a volume of this lineage as a delta that brings all of it, or of these paths.
    Fetch { place: Vec<u8>, lineage: Uuid, paths: LostPaths },
    /// Run a verb, and send what it reports.
    Question { place: Vec<u8>, question: Question },
}

/// Questions of the primary's half.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Describe the standby. Restricted clients get an answer only if it has this lineage.
    Look {
        #[serde(default)]
        lineage: Option<Uuid>,
        /// No round follows, but what it would find is to be told, too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<DriftOptions>,
    },
    /// Tell what a plan, whose manifest follows, would come to. Asked after a `Look` with `plan`, and nothing
    /// follows it.
    Foresee {
        strict: bool,
        no_space_check: bool,
        /// Whether old snapshots would make space.
        spares: bool,
        /// The patterns of the snapshot that it leads to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subset: Option<Subset>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        names: Option<AccountNames>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owners: Option<Naming>,
    },
    /// `join` says where further channels connect at the primary's end.
    Open {
        lineage: Uuid,
        epoch: u64,
        #[serde(default, skip_serializing_if = "Promotions::is_empty")]
        promotions: Promotions,
        join: Option<Uuid>,
        #[serde(default)]
        #[serde(rename = "care")]
        drift: DriftOptions,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adopt: Option<Adopt>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owners: Option<Naming>,
    },
    /// Tell the records of the tree that is adopted.
    Records {
        reading: Reading,
    },
    /// Tell of copies of changed files whose old bytes the primary has not.
    Copies {
        stretches: Vec<Stretch>,
    },
    /// Head and manifest of a delta follow; the manifest's bytes only if they are not there from an
    /// interrupted round. After the answer come the frames and the end. Before the commit it may begin again.
    Begin {
        strict: bool,
        has_manifest: bool,
        #[serde(default)]
        no_space_check: bool,
        #[serde(default)]
        spare: Option<Spare>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        again: Option<Again>,
    },
    Commit,
    /// Show this secret in later rounds.
    Secret {
        secret: Secret,
    },
    /// Read bytes of files that the standby has, once it is open.
    Scrub {
        pieces: Vec<Piece>,
    },
    Prune {
        keep: Keep,
        needed: Vec<Uuid>,
    },
    /// The round has failed at the primary's end.
    Failed(Failure),
    /// The round is done, and this is its report.
    Done {
        report: Box<RawValue>,
    },
}

/// Answers of the standby's half.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ready,
    Looked(Box<StandbyInfo>),
    Foreseen(Box<Outlook>),
    Opened(Box<State>),
    /// One for each stretch.
    Copied(Vec<Copied>),
    Begun(Box<StageReport>),
    Committed {
        snapshot: Box<SnapshotInfo>,
        notes: Vec<String>,
    },
    Kept,
    /// One result for each piece.
    Scrubbed(Vec<Seen>),
    Pruned(Vec<SnapshotInfo>),
    /// All of them were kept, for this reason.
    Unpruned(Failure),
    Did(Box<RoleReply>),
    /// This many bytes of records follow.
    Records {
        length: u32,
    },
    /// The tree is complete.
    Digested {
        entries: u64,
        notes: Vec<String>,
    },
    /// This many bytes of a report in JSON follow.
    Report {
        length: u32,
    },
    /// The report is complete.
    Told,
    Failed(Failure),
}

/// A message that can be received.
pub(crate) trait Message: DeserializeOwned {
    /// Whether this end works with its text. Other text is for people and is made printable.
    const IS_EXACT: bool = false;
}

impl Message for Hello {}
impl Message for Ask {}
impl Message for Answer {}
impl Message for Request {
    const IS_EXACT: bool = true;
}

/// An error in transmissible form.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    exit_code: i32,
    what: String,
    advice: String,
    /// The standby continues the snapshot by itself, or needs it to resume.
    #[serde(default)]
    pub(super) needed: bool,
    /// What a guard has measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guard: Option<Box<Guarded>>,
}

impl Failure {
    pub(crate) fn of(error: &Error, needed: bool) -> Failure {
        let guard = if let Error::Guarded { found, .. } = error { Some(found.clone()) } else { None };
        Failure {
            exit_code: error.exit_code(),
            what: error.sentence(),
            advice: error.advice(),
            needed,
            guard,
        }
    }

    /// The same error, reported by `whom`, who was asked to work on the path `about`.
    pub(crate) fn into_error(self, whom: &Path, about: &Path) -> Error {
        let Failure { exit_code, what, advice, guard, .. } = self;
        let what = named(&printable_within(&what, WORDS), whom, about);
        let mut advice = printable_within(&advice, WORDS);
        if advice.contains("`snapsync ") {
            // Its paths are those of that machine.
            advice = format!("on {}: {advice}", whom.display());
        }
        match (exit_code, guard) {
            (3, Some(mut found)) => {
                found.directories.truncate(MOST_TOLD);
                Error::Guarded { what, advice, found }
            }
            (2, _) => Error::Usage { what, advice },
            (3, None) => Error::Refused { what, advice },
            (4, _) => Error::Integrity { what, advice },
            (5, _) => Error::Cut { what, advice },
            _ => Error::Failed { what, advice },
        }
    }
}

/// What `whom` tells, who was asked to work on the path `about`. Where it begins with a path there, that is
/// named once.
pub(crate) fn named(what: &str, whom: &Path, about: &Path) -> String {
    let (whom, about) = (whom.display(), about.to_string_lossy());
    let after = what.strip_prefix(&*about).filter(|_| !about.is_empty());
    if what.starts_with('/') || after.is_some_and(|rest| rest.starts_with([' ', '/', ':'])) {
        format!("{whom}:{what}")
    } else if about.is_empty() {
        format!("{whom}: {what}")
    } else {
        format!("{whom}:{about}: {what}")
    }
}

/// The most notes, losses and the like that are taken from one answer.
pub(crate) const MOST_TOLD: usize = 100;
