//! What a standby remembers of the log that it follows: a store that shows another one, or an older one, is
//! found out.

use snapsync_log::{Commit, Log};
use snapsync_model::{Error, Result};
use snapsync_snapshot::FollowedLog;

/// The log as it is now, with its newest commit and the digest of that.
pub(crate) fn followed(log: &Log, (head, digest): (&Commit, &str)) -> FollowedLog {
    FollowedLog {
        address: log.address().to_string(),
        id: log.id(),
        sequence: head.sequence,
        digest: digest.to_owned(),
    }
}

/// Fails if a log is not the one that was followed, or has lost commits.
pub(crate) fn is_same(log: &Log, (head, digest): (&Commit, &str), known: &FollowedLog) -> Result<()> {
    let address = log.address();
    if known.id != log.id() {
        if known.address != address.to_string() || log.is_told()? {
            return Ok(());
        }
        return Err(Error::integrity(
            format!("another log is at {address} than the one that this standby follows"),
            format!("if you began it anew, `snapsync trust {address} KEY` with its key, then go on"),
        ));
    }
    let found = match known.sequence.cmp(&head.sequence) {
        std::cmp::Ordering::Greater => None,
        std::cmp::Ordering::Equal => Some(digest.to_owned()),
        std::cmp::Ordering::Less => log.commit(known.sequence)?.map(|(_, digest)| digest),
    };
    if found.as_ref() == Some(&known.digest) {
        return Ok(());
    }
    let what = if found.is_some() { "shows another one now" } else { "does not show it any more" };
    Err(Error::integrity(
        format!("{address} had commit {} when this standby last read it, and {what}", known.sequence),
        "something changes or hides what is in the log: bring back its objects; nothing was applied",
    ))
}
