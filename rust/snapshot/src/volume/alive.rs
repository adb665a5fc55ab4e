//! Directories of a store that belong to a running command, even while others work on the volume.

use crate::volume::handle::Volume;
use crate::volume::locked::LockedVolume;
use snapsync_model::{Context, Error, Result, SnapshotInfo};
use snapsync_sys::{Lock, Spot};
use std::io;
use std::time::Duration;
use uuid::Uuid;

/// How often other commands may remove such a directory, as a leftover, before its maker has locked it.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// It is removed with its maker, or by the next command that works on the volume.
#[derive(Debug)]
pub struct Alive {
    dir: Spot,
    /// None once it is dropped.
    lock: Option<Lock>,
}

impl Alive {
    pub fn make(above: &Spot, name: &str) -> Result<Alive> {
        above.ensure_dir().context("create the directory", above.show())?;
        let dir = above.join(name);
        for _ in 0..TRIES {
            if let Some(lock) = locked(&dir)? {
                return Ok(Alive { dir, lock: Some(lock) });
            }
        }
        Err(Error::failed(format!("{} is taken away again and again", dir.show().display()), ""))
    }

    pub fn dir(&self) -> &Spot {
        &self.dir
    }
}

/// Locks it. Before that, others may take it for a leftover, lock it themselves and remove it.
fn locked(dir: &Spot) -> Result<Option<Lock>> {
    dir.ensure_dir().context("create the directory", dir.show())?;
    let file = dir.join("lock");
    match file.lock() {
        Ok(lock) => Ok(Some(lock).filter(|lock| lock.is_of(&file))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => {
            let _ = dir.remove_tree();
            Err(e).context("lock", dir.show())
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        remove(&self.dir, self.lock.take());
    }
}

/// Removes a directory of which the lock is held. A file that is removed while it is open has another name
/// until it is closed, on FUSE and NFS, so that the directory itself only goes after that. If somebody has
/// begun in it by then, it stays.
fn remove(dir: &Spot, lock: Option<Lock>) {
    for entry in dir.list().into_iter().flatten() {
        let _ = String::from_utf8(entry.name.to_vec()).map(|name| dir.join(&name).remove_tree());
    }
    drop(lock);
    let is_left = |e: io::Error| e.kind() == io::ErrorKind::DirectoryNotEmpty;
    for _ in 0..TRIES {
        if !dir.remove_dir().is_err_and(is_left) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether its maker still runs; true if unknown. This check makes and changes nothing.
fn is_alive(dir: &Spot) -> bool {
    match dir.join("lock").is_locked() {
        Err(e) => e.kind() != io::ErrorKind::NotFound,
        Ok(is_locked) => is_locked,
    }
}

fn inside(above: &Spot) -> Vec<(String, Spot)> {
    let entries = above.list().into_iter().flatten();
    let named = entries.filter_map(|entry| String::from_utf8(entry.name.to_vec()).ok());
    named.map(|name| (name.clone(), above.join(name))).collect()
}

/// Removes what commands have left that do not run any more. It holds the lock of each, so that no command
/// begins in it meanwhile.
pub(crate) fn clear(above: &Spot) {
    for (_, dir) in inside(above) {
        match dir.join("lock").try_lock() {
            Ok(None) => {}
            lock => remove(&dir, lock.ok().flatten()),
        }
    }
}

impl Volume {
    fn readings(&self) -> Spot {
        self.store().join("reading")
    }

    /// The snapshots that are being read, each with the one it is compared with.
    pub fn read_by_others(&self) -> Vec<(Uuid, Option<Uuid>)> {
        let alive = inside(&self.readings()).into_iter().filter(|(_, dir)| is_alive(dir));
        alive.filter_map(|(name, _)| parts(&name)).collect()
    }

    pub fn is_read(&self, snapshot: Uuid) -> bool {
        self.read_by_others().iter().any(|(read, base)| *read == snapshot || *base == Some(snapshot))
    }

    /// Refuses to delete a snapshot that is being sent.
    pub(crate) fn expect_unread(&self, info: &SnapshotInfo) -> Result<()> {
        if !self.is_read(info.id) {
            return Ok(());
        }
        Err(Error::refused(
            format!("snapshot {} of {} is being sent to a standby", info.name, self.path().display()),
            "wait until that round has ended, then run this again",
        ))
    }
}

impl LockedVolume {
    /// From now on this snapshot, and what it is compared with, are read by somebody who need not hold the
    /// lock.
    pub fn read_out(&self, snapshot: Uuid, base: Option<Uuid>) -> Result<Alive> {
        let base = base.map(|base| format!("{base}.")).unwrap_or_default();
        Alive::make(&self.readings(), &format!("{snapshot}.{base}{}", Uuid::new_v4()))
    }

    pub(crate) fn clear_readings(&self) {
        clear(&self.readings());
    }
}

fn parts(name: &str) -> Option<(Uuid, Option<Uuid>)> {
    let (snapshot, rest) = name.split_once('.')?;
    let base = rest.split_once('.').map(|(base, _)| base.parse()).transpose().ok()?;
    Some((snapshot.parse().ok()?, base))
}
