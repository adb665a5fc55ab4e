//! What a client may ask about volumes on this machine: the verbs that need no second half of a round.

use crate::delta::selected::Select;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The feature of an end that answers `Request::Question`.
pub(crate) const QUESTION: &str = "question";

/// Each is a verb with its options. The place that it is about stands beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    Status {
        history: bool,
    },
    List {
        alone: bool,
    },
    Find {
        select: Select,
        deleted: bool,
        since: Option<String>,
        until: Option<String>,
    },
    /// The place is a file in a volume.
    Versions {
        part: Option<String>,
        diff: Option<Vec<u64>>,
    },
    /// The place is the older side; `manifest` says whether the changes are to be sent themselves.
    Diff {
        target: Vec<u8>,
        manifest: bool,
    },
    /// Counts by the names of their rules: one that is not known is refused.
    Prune {
        keep: BTreeMap<String, i64>,
        dry_run: bool,
    },
    /// The place is `VOLUME@SNAP`, which is to be fetched next.
    Snapshot,
}

impl Question {
    /// Whether anything is deleted.
    pub(super) fn deletes(&self) -> bool {
        matches!(self, Question::Prune { dry_run: false, .. })
    }

    /// The verb, for messages.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Question::Status { .. } => "status",
            Question::List { .. } => "list",
            Question::Find { .. } => "find",
            Question::Versions { .. } => "versions",
            Question::Diff { .. } => "diff",
            Question::Prune { .. } => "prune",
            Question::Snapshot => "restore",
        }
    }
}
