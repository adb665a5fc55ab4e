//! Collects the entries of a tree that cannot be read. Nothing may be concluded about them, and whoever
//! repairs the tree needs to see all of them at once rather than one a round.

use crate::error::{Error, Result};
use crate::mutex::locked;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

/// After this many failures the run stops: each of them may take a disk long.
const ENOUGH: usize = 100;
/// The number of entries that the message names.
const NAMED: usize = 20;

/// Collects the errors of several threads.
#[derive(Default)]
pub struct Unread(Mutex<BTreeMap<PathBuf, Error>>);

impl Unread {
    /// Records an unreadable entry. Fails for every other error, and when there are `ENOUGH`.
    pub fn note(&self, error: Error) -> Result<()> {
        let path = match &error {
            Error::Io { path, .. } if error.is_unreadable() => path.clone(),
            _ => return Err(error),
        };
        let mut found = locked(&self.0);
        found.insert(path, error);
        if found.len() < ENOUGH { Ok(()) } else { Err(told(std::mem::take(&mut found))) }
    }

    /// The value, or None for an entry that cannot be read.
    pub fn take<T>(&self, result: Result<T>) -> Result<Option<T>> {
        result.map(Some).or_else(|error| self.note(error).map(|()| None))
    }

    /// Fails if anything was unreadable, and names it.
    pub fn finish(&self) -> Result<()> {
        let found = std::mem::take(&mut *locked(&self.0));
        if found.is_empty() { Ok(()) } else { Err(told(found)) }
    }
}

fn told(found: BTreeMap<PathBuf, Error>) -> Error {
    let count = found.len();
    let sentences: Vec<String> = found.values().take(NAMED).map(Error::sentence).collect();
    let more = match count.saturating_sub(NAMED) {
        0 => String::new(),
        _ if count >= ENOUGH => format!("; and {} more at least", count - NAMED),
        more => format!("; and {more} more"),
    };
    let what = sentences.join("; ") + &more;
    let Some((path, Error::Io { source, .. })) = found.into_iter().next() else {
        return Error::failed(what, ADVICE);
    };
    Error::Unread { what, advice: ADVICE.into(), path, source }
}

const ADVICE: &str =
    "nothing was skipped or assumed unchanged: make this readable, or leave it out with --exclude";

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn failing(path: &str, errno: i32) -> Error {
        let source = io::Error::from_raw_os_error(errno);
        Error::Io { action: "open", path: path.into(), source }
    }

    #[test]
    fn all_is_named_in_order_and_once() {
        let unread = Unread::default();
        for path in ["/v/b", "/v/a", "/v/b"] {
            unread.note(failing(path, 13)).unwrap();
        }
        assert_eq!(unread.take(Ok(1)).unwrap(), Some(1));
        let error = unread.finish().unwrap_err();
        assert_eq!(
            error.sentence(),
            "cannot open /v/a: Permission denied; cannot open /v/b: Permission denied"
        );
        assert_eq!((error.exit_code(), error.errno()), (1, Some(13)));
        assert!(unread.finish().is_ok());
    }

    #[test]
    fn it_ends_after_enough_and_at_once_for_another_reason() {
        let unread = Unread::default();
        assert_eq!(unread.note(failing("/v/a", 2)).unwrap_err().errno(), Some(2));
        assert!(unread.note(Error::Interrupted).is_err());
        for n in 1..ENOUGH {
            unread.note(failing(&format!("/v/{n}"), 5)).unwrap();
        }
        let sentence = unread.note(failing("/v/last", 5)).unwrap_err().sentence();
        assert!(sentence.ends_with("; and 80 more at least"), "{sentence}");
    }
}
