//! Reports what somebody removed from a store by hand, or left behind elsewhere.

use crate::store::bound::hold;
use crate::volume::handle::Volume;
use snapsync_model::{Context, Error, Kind, Provider, RelPath, Result, Role, SnapshotInfo};
use snapsync_sys::{Root, Spot, swap_names};
use snapsync_walk::STORE;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The inode of the empty directory that a Btrfs snapshot has in the place of a subvolume.
const STUB: u64 = 2;

impl Volume {
    /// The essential part of a listed snapshot that is missing, if any.
    pub fn missing(&self, info: &SnapshotInfo) -> Option<Spot> {
        let name = if info.provider == Provider::Btrfs { "tree" } else { "table.arrow" };
        let spot = self.dir_of(info.id).join(name);
        spot.stat_if_there().is_ok_and(|found| found.is_none()).then_some(spot)
    }

    pub fn expect_there(&self, info: &SnapshotInfo) -> Result<()> {
        let Some(missing) = self.missing(info) else { return Ok(()) };
        let (name, path) = (&info.name, self.path().display());
        let then = if self.info().role == Role::Standby {
            "then a round with --discard-drift goes on from an older one".to_owned()
        } else {
            format!(
                "where it was the newest that a standby has, `snapsync rejoin STANDBY {path}` then takes \
                 that \
                 back to an older one which both have"
            )
        };
        Err(Error::integrity(
            format!("snapshot {name} of {path} was deleted by hand: {} is gone", missing.show().display()),
            format!("`snapsync delete {}` takes it off the list; {then}", self.address_of(name).display()),
        ))
    }

    /// Refuses a snapshot of a subvolume that took the volume's place in a rollback: it lacks the store.
    pub fn expect_own_store(root: &Root) -> Result<()> {
        let store = RelPath::new(STORE.as_bytes())?.join(b"store")?;
        let root = &hold(root.again()?)?;
        let found = root.entry(&store).and_then(|entry| entry.stat());
        if !found.is_ok_and(|found| found.kind == Kind::Directory && found.ino == STUB) {
            return Ok(());
        }
        let (show, store) = (root.path().display(), root.show(&store));
        let within = store.strip_prefix(root.path()).unwrap_or(&store).display();
        let store = store.display();
        Err(Error::refused(
            format!(
                "{show} is a snapshot that was put in the place of a volume, and the volume's store is still \
                 in \
                 the subvolume that was there before"
            ),
            format!(
                "`rmdir {store}`, then `mv OLD/{within} {store}`, where OLD is what that subvolume is \
                 called \
                 now, and `snapsync recover {show} --adopt`; if it is gone, `rm -r {show}/{STORE}` makes \
                 this an \
                 ordinary directory, which begins anew"
            ),
        ))
    }

    /// Explains that Btrfs takes no snapshot while the system swaps to a file in the subvolume.
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
                "`swapoff {file}` until the round is done, or for good move it to a subvolume of its own, \
                 which \
                 snapshots leave out"
            ),
        )
    }

    fn swap_file(&self) -> Result<Option<PathBuf>> {
        let dev = rustix::fs::fstat(self.root().fd()).context("read the attributes of", self.path())?.st_dev;
        let names = swap_names().context("read", "/proc/swaps")?;
        Ok(names.into_iter().find(|name| name.metadata().is_ok_and(|found| found.dev() == dev)))
    }
}
