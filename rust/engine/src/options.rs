//! The options of requests, with a type for each group.

use crate::digest::Reading;
use crate::keep::Keep;
use serde::{Deserialize, Serialize};
use snapsync_model::{Error, History, Naming, RelPath, Result, Subset};
use snapsync_stream::{Compression, PATIENCE};
use snapsync_walk::Matcher;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Options {
    /// The name of the new snapshot; by default the time.
    pub name: Option<String>,
    /// Sends this snapshot of the primary instead of a new one.
    #[serde(default)]
    pub snap: Option<String>,
    /// Snapshots to keep on each side.
    #[serde(default)]
    pub keep: Keep,
    /// Refuse a target that cannot hold everything.
    pub strict: bool,
    /// Skips the check for free space.
    #[serde(default)]
    pub no_space_check: bool,
    /// Passes over what cannot be read.
    #[serde(default)]
    pub keep_going: bool,
    /// The subset that is replicated from now on; by default it stays as it was.
    pub exclude: Vec<String>,
    pub include: Vec<String>,
    /// Replicates everything again.
    pub everything: bool,
    #[serde(default, rename = "care")]
    pub drift: DriftOptions,
    /// Begins anew if the known standby does not exist any more.
    #[serde(default)]
    pub new_standby: bool,
    /// What the primary keeps of older snapshots from now on; None leaves this as it is.
    #[serde(default)]
    pub history: Option<History>,
    #[serde(default)]
    pub scrub: Scrubbing,
    /// What is at a new target is a copy of the source; `Reading::Nothing` believes its times.
    #[serde(default)]
    pub adopt: Option<Reading>,
    /// The standby finds the owners of files by name from now on; None leaves this as it is.
    #[serde(default)]
    pub owners: Option<Naming>,
    /// How much of the tree may go or change; None lets everything through.
    #[serde(default)]
    pub guard: Option<Guard>,
    /// Never on the wire: no client makes a server run a command.
    #[serde(skip)]
    pub hooks: Hooks,
    /// Nor is this.
    #[serde(skip)]
    pub taking: Taking,
}

/// What a round may do to a tree, each in per cent of what the standby has. None is the usual limit, which
/// small trees are without; 100 never refuses.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// Entries that are deleted.
    pub deleted: Option<u8>,
    /// Entries that are files with other bytes.
    pub changed: Option<u8>,
    /// Bytes of files, which get fewer.
    pub shrink: Option<u8>,
}

/// How files are known again in the next tree that a command makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownBy {
    /// By the numbers of their inodes.
    #[default]
    Inode,
    Path,
}

/// Commands that make the tree that is read, and take it away; without the first one it is the volume's own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taking {
    pub take: Vec<String>,
    /// Where it is; by default the last line that the command prints.
    pub taken_at: Option<String>,
    pub release: Vec<String>,
    pub identity: KnownBy,
    /// How long each of them may take.
    #[serde(rename = "take_timeout", deserialize_with = "seconds")]
    pub patience: Duration,
}

impl Taking {
    pub(crate) fn is_empty(&self) -> bool {
        self.take.is_empty() && self.taken_at.is_none() && self.release.is_empty()
    }
}

/// Commands around the primary's snapshot, each with its arguments; empty ones are not run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    #[serde(rename = "before_snapshot")]
    pub before: Vec<String>,
    #[serde(rename = "after_snapshot")]
    pub after: Vec<String>,
    /// How long each of them may take.
    #[serde(rename = "hook_timeout", deserialize_with = "seconds")]
    pub patience: Duration,
}

impl Hooks {
    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

/// Requirements for a target.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// It must hold everything.
    pub strict: bool,
    /// It may turn out to be too small.
    pub no_space_check: bool,
}

pub(crate) const STRICT: Terms = Terms { strict: true, no_space_check: false };

/// How changes to a standby by hand are treated and prevented.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct DriftOptions {
    /// Compares the whole tree first, not only what the delta touches.
    pub check: bool,
    /// Keeps the changes as a snapshot and goes back to the newest snapshot of the line.
    pub discard_drift: bool,
    /// Whether the tree is read-only between rounds from now on; None leaves this as it is.
    #[serde(default)]
    pub read_only: Option<bool>,
}

/// How much each round reads again.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Scrubbing {
    /// The seconds within which everything is read once; 0 for never.
    pub period: u64,
    /// The most bytes that a round reads on each side.
    pub limit: u64,
}

/// What happens to changes that were made to a standby by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDrift {
    #[default]
    Refuse,
    /// They are kept as a snapshot, and the tree is restored.
    Discard,
    /// The tree stays as it is.
    Accept,
}

