//! A path below a root: it cannot climb out of it, be absolute, or contain a NUL.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest path that is followed. Entries with longer paths are left out; nobody works with trees that
/// deep.
pub const LONGEST_PATH: usize = 64 << 10;

/// Names joined by `/`, as bytes; empty for the root itself. No name is empty, `.` or `..`, or contains a
/// NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    pub fn root() -> Self {
        RelPath(Vec::new())
    }

    /// `.` and the empty string mean the root.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() || bytes == b"." {
            return Ok(Self::root());
        }
        bytes.split(|b| *b == b'/').try_for_each(check_name)?;
        Ok(RelPath(bytes.to_vec()))
    }

    /// The path of `name` in this directory.
    pub fn join(&self, name: &[u8]) -> Result<Self> {
        check_name(name)?;
        if name.contains(&b'/') {
            return Err(bad_name(name));
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Ok(RelPath(bytes))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The directory and the last name; None for the root.
    pub fn split(&self) -> Option<(RelPath, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (RelPath(self.0[..at].to_vec()), &self.0[at + 1..]),
            None => (Self::root(), &self.0),
        })
    }

    /// The number of names; 0 for the root.
    pub fn depth(&self) -> usize {
        if self.is_root() { 0 } else { 1 + self.0.iter().filter(|b| **b == b'/').count() }
    }

    /// The path as text for people: `.` for the root, replacement characters where a name is not UTF-8.
    pub fn display(&self) -> Cow<'_, str> {
        if self.is_root() { Cow::Borrowed(".") } else { String::from_utf8_lossy(&self.0) }
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&0) {
        Err(bad_name(name))
    } else {
        Ok(())
    }
}

fn bad_name(name: &[u8]) -> Error {
    Error::integrity(
        format!("{:?} is not a valid name of a directory entry", String::from_utf8_lossy(name)),
        "the manifest or delta is damaged or hostile: make it again from its source",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_climbs_out_is_a_path() {
        for bad in ["..", "a/..", "../a", "/a", "a//b", "a/", "a/./b", "a\0b", "./a"] {
            assert!(RelPath::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
        for bad in ["", ".", "..", "a/b", "\0"] {
            assert!(RelPath::root().join(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn split_undoes_join() {
        let dir = RelPath::new(b"a/b").unwrap();
        let file = dir.join(b"c").unwrap();
        assert_eq!(file.split().unwrap(), (dir, &b"c"[..]));
        assert_eq!((file.depth(), RelPath::root().depth()), (3, 0));
    }
}
