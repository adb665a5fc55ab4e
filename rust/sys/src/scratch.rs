//! Directories for what is needed for a moment.

use snapsync_model::{Context, Result};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use tempfile::{Builder, TempDir};

/// A temporary directory that goes with its value. It is its owner's alone: what comes there tells names that
/// others may not see.
pub fn scratch() -> Result<TempDir> {
    let made = Builder::new().prefix("snapsync-").permissions(Permissions::from_mode(0o700)).tempdir();
    made.context("make a temporary directory in", std::env::temp_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_looks_into_it() {
        let dir = scratch().unwrap();
        assert_eq!(dir.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
