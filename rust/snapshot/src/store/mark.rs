//! The identity of a directory outside the store.

use serde::{Deserialize, Serialize};
use snapsync_model::{Context, Error, Result};
use snapsync_sys::{Entry, Root, btrfs};
use std::ffi::OsStr;
use std::path::Path;
use uuid::Uuid;

/// A subvolume is identified by its UUID, any other directory by inode number and birth time: device numbers
/// change with mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub subvolume: Option<Uuid>,
    pub inode: u64,
    pub birth: u64,
}

impl Mark {
    pub fn of(root: &Root) -> Result<Mark> {
        let path = root.path();
        let subvolume = if btrfs::is_subvolume(root.fd()).context("read the subvolume of", path)? {
            let found = btrfs::subvolume(root.fd()).context("read the subvolume of", path)?;
            Some(Uuid::from_bytes(found.uuid))
        } else {
            None
        };
        let top = Entry::from_open(root.fd().try_clone_to_owned().context("open", path)?);
        let stat = top.stat().context("read the attributes of", path)?;
        Ok(Mark { subvolume, inode: stat.ino, birth: stat.generation })
    }
}

pub(crate) fn split(path: &Path) -> Result<(Root, &OsStr)> {
    let nameless = || Error::usage(format!("{} has no name", path.display()), "name another directory");
    Ok((Root::open(path.parent().ok_or_else(nameless)?)?, path.file_name().ok_or_else(nameless)?))
}
