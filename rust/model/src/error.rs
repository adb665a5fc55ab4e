//! The error type of the workspace. Its variants say what a caller can do, which the exit codes say too. A
//! message names the action and the path, and the cause is the source. Whatever names and peers put into a
//! message is made printable before it is shown.

use crate::guarded::Guarded;
use crate::printable::printable;
use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused: exit 1.
    #[error("cannot {action} {}", printable(&.path.to_string_lossy()))]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Parts of a tree cannot be read; `path` is the first of them: exit 1.
    #[error("{}", printable(.what))]
    Unread { what: String, advice: String, path: PathBuf, source: io::Error },
    /// The request makes no sense: exit 2.
    #[error("{}", printable(.what))]
    Usage { what: String, advice: String },
    /// Going on could destroy data: exit 3.
    #[error("{}", printable(.what))]
    Refused { what: String, advice: String },
    /// The same, by a guard that has measured a round: exit 3.
    #[error("{}", printable(.what))]
    Guarded { what: String, advice: String, found: Box<Guarded> },
    /// The space does not suffice: exit 3.
    #[error("{}", printable(.what))]
    NoSpace { what: String, advice: String },
    /// Something is not what its checksum or format says: exit 4.
    #[error("{}", printable(.what))]
    Integrity { what: String, advice: String },
    /// Bytes that a snapshot had are not there any more: exit 4.
    #[error("{}", printable(.what))]
    Lost { what: String, advice: String },
    /// The run was stopped on request, and the next command goes on: exit 5.
    #[error("interrupted")]
    Interrupted,
    /// The other end is gone or sent an unfinished stream; what has arrived is kept: exit 5.
    #[error("{}", printable(.what))]
    Cut { what: String, advice: String },
    /// Any other failure: exit 1.
    #[error("{}", printable(.what))]
    Failed { what: String, advice: String },
}

impl Error {
    pub fn usage(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Usage { what: what.into(), advice: advice.into() }
    }

    pub fn refused(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Refused { what: what.into(), advice: advice.into() }
    }

    pub fn integrity(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Integrity { what: what.into(), advice: advice.into() }
    }

    pub fn failed(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Failed { what: what.into(), advice: advice.into() }
    }

    /// The process exit code of the contract.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Io { .. } | Error::Unread { .. } | Error::Failed { .. } => 1,
            Error::Usage { .. } => 2,
            Error::Refused { .. } | Error::Guarded { .. } | Error::NoSpace { .. } => 3,
            Error::Integrity { .. } | Error::Lost { .. } => 4,
            Error::Interrupted | Error::Cut { .. } => 5,
        }
    }

    /// What was attempted, on which path, and why it failed.
    pub fn sentence(&self) -> String {
        match self {
            Error::Io { source, .. } => format!("{self}: {}", reason(source)),
            other => other.to_string(),
        }
    }

    /// What the reader can do next; empty if there is no advice.
    pub fn advice(&self) -> String {
        match self {
            Error::Usage { advice, .. }
            | Error::Refused { advice, .. }
            | Error::Guarded { advice, .. }
            | Error::NoSpace { advice, .. }
            | Error::Integrity { advice, .. }
            | Error::Lost { advice, .. }
            | Error::Cut { advice, .. }
            | Error::Unread { advice, .. }
            | Error::Failed { advice, .. } => printable(advice).into_owned(),
            Error::Interrupted => "run the same command again: it heals what was left and goes on".into(),
            Error::Io { source, .. } => io_advice(source).into(),
        }
    }

    /// Whether the disk, or this user's share of it, is full.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// Whether a file was shorter than what was to be read of it.
    pub fn is_short(&self) -> bool {
        match self {
            Error::Io { source, .. } | Error::Unread { source, .. } => {
                source.kind() == io::ErrorKind::UnexpectedEof
            }
            _ => false,
        }
    }

    /// The system's error number, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } | Error::Unread { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether a single entry cannot be read, which says nothing about other entries.
    pub fn is_unreadable(&self) -> bool {
        self.errno().is_some_and(|number| UNREADABLE.contains(&number))
    }
}

/// EPERM, EIO, EACCES, ETXTBSY, ENODATA, EBADMSG, ESTALE, EUCLEAN, EREMOTEIO, ENOKEY.
const UNREADABLE: [i32; 10] = [1, 5, 13, 26, 61, 74, 116, 117, 121, 126];

/// The system's message without the number that Rust appends.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((words, _)) => printable(words).into_owned(),
        None => printable(&text).into_owned(),
    }
}

fn io_advice(error: &io::Error) -> &'static str {
    use io::ErrorKind::*;
    match error.kind() {
        PermissionDenied => "run as root, or as the owner of what is named",
        StorageFull | QuotaExceeded => "free space there and run the same command again",
        ReadOnlyFilesystem => "mount it read-write, or name another target",
        IsADirectory | NotADirectory | AlreadyExists => {
            "something else is in the way there: move it away and run the same command again"
        }
        NotFound => "check the path; if the tree is changing, run the command again",
        _ => "",
    }
}

/// Adds the attempted action and its path to a system error.
pub trait Context<T> {
    fn context(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;

    /// The same where a path costs something, and most calls succeed.
    fn context_at<P: AsRef<Path>>(self, action: &'static str, path: impl FnOnce() -> P) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| {
            // Messages that already name their subject need no more words.
            let other = |source| Error::Io { action, path: path.as_ref().to_path_buf(), source };
            e.into().downcast().unwrap_or_else(other)
        })
    }

    fn context_at<P: AsRef<Path>>(self, action: &'static str, path: impl FnOnce() -> P) -> Result<T> {
        match self {
            Ok(value) => Ok(value),
            error => error.context(action, path()),
        }
    }
}
