//! The records of a volume.

use crate::store::bound::Bound;
use crate::store::mark::Mark;
use crate::volume::scrubbed::Scrub;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use snapsync_model::{Accounts, Context, Error, History, Promotions, Provider, Result, Role, Subset};
use snapsync_sys::Spot;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What a volume knows about a clone of one of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneRecord {
    #[serde(serialize_with = "write_path", deserialize_with = "read_path")]
    pub path: PathBuf,
    pub snapshot: Uuid,
    /// The name of the snapshot, which may be deleted.
    pub of: String,
    /// RFC 3339.
    pub at: String,
    pub mark: Mark,
}

pub(crate) type Clones = BTreeMap<String, CloneRecord>;

/// A path in JSON with any bytes: as text, or as numbers.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AnyPath {
    Text(String),
    Bytes(Vec<u8>),
}

fn write_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    let any = match path.to_str() {
        Some(text) => AnyPath::Text(text.to_owned()),
        None => AnyPath::Bytes(path.as_os_str().as_bytes().to_vec()),
    };
    any.serialize(serializer)
}

fn read_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Ok(match AnyPath::deserialize(deserializer)? {
        AnyPath::Text(text) => text.into(),
        AnyPath::Bytes(bytes) => OsString::from_vec(bytes).into(),
    })
}

/// The part that every format has, which identifies newer ones.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

pub(crate) fn is_none(path: &Path) -> Error {
    Error::usage(
        format!("{} is not a volume: it has no store", path.display()),
        "make it one with `snapsync snapshot` or `snapsync sync`",
    )
}

/// A volume that has parts, but not this one.
pub(crate) fn is_no_part(volume: &Path, part: &str, parts: &[String]) -> Error {
    let (show, has) = (volume.display(), parts.join(", "));
    Error::usage(
        format!("{show} has no part {part:?}"),
        if parts.is_empty() {
            format!("it has no parts at all: `snapsync sync --part {part} {show} TARGET` makes one")
        } else {
            format!("its parts are {has}; `snapsync sync --part {part} {show} TARGET` makes another")
        },
    )
}

/// In a volume's store: without it the directory is no volume.
pub(crate) const RECORD: &str = "volume.json";

/// None if there is no record.
pub(crate) fn read_record(store: &Spot) -> Result<Option<Record>> {
    let file = store.join(RECORD);
    let Some(text) = file.read_if_there().context("read", file.show())? else { return Ok(None) };
    let found: Format = serde_json::from_slice(&text).map_err(|e| unreadable(&file, &e))?;
    if found.format > STORE_FORMAT {
        return Err(Error::refused(
            format!(
                "the store of {} has format {}, and this version knows formats up to {STORE_FORMAT}",
                store.show().ancestors().nth(2).unwrap_or(&store.show()).display(),
                found.format
            ),
            "use the newer snapsync that made it",
        ));
    }
    serde_json::from_slice(&text).map(Some).map_err(|e| unreadable(&file, &e))
}

/// What a primary knows about one of its standbys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    pub path: String,
    pub snapshot: Uuid,
    pub name: String,
    /// When it got that snapshot, in RFC 3339.
    pub at: String,
    /// The file system that it is on, if that has an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// None until the next round if an older version recorded it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<Scrub>,
    /// The BLAKE3 of its secret in hexadecimal. None until the next round if an older version recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Whether its client may only read: a snapshot taken for it is deleted once it does not need that any
    /// more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads: bool,
    /// Its claim that another primary was promoted, which keeps it from being fed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

/// The epoch of a standby when it was met, which is higher than its primary's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub epoch: u64,
    /// Whether it shows promotions that follow the primary's. Anybody who knows those can make up further
    /// ones.
    pub shown: bool,
    /// When it was met, in RFC 3339.
    pub at: String,
}

/// A log that a standby follows, and the newest commit in it when it was last read: a log never loses one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedLog {
    pub address: String,
    pub id: Uuid,
    pub sequence: u64,
    /// BLAKE3 of its record, in hexadecimal.
    pub digest: String,
}

/// The standby for which a round has taken a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenFor {
    pub standby: Uuid,
    /// Whether it is not part of the history that the volume's owner keeps.
    #[serde(default)]
    pub lent: bool,
}

