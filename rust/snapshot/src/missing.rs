//! What somebody has taken from a store by hand, or left behind elsewhere: told as what it is.

use crate::Volume;
use snapsync_model::{Context, Error, Provider, Result, Role, SnapshotInfo};
use snapsync_sys::{Root, swap_names};
use snapsync_walk::STORE;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The inode of the empty directory that a Btrfs snapshot has in the place of a subvolume.
const STUB: u64 = 2;

impl Volume {
    /// What a snapshot that is listed is no snapshot without, if it is gone.
    pub fn missing(&self, info: &SnapshotInfo) -> Option<PathBuf> {
        let name = if info.provider == Provider::Btrfs { "tree" } else { "table.arrow" };
        let path = self.dir_of(info.id).join(name);
        let is_gone =
            |e: io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        path.symlink_metadata().err().is_some_and(is_gone).then_some(path)
    }

    pub fn expect_there(&self, info: &SnapshotInfo) -> Result<()> {
        let Some(missing) = self.missing(info) else { return Ok(()) };
        let (name, path) = (&info.name, self.path().display());
        let then = if self.info().role == Role::Standby {
            "then a round with --discard-drift goes on from an older one".to_owned()
        } else {
            format!(
                "where it was the newest that a standby has, `snapsync rejoin STANDBY {path}` then takes that \
                 back to an older one which both have"
            )
        };
        Err(Error::integrity(
            format!("snapshot {name} of {path} was deleted by hand: {} is gone", missing.display()),
            format!("`snapsync delete {path}@{name}` takes it off the list; {then}"),
        ))
    }

    /// A snapshot of a subvolume that took its place, after a rollback, has not its store.
    pub fn expect_own_store(path: &Path) -> Result<()> {
        let store = path.join(STORE).join("store");
        if !store.symlink_metadata().is_ok_and(|found| found.is_dir() && found.ino() == STUB) {
            return Ok(());
        }
        let (show, store) = (path.display(), store.display());
        Err(Error::refused(
            format!(
                "{show} is a snapshot that was put in the place of a volume, and the volume's store is still in \
                 the subvolume that was there before"
            ),
            format!(
                "`rmdir {store}`, then `mv OLD/{STORE}/store {store}`, where OLD is what that subvolume is called \
                 now; if it is gone, `rm -r {show}/{STORE}` makes this an ordinary directory, which begins anew"
            ),
        ))
    }

    /// Btrfs takes no snapshot while the system swaps to a file in the subvolume.
    pub(crate) fn is_swapped_to(&self, error: Error) -> Error {
        let is_busy =
            matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::ExecutableFileBusy);
        let Some(file) = is_busy.then(|| self.swap_file()).transpose().ok().flatten().flatten() else {
            return error;
        };
        let (path, file) = (self.path().display(), file.display());
        Error::refused(
            format!("cannot take a snapshot of {path}: the system swaps to {file}"),
            format!(
                "`swapoff {file}` until the round is done, or for good move it to a subvolume of its own, which \
                 snapshots leave out"
            ),
        )
    }

    fn swap_file(&self) -> Result<Option<PathBuf>> {
        let root = Root::open(self.path())?;
        let dev = rustix::fs::fstat(root.fd()).context("read the attributes of", self.path())?.st_dev;
        let names = swap_names().context("read", "/proc/swaps")?;
        Ok(names.into_iter().find(|name| name.metadata().is_ok_and(|found| found.dev() == dev)))
    }
}
