//! Mounts a snapshot to look into it.

use crate::location::inside::is_in_store;
use crate::location::logs::LogPlace;
use crate::location::place::{Place, named};
use crate::location::{directory, target};
use crate::report::snapshots::Browsed;
use snapsync_browse::{Mount, Point};
use snapsync_model::{Context, Error, Monitor, Result, Side, SnapshotInfo, Stage, VolumeInfo};
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
    let source = Source::find(address)?;
    let at = mount_point(at, source.volume())?;
    monitor.start(Stage::Compare, 0);
    let name = at.path.file_name().unwrap_or_default();
    let made = Made::new(&at.above, name, at.directory)?;
    fault::point("browse.opened");
    let point = Point::new(&at.above, name, made.directory.again()?)?;
    let bound = match source.tree()? {
        Some(tree) => Mount::bind(tree.fd(), &point)?,
        None => None,
    };
    let mount = match bound {
        Some(mount) => mount,
        None => Mount::serve(source.open(monitor)?, &point, monitor)?,
    };
    made.keep();
    let browsed = Browsed {
        verb: "browse",
        volume: source.info(),
        snapshot: source.snapshot(),
        path: at.path,
        served: mount.is_served(),
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((browsed, mount))
}

/// The snapshot to mount.
enum Source {
    Volume(Box<(Volume, SnapshotInfo)>),
    Log(Box<LogPlace>),
}

impl Source {
    fn find(address: &Path) -> Result<Source> {
        match Place::parse(address)? {
            Place::Log(place) => Ok(Source::Log(place)),
            _ => named(address).map(|named| Source::Volume(Box::new(named))),
        }
    }

    fn volume(&self) -> Option<&Volume> {
        match self {
            Source::Volume(named) => Some(&named.0),
            Source::Log(_) => None,
        }
    }

    /// The directory that is all of the snapshot, if it is one.
    fn tree(&self) -> Result<Option<Root>> {
        let Source::Volume(named) = self else { return Ok(None) };
        let tree = named.0.tree_of(&named.1).filter(|_| named.1.subset.is_everything());
        tree.map(|tree| tree.tree()).transpose()
    }

    fn open(&self, monitor: &Monitor) -> Result<Box<dyn Side>> {
        match self {
            Source::Volume(named) => named.0.open_snapshot(&named.1, monitor),
            Source::Log(place) => place.open(monitor),
        }
    }

    fn info(&self) -> VolumeInfo {
        match self {
            Source::Volume(named) => named.0.info(),
            Source::Log(place) => place.volume(),
        }
    }

    fn snapshot(&self) -> SnapshotInfo {
        match self {
            Source::Volume(named) => named.1.clone(),
            Source::Log(place) => place.info.clone(),
        }
    }
}

/// The mount point: the directory that is open here counts, whatever takes its name.
struct MountPoint {
    path: PathBuf,
    above: Root,
    /// None if it does not exist yet.
    directory: Option<Root>,
}

fn mount_point(path: &Path, volume: Option<&Volume>) -> Result<MountPoint> {
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
    if volume.is_some_and(|volume| is_in_store(&path, volume)) {
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
