//! What people ask for, a group of options a type.

use crate::keep::Keep;
use serde::{Deserialize, Serialize};
use snapsync_model::{Error, Result, Subset};
use snapsync_stream::{Compression, PATIENCE};
use snapsync_walk::Matcher;
use std::time::Duration;

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Options {
    /// Name of the new snapshot; after the time without one.
    pub name: Option<String>,
    /// No new snapshot: this one of the primary is brought to the standby.
    #[serde(default)]
    pub snap: Option<String>,
    /// Snapshots to keep on each side.
    #[serde(default)]
    pub keep: Keep,
    /// Refuse a target that cannot hold everything.
    pub strict: bool,
    /// Do not look whether there is room.
    #[serde(default)]
    pub no_space_check: bool,
    /// Which part of the volume is replicated from now on; what it was without any.
    pub exclude: Vec<String>,
    pub include: Vec<String>,
    /// All of it again.
    pub everything: bool,
    #[serde(default)]
    pub care: DriftOptions,
    /// Begin anew where a standby is known that is not there any more.
    #[serde(default)]
    pub new_standby: bool,
    #[serde(default)]
    pub scrub: Scrubbing,
}

/// What a target must be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// It can hold everything.
    pub strict: bool,
    /// It may be too small, as far as can be told beforehand.
    pub no_space_check: bool,
}

pub(crate) const STRICT: Terms = Terms { strict: true, no_space_check: false };

/// What is done about changes to a standby by hand, and against them.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct DriftOptions {
    /// Compare all of its tree first, not only what the delta touches.
    pub check: bool,
    /// Keep the changes as a snapshot, and go back to the newest of the line.
    pub discard_drift: bool,
    /// From now on its tree is read-only between rounds, or is not; None leaves that as it is.
    #[serde(default)]
    pub read_only: Option<bool>,
}

/// How much each round reads again.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Scrubbing {
    /// Seconds in which everything is to come round; 0 for never.
    pub period: u64,
    /// Bytes that a round reads at most, on each side.
    pub limit: u64,
}

/// What becomes of changes that were made to a standby by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDrift {
    #[default]
    Refuse,
    /// They are kept as a snapshot, and the tree goes back.
    Discard,
    /// The tree goes on as it is.
    Accept,
}

/// How a delta travels.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct TransferOptions {
    pub compression: Compression,
    /// Bytes a second; as many as there can be without it.
    pub limit: Option<u64>,
}

/// How another machine is reached.
#[derive(Clone, Debug)]
pub struct SshOptions {
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

impl SshOptions {
    /// What ssh is told beyond its own configuration: the first of two options counts, so that the user's
    /// comes first.
    pub(crate) fn ssh_options(&self) -> Vec<String> {
        let mut options = self.options.clone();
        if self.rsh == SshOptions::default().rsh {
            let seconds = self.patience.as_secs().max(3);
            options.push(format!("ConnectTimeout={seconds}"));
            options.push(format!("ServerAliveInterval={}", seconds / 3));
            options.push("ServerAliveCountMax=3".to_owned());
        }
        options
    }
}

/// None where nothing is asked for: the volume's own stays. Patterns that cannot be understood are found
/// here, before anything is touched.
pub(crate) fn asked(options: &Options) -> Result<Option<Subset>> {
    let subset = Subset { exclude: options.exclude.clone(), include: options.include.clone() };
    match (options.everything, subset.is_everything()) {
        (true, true) => return Ok(Some(subset)),
        (false, true) => return Ok(None),
        (true, false) => {
            return Err(Error::usage(
                "everything is to be replicated, and patterns say what is not",
                "give the patterns or --everything",
            ));
        }
        (false, false) => {}
    }
    if subset.exclude.is_empty() {
        return Err(Error::usage(
            "include patterns bring back what exclude patterns leave out, and there are none of these",
            "give --exclude too; --exclude '/*' leaves out everything that is not included",
        ));
    }
    Matcher::new(&subset)?;
    Ok(Some(subset))
}