/// Files of a snapshot that are not in the tree, though it went back to that: their bytes were lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Absent {
    pub(crate) snapshot: Uuid,
    /// By which their rows are known.
    pub(crate) objects: BTreeSet<u64>,
}

/// `volume.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(super) format: u32,
    pub(super) id: Uuid,
    pub(super) lineage: Uuid,
    pub(super) epoch: u64,
    /// The known promotions that led to that epoch.
    #[serde(default, skip_serializing_if = "Promotions::is_empty")]
    pub(super) promotions: Promotions,
    pub(super) role: Role,
    pub(super) provider: Provider,
    /// It is never used twice, even if snapshots are deleted.
    pub(super) next_sequence: u64,
    /// Each pool snapshot puts its objects into a directory of its own with a number that is never reused.
    pub(super) next_round: u64,
    #[serde(default)]
    pub(super) standbys: BTreeMap<Uuid, Standby>,
    /// Snapshots that rounds took, until their standbys have them or do not need them any more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) taken_for: BTreeMap<Uuid, TakenFor>,
    /// The secret by which its primary knows this standby, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    /// The snapshots that users hold, and their reasons.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) holds: BTreeMap<Uuid, String>,
    /// The subset of the newest snapshot, and of the next one unless another is asked for.
    #[serde(default, skip_serializing_if = "Subset::is_everything")]
    pub(super) subset: Subset,
    /// Whether its tree is read-only between rounds while it is a standby.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) read_only: bool,
    /// By name.
    #[serde(default, skip_serializing_if = "Clones::is_empty")]
    pub(super) clones: Clones,
    /// Inodes whose rows are not to be believed: their bytes changed, and nothing else told it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) doubted: BTreeSet<u64>,
    /// Files of the newest snapshot that the tree does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) absent: Option<Absent>,
    /// Some snapshots have bytes in the tree alone: a standby's since its first, and those of a primary that
    /// was promoted where no blocks are shared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) partly_in_tree: bool,
    /// What is kept of older snapshots while it is a primary. None means all, as in older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) history: Option<History>,
    /// It was made for the sake of a part of its tree, and goes with the last of them if it has no snapshot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) for_parts: bool,
    /// The log that it follows while it is a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) follows: Option<FollowedLog>,
    /// The snapshot that its tree went back to last: its table has other inode numbers than it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) renumbered: Option<Uuid>,
    /// The numbers of users and groups that it has in place of those of its lineage; None where they are the
    /// same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) accounts: Option<Accounts>,
    /// The directory that this is the store of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) root: Option<Bound>,
}

impl Record {
    pub(crate) fn new(role: Role, lineage: Uuid, epoch: u64, provider: Provider) -> Record {
        Record {
            format: FORMAT,
            id: Uuid::new_v4(),
            lineage,
            epoch,
            promotions: Promotions::default(),
            role,
            provider,
            next_sequence: 0,
            next_round: 1,
            standbys: BTreeMap::new(),
            taken_for: BTreeMap::new(),
            secret: None,
            holds: BTreeMap::new(),
            subset: Subset::default(),
            read_only: false,
            clones: Clones::new(),
            doubted: BTreeSet::new(),
            absent: None,
            partly_in_tree: false,
            history: None,
            for_parts: false,
            follows: None,
            renumbered: None,
            accounts: None,
            root: None,
        }
    }

    pub(super) fn forget_standbys(&mut self) {
        self.standbys.clear();
        self.taken_for.clear();
    }
}

pub(crate) fn unreadable(file: &Spot, error: &serde_json::Error) -> Error {
    Error::integrity(
        format!("cannot understand {}: {error}", file.show().display()),
        "the store is damaged: restore that file from a backup, or make the volume anew",
    )
}

/// The newest format that this version reads and writes.
pub const STORE_FORMAT: u32 = 7;
/// That of a volume whose users and groups have the numbers of its lineage.
const FORMAT: u32 = 6;

impl Record {
    /// An older version would read the owners of files wrong.
    pub(super) fn set_format(&mut self) {
        self.format = if self.accounts.is_some() { STORE_FORMAT } else { FORMAT };
    }
}
