//! Existing entries that the commit changes: whether this process may do that.

use crate::check::rehearsal::trial::Rehearsal;
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapsync_model::{Change, Context, Error, Kind, Result};
use snapsync_sys::{Entry, PROTECTIVE, Stat, swap_files};
use std::io::ErrorKind;

impl Rehearsal<'_> {
    /// Refuses an entry that the commit could not change.
    pub(crate) fn existing(&mut self, change: &Change, entry: &Entry, stat: &Stat) -> Result<()> {
        let goes_with_its_name = change.flags.deleted && change.kind != Kind::Directory;
        if change.only_lends() || stat.kind != change.kind {
            return Ok(());
        }
        let protective = stat.attributes.flags & PROTECTIVE;
        if protective != 0 && !self.flag(change.kind == Kind::Directory, protective)? {
            return Err(self.refuse(change, "its immutable or append-only flag cannot be taken off"));
        }
        let is_owned = goes_with_its_name || self.is_owned(change.kind, entry, stat)?;
        if !is_owned {
            let (uid, gid) = (stat.attributes.uid, stat.attributes.gid);
            return Err(self.refuse(change, &format!("it belongs to user {uid} and group {gid}")));
        }
        if let Some(new) = change.xattrs.as_ref().filter(|_| change.survives()) {
            let old = entry.xattrs().context("read the extended attributes of", self.root.path())?;
            self.together(change, &old, new)?;
        }
        if change.kind != Kind::File {
            return Ok(());
        }
        if self.swaps()?.contains(&(stat.dev, stat.ino)) {
            return Err(self.refuse(change, "the system swaps to it (swapoff ends that)"));
        }
        // The commit gives an owner the rights that the mode denies him.
        let is_written = change.survives() && change.flags.data && protective == 0;
        match is_written.then(|| entry.open(OFlags::RDWR)) {
            Some(Err(e)) if e.kind() == ErrorKind::ExecutableFileBusy => Err(self.refuse(
                change,
                "somebody runs it (`fuser` names the processes; end them, or mount a standby noexec)",
            )),
            Some(Err(e)) if e.raw_os_error() != Some(Errno::ACCESS.raw_os_error()) => {
                Err(self.refuse(change, &format!("it cannot be written to ({e})")))
            }
            _ => Ok(()),
        }
    }

    /// Whether this process may change what belongs to this user and group as its owner may.
    fn is_owned(&mut self, kind: Kind, entry: &Entry, stat: &Stat) -> Result<bool> {
        let key = (stat.attributes.uid, stat.attributes.gid);
        if key.0 == rustix::process::geteuid().as_raw() {
            return Ok(true);
        }
        if let Some(known) = self.owned.get(&key) {
            return Ok(*known);
        }
        let owned = match entry.is_owned(kind) {
            Some(owned) => owned,
            None => self.with_probe(Kind::File, |probe| {
                Ok(probe.set_owner(key.0, key.1).is_ok() && probe.set_mtime(0).is_ok())
            })?,
        };
        self.owned.insert(key, owned);
        Ok(owned)
    }

    fn swaps(&mut self) -> Result<&[((u32, u32), u64)]> {
        if self.swaps.is_none() {
            self.swaps = Some(swap_files().context("read", "/proc/swaps")?);
        }
        Ok(self.swaps.as_deref().unwrap_or_default())
    }

    pub(crate) fn refuse(&self, change: &Change, why: &str) -> Error {
        let path = change.old_path.clone().unwrap_or_default();
        Error::refused(
            format!("{} cannot be changed: {why}", self.root.show(&path).display()),
            "put that right, or run this as a user who may change it; nothing was changed",
        )
    }
}