/// How a delta is sent.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct TransferOptions {
    pub compression: Compression,
    /// Bytes a second; unlimited by default.
    pub limit: Option<u64>,
}

/// How another machine is reached.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshOptions {
    /// The command that runs another command on a host, with its arguments.
    pub rsh: Vec<String>,
    /// The snapsync command on the other machine, in the syntax of its shell.
    pub remote_path: String,
    /// Each is passed as `-o OPTION`.
    #[serde(rename = "ssh_options")]
    pub options: Vec<String>,
    /// How long the other end may be silent before it is given up.
    #[serde(rename = "timeout", deserialize_with = "seconds")]
    pub patience: Duration,
    #[serde(default = "one")]
    pub channels: usize,
}

fn seconds<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_secs)
}

fn one() -> usize {
    1
}

impl Default for SshOptions {
    fn default() -> Self {
        SshOptions {
            rsh: vec!["ssh".into()],
            remote_path: "snapsync".into(),
            options: Vec::new(),
            patience: PATIENCE,
            channels: 1,
        }
    }
}

/// Where bytes of a snapshot are taken from that its volume lacks.
#[derive(Clone, Debug, Default)]
pub struct Supply {
    /// A standby that has the snapshot, which brings all of them. Without one, one on this machine that is
    /// recorded brings what is lost.
    pub standby: Option<PathBuf>,
    pub ssh: SshOptions,
}

/// The requested subset; None if nothing is requested and the volume's own stays. Invalid patterns are found
/// here, before anything is touched.
pub(crate) fn asked(options: &Options, is_part: bool) -> Result<Option<Subset>> {
    let mut subset = Subset { exclude: options.exclude.clone(), include: options.include.clone() };
    if is_part && subset.exclude.is_empty() {
        subset = only(&subset.include)?;
    } else if is_part && brings_nothing_back(&subset)? {
        return Err(Error::usage(
            "the exclude patterns of a part leave nothing out that its include patterns bring back",
            "give --include alone, which takes nothing else; or --exclude '/*' first. Exclude patterns of \
             [defaults] are left out by `exclude = []` in the job",
        ));
    }
    match (options.everything, subset.is_everything()) {
        (true, true) => return Ok(Some(subset)),
        (false, true) => return Ok(None),
        (true, false) => {
            return Err(Error::usage(
                "--everything contradicts the patterns",
                "give the patterns or --everything",
            ));
        }
        (false, false) => {}
    }
    if subset.exclude.is_empty() {
        return Err(Error::usage(
            "include patterns bring back what exclude patterns leave out, but there are no exclude patterns",
            "give --exclude too; --exclude '/*' leaves out everything that is not included",
        ));
    }
    Matcher::new(&subset)?;
    Ok(Some(subset))
}

/// Whether include patterns name nothing but paths that no exclude pattern leaves out.
fn brings_nothing_back(subset: &Subset) -> Result<bool> {
    let excluded = Matcher::new(&Subset { exclude: subset.exclude.clone(), include: Vec::new() })?;
    for pattern in &subset.include {
        let path = pattern.trim_matches('/');
        let is_path = pattern.trim_end_matches('/').contains('/') && !path.contains(['*', '?', '[', '\\']);
        if !is_path || excluded.left_out_on(&RelPath::new(path.as_bytes())?, true)?.is_some() {
            return Ok(false);
        }
    }
    Ok(!subset.include.is_empty())
}

/// What some paths name, and nothing else: of the directories that lead to them only their names.
fn only(include: &[String]) -> Result<Subset> {
    let mut found = Subset::default();
    for path in include {
        let inner = path.strip_suffix('/').unwrap_or(path);
        if !inner.contains('/') || inner.split('/').any(|name| name == "**") || inner.starts_with('!') {
            return Err(Error::usage(
                format!("the pattern {path:?} does not say where in the tree a part of it is"),
                "write a path from the root of SOURCE on, as in --include /mail, or give --exclude too",
            ));
        }
        let inner = inner.trim_start_matches('/');
        let ends = inner.match_indices('/').map(|(end, _)| end);
        for above in std::iter::once("").chain(ends.map(|end| &inner[..end])) {
            let above = if above.is_empty() { String::new() } else { format!("/{above}") };
            let is_whole = include.iter().any(|other| other.trim_end_matches('/') == above);
            if is_whole {
                break;
            }
            let (all, way) = (format!("{above}/*"), format!("{above}/"));
            if !found.exclude.contains(&all) {
                found.exclude.push(all);
            }
            if !above.is_empty() && !found.include.contains(&way) {
                found.include.push(way);
            }
        }
    }
    found.include.extend_from_slice(include);
    Ok(found)
}
