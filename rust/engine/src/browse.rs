//! A snapshot, mounted to look into.

use crate::place;
use crate::report::Browsed;
use crate::restore_to::named;
use snapsync_browse::Mount;
use snapsync_model::{Context, Error, Monitor, Result, Stage};
use snapsync_snapshot::Volume;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Mounts a snapshot read-only on the directory `at`, which is empty or absent. It is unmounted when the mount goes.
pub fn browse(address: &Path, at: &Path, monitor: &Monitor) -> Result<(Browsed, Mount)> {
    let started = Instant::now();
    let (volume, snapshot) = named(address)?;
    let (at, exists) = mount_point(at, &volume)?;
    monitor.start(Stage::Compare, 0);
    let made = Made::new(&at, exists)?;
    let bound = match volume.tree_of(&snapshot).filter(|_| snapshot.subset.is_everything()) {
        Some(tree) => Mount::bind(&tree.tree()?.own_path(), &at)?,
        None => None,
    };
    let mount = match bound {
        Some(mount) => mount,
        None => Mount::serve(volume.open_snapshot(&snapshot, monitor)?, &at, monitor)?,
    };
    made.keep();
    let browsed = Browsed {
        verb: "browse",
        volume: volume.info(),
        snapshot,
        path: at,
        served: mount.is_served(),
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((browsed, mount))
}

fn mount_point(path: &Path, volume: &Volume) -> Result<(PathBuf, bool)> {
    if path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotConnected) {
        let show = path.display();
        return Err(Error::refused(
            format!("cannot mount a snapshot on {show}: what was mounted there does not answer any more"),
            format!("clear it with `umount {show}`"),
        ));
    }
    let place::Target { path, exists, .. } = place::target_of(path)?;
    let occupied = |why: &str| {
        let what = format!("cannot mount a snapshot on {}: {why}", path.display());
        Err(Error::refused(what, "name an absent or empty directory"))
    };
    if path.starts_with(volume.path().join(snapsync_walk::STORE)) {
        return occupied("it is in the store of the volume");
    }
    if exists && std::fs::read_dir(&path).context("read", &path)?.next().is_some() {
        return occupied("it is not empty");
    }
    Ok((path, exists))
}

/// A directory that goes again unless something gets mounted on it.
struct Made<'a>(Option<&'a Path>);

impl<'a> Made<'a> {
    fn new(path: &'a Path, exists: bool) -> Result<Made<'a>> {
        if exists {
            return Ok(Made(None));
        }
        std::fs::create_dir(path).context("create the directory", path)?;
        Ok(Made(Some(path)))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = std::fs::remove_dir(path);
        }
    }
}
