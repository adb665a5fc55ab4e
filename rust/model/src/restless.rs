//! Collects the files whose bytes did not hold still while they were read. Others can be read meanwhile, and
//! whoever asked for them decides what becomes of these.

use crate::error::{Error, Result};
use crate::mutex::{locked, unlocked};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Collects inode numbers from several threads.
#[derive(Debug, Default)]
pub struct Restless(Mutex<BTreeSet<u64>>);

impl Restless {
    /// The value, or None if the bytes of this inode are not there any more. Fails for every other error.
    pub fn take<T>(&self, ino: u64, result: Result<T>) -> Result<Option<T>> {
        match result {
            // One that was cut may have grown again before it was asked for its size.
            Err(error) if matches!(error, Error::Lost { .. }) || error.is_short() => {
                locked(&self.0).insert(ino);
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Nothing more of this inode is read.
    pub fn leave_out(&self, ino: u64) {
        locked(&self.0).insert(ino);
    }

    pub fn has(&self, ino: u64) -> bool {
        locked(&self.0).contains(&ino)
    }

    pub fn into_inner(self) -> BTreeSet<u64> {
        unlocked(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Context;
    use std::io;

    #[test]
    fn only_what_is_lost_or_cut_is_noted() {
        let restless = Restless::default();
        let lost = || Error::Lost { what: String::new(), advice: String::new() };
        let read = |kind: io::ErrorKind| Err::<(), _>(io::Error::from(kind)).context("read", "f");
        assert_eq!(restless.take(7, read(io::ErrorKind::UnexpectedEof)).unwrap(), None);
        assert!(restless.take(8, read(io::ErrorKind::TimedOut)).is_err());
        assert_eq!(restless.take(3, Ok(1)).unwrap(), Some(1));
        for ino in [9, 5, 9] {
            assert_eq!(restless.take::<()>(ino, Err(lost())).unwrap(), None);
        }
        assert!(restless.take::<()>(4, Err(Error::Interrupted)).is_err());
        assert!(restless.has(5) && !restless.has(3));
        assert_eq!(restless.into_inner(), BTreeSet::from([5, 7, 9]));
    }
}
