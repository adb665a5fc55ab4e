//! Mounts a snapshot to look into it.

use crate::location::inside::is_in_store;
use crate::location::place::named;
use crate::location::{directory, target};
use crate::report::snapshots::Browsed;
use snapsync_browse::{Mount, Point};
use snapsync_model::{Context, Error, Monitor, Result, Stage};
use snapsync_snapshot::Volume;
use snapsync_sys::{Root, fault, read_dir};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Mounts a snapshot read-only on the directory `at`, which is empty or absent. It is unmounted when the
/// mount is dropped.
pub fn browse(address: &Path, at: &Path, monitor: &Monitor) -> Result<(Browsed, Mount)> {
    let started = Instant::now();
    let (volume, snapshot) = named(address)?;
    let at = mount_point(at, &volume)?;
    monitor.start(Stage::Compare, 0);
    let name = at.path.file_name().unwrap_or_default();
    let made = Made::new(&at.above, name, at.directory)?;
    fault::point("browse.opened");
    let point = Point::new(&at.above, name, made.directory.again()?)?;
    let bound = match volume.tree_of(&snapshot).filter(|_| snapshot.subset.is_everything()) {
        Some(tree) => Mount::bind(tree.tree()?.fd(), &point)?,
        None => None,
    };
    let mount = match bound {
        Some(mount) => mount,
        None => Mount::serve(volume.open_snapshot(&snapshot, monitor)?, &point, monitor)?,
    };
    made.keep();
    let browsed = Browsed {
        verb: "browse",
        volume: volume.info(),
        snapshot,
        path: at.path,
        served: mount.is_served(),
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((browsed, mount))
}

/// The mount point: the directory that is open here counts, whatever takes its name.
struct MountPoint {
    path: PathBuf,
    above: Root,
    /// None if it does not exist yet.
    directory: Option<Root>,
}

fn mount_point(path: &Path, volume: &Volume) -> Result<MountPoint> {
    if path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotConnected) {
        let show = path.display();
        return Err(Error::refused(
            format!("cannot mount a snapshot on {show}: what was mounted there does not answer any more"),
            format!("clear it with `umount {show}`"),
        ));
    }
    let target::Target { path, exists, .. } = target::target_of(path)?;
    let occupied = |why: &str| {
        let what = format!("cannot mount a snapshot on {}: {why}", path.display());
        Err(Error::refused(what, "name an absent or empty directory"))
    };
    if is_in_store(&path, volume) {
        return occupied("it is in the store of the volume");
    }
    let above = Root::open_straight(directory::parent(&path)?)?;
    let directory = if exists { Some(Root::open_straight(&path)?) } else { None };
    if let Some(directory) = &directory
        && !read_dir(directory.fd()).context("read", &path)?.is_empty()
    {
        return occupied("it is not empty");
    }
    Ok(MountPoint { path, above, directory })
}

/// A directory that was made for the mount, and is removed unless something is mounted on it.
struct Made<'a> {
    above: Option<(&'a Root, &'a OsStr)>,
    directory: Root,
}

impl<'a> Made<'a> {
    fn new(above: &'a Root, name: &'a OsStr, directory: Option<Root>) -> Result<Made<'a>> {
        match directory {
            Some(directory) => Ok(Made { above: None, directory }),
            None => Ok(Made { above: Some((above, name)), directory: above.make_directory(name)? }),
        }
    }

    fn keep(mut self) {
        self.above = None;
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Some((above, name)) = self.above {
            let _ = rustix::fs::unlinkat(above.fd(), name, rustix::fs::AtFlags::REMOVEDIR);
        }
    }
}
