//! Directories of a store that are their maker's for as long as that runs, whoever works on the volume meanwhile.

use crate::Volume;
use snapsync_model::{Context, Error, Result};
use snapsync_sys::{Lock, Spot};
use uuid::Uuid;

/// Goes with its maker, or with the next command that works on the volume.
#[derive(Debug)]
pub struct Alive {
    dir: Spot,
    _lock: Lock,
}

impl Alive {
    pub fn make(above: &Spot, name: &str) -> Result<Alive> {
        above.ensure_dir().context("create the directory", above.show())?;
        let dir = above.join(name);
        dir.create_dir().context("create the directory", dir.show())?;
        let lock = dir.join("lock").try_lock().context("lock", dir.show())?;
        let lock = lock.ok_or_else(|| Error::failed(format!("{} is taken", dir.show().display()), ""))?;
        Ok(Alive { dir, _lock: lock })
    }

    pub fn dir(&self) -> &Spot {
        &self.dir
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let _ = self.dir.remove_tree();
    }
}

fn is_alive(dir: &Spot) -> bool {
    matches!(dir.join("lock").try_lock(), Ok(None))
}

fn inside(above: &Spot) -> Vec<(String, Spot)> {
    let entries = above.list().into_iter().flatten();
    let named = entries.filter_map(|entry| String::from_utf8(entry.name.to_vec()).ok());
    named.map(|name| (name.clone(), above.join(name))).collect()
}

/// Removes what makers have left that do not run any more.
pub(crate) fn clear(above: &Spot) {
    inside(above).iter().filter(|(_, dir)| !is_alive(dir)).for_each(|(_, dir)| {
        let _ = dir.remove_tree();
    });
}

impl Volume {
    fn readings(&self) -> Spot {
        self.store().join("reading")
    }

    /// From now on this snapshot is read by somebody who does not hold the lock. The caller does.
    pub fn read_out(&self, snapshot: Uuid) -> Result<Alive> {
        Alive::make(&self.readings(), &format!("{snapshot}.{}", Uuid::new_v4()))
    }

    /// Which snapshots are read so; one may be several times.
    pub fn read_by_others(&self) -> Vec<Uuid> {
        let alive = inside(&self.readings()).into_iter().filter(|(_, dir)| is_alive(dir));
        alive.filter_map(|(name, _)| name.split_once('.')?.0.parse().ok()).collect()
    }

    pub(crate) fn clear_readings(&self) {
        clear(&self.readings());
    }
}
