//! Mounts a snapshot to look into it, or all of a volume or a log.

use crate::location::inside::is_in_store;
use crate::location::place::Place;
use crate::location::shown::{ShownLog, ShownVolume};
use crate::location::text::Location;
use crate::location::{directory, target};
use crate::report::snapshots::Mounted;
use snapsync_log::LogAddress;
use snapsync_model::{Context, Error, History, Monitor, Result, Role, SnapshotInfo, Stage, VolumeInfo};
use snapsync_mount::{Mount, Point, Serving, Snapshots};
use snapsync_snapshot::Volume;
use snapsync_sys::{Root, fault, read_dir};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Mounts a snapshot, or all that there are, read-only on the directory `at`, which is empty or absent. It is
/// unmounted when the mount is dropped.
pub fn mount(
    address: &Path,
    at: &Path,
    jobs: usize,
    allow_other: bool,
    monitor: &Monitor,
) -> Result<(Mounted, Mount)> {
    let started = Instant::now();
    let source = Source::find(address)?;
    let at = mount_point(at, source.volume())?;
    monitor.start(Stage::Compare, 0);
    let name = at.path.file_name().unwrap_or_default();
    let made = Made::new(&at.above, name, at.directory)?;
    fault::point("mount.opened");
    let point = Point::new(&at.above, name, made.directory.again()?)?;
    let bound = match source.tree()? {
        Some(tree) => Mount::bind(tree.fd(), &point)?,
        None => None,
    };
    let (volume, snapshot) = source.info()?;
    if volume.role == Role::Primary && volume.history == Some(History::Light) {
        monitor.note(format!(
            "{} keeps no history of its own: files that have changed since a snapshot cannot be read in it, \
             but in a mount of a standby",
            volume.path.display()
        ));
    }
    let shown = source.shown(jobs)?;
    let snapshots = shown.list()?.len() as u64;
    let how = Serving { all: snapshot.is_none(), allow_other };
    let mount = match bound {
        Some(mount) => mount,
        None => Mount::serve(shown, how, &point, monitor)?,
    };
    made.keep();
    let mounted = Mounted {
        verb: "mount",
        volume,
        snapshot,
        snapshots,
        path: at.path,
        served: mount.is_served(),
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((mounted, mount))
}

/// What to mount: of a volume or a log one snapshot, or all.
enum Source {
    Volume(Box<(Volume, Option<SnapshotInfo>)>),
    Log(Box<(LogAddress, Option<SnapshotInfo>)>),
}

impl Source {
    fn find(address: &Path) -> Result<Source> {
        let location = Location::parse(address)?;
        let log = LogAddress::parse(&location.path)?.filter(|_| location.is_log);
        if let Some(log) = log.clone().filter(|_| location.snapshot.is_none()) {
            return Ok(Source::Log(Box::new((log, None))));
        }
        Ok(match Place::parse(address)? {
            Place::Snapshot(named) => Source::Volume(Box::new((named.0, Some(named.1)))),
            Place::Directory(root) => Source::Volume(Box::new((Volume::open_in(root)?, None))),
            Place::Log(place) => Source::Log(Box::new((place.log.address().clone(), Some(place.info)))),
        })
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
        let (volume, Some(snapshot)) = &**named else { return Ok(None) };
        let tree = volume.tree_of(snapshot).filter(|_| snapshot.subset.is_everything());
        tree.map(|tree| tree.tree()).transpose()
    }

    fn shown(&self, jobs: usize) -> Result<Box<dyn Snapshots>> {
        Ok(match self {
            Source::Volume(named) => {
                let one = named.1.as_ref().map(|info| info.id);
                Box::new(ShownVolume::new(named.0.clone(), one, jobs))
            }
            Source::Log(named) => {
                let one = named.1.as_ref().map(|info| info.id);
                Box::new(ShownLog::open(&named.0, one, jobs)?)
            }
        })
    }

    fn info(&self) -> Result<(VolumeInfo, Option<SnapshotInfo>)> {
        Ok(match self {
            Source::Volume(named) => (named.0.info(), named.1.clone()),
            Source::Log(named) => (ShownLog::open(&named.0, None, 0)?.info()?, named.1.clone()),
        })
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
