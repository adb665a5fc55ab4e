//! A place to read from: a directory, or a snapshot of a volume.

use crate::location::directory::{is_elsewhere, open_directory, part_of};
use crate::location::logs::LogPlace;
use crate::location::text::Location;
use snapsync_log::LogAddress;
use snapsync_model::{
    Accounts, Context, Error, Identity, Monitor, Provider, Result, Side, SnapshotInfo, Subset, VolumeInfo,
};
use snapsync_snapshot::Volume;
use snapsync_sys::Root;
use snapsync_walk::Tree;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use uuid::Uuid;

/// `VOLUME@SNAP`, a directory, or `LOG@SNAP`.
pub(crate) enum Place {
    Snapshot(Box<(Volume, SnapshotInfo)>),
    Directory(Root),
    Log(Box<LogPlace>),
}

impl Place {
    /// A directory with exactly that name comes first, because `@` is common in names on Btrfs. It is refused
    /// if it hides a snapshot, because others may have made it.
    pub(crate) fn parse(text: &Path) -> Result<Place> {
        let location = Location::parse(text)?;
        if location.host.is_some() { Err(is_elsewhere(&location)) } else { Place::at(&location) }
    }

    /// On this machine.
    pub(crate) fn at(location: &Location) -> Result<Place> {
        if let Some(log) = LogAddress::parse(&location.path)?.filter(|_| location.is_log) {
            let snapshot = location.snapshot.as_ref().map_or("latest".into(), |name| name.to_string_lossy());
            return Ok(Place::Log(Box::new(LogPlace::find(&log, &snapshot)?)));
        }
        let (volume, whole) = (&location.path, &location.whole());
        match (&location.snapshot, location.of_part()) {
            (Some(snapshot), Some((around, part))) if around.is_dir() => {
                Place::in_part(location, &around, part, &snapshot.to_string_lossy())
            }
            (Some(snapshot), None) if volume.is_dir() && !whole.is_dir() => {
                Place::snapshot(open_directory(volume)?, &snapshot.to_string_lossy())
            }
            (Some(snapshot), None) if volume.is_dir() => {
                Place::directory(open_directory(whole)?, open_directory(volume)?, &snapshot.to_string_lossy())
            }
            _ => open_directory(whole).map(Place::Directory),
        }
    }

    /// `VOLUME@PART/SNAP`, or a directory with such a path.
    fn in_part(location: &Location, around: &Path, part: &OsStr, snapshot: &str) -> Result<Place> {
        let whole = &location.whole();
        let of_part = part_of(open_directory(around)?, part);
        match of_part {
            Ok(part) if whole.is_dir() => Place::directory(open_directory(whole)?, part, snapshot),
            // Not one of a directory that is named like the part.
            Ok(part) if !location.path.is_dir() && Volume::find_in(part.whole()?)?.is_some() => {
                Place::snapshot(part, snapshot)
            }
            _ => {
                open_directory(&location.path)?;
                open_directory(whole).map(Place::Directory)
            }
        }
    }

    /// A directory beside a volume that is named like `VOLUME@SNAP`. Fails if the volume has such a snapshot.
    pub(crate) fn directory(named: Root, beside: Root, snapshot: &str) -> Result<Place> {
        let volume = Volume::find_in(beside).ok().flatten();
        let Some(hidden) = volume.filter(|volume| volume.has_called(snapshot)) else {
            return Ok(Place::Directory(named));
        };
        let (show, volume) = (named.path().display(), hidden.path().display());
        Err(Error::usage(
            format!("{show} is a directory, and a snapshot of {volume} as well"),
            format!("name the directory as {show}/., or the snapshot by its number or id"),
        ))
    }

    pub(crate) fn snapshot(volume: Root, name: &str) -> Result<Place> {
        let volume = Volume::open_in(volume)?;
        let snapshot = volume.find_snapshot(name)?;
        Ok(Place::Snapshot(Box::new((volume, snapshot))))
    }

    /// The volume that it belongs to, or is.
    pub(crate) fn volume(&self) -> Result<Option<VolumeInfo>> {
        Ok(match self {
            Place::Snapshot(named) => Some(named.0.info()),
            Place::Directory(root) => Volume::find_in(root.again()?)?.map(|volume| volume.info()),
            Place::Log(place) => Some(place.volume()),
        })
    }

    /// The numbers that it has in place of those of this lineage.
    pub(crate) fn accounts(&self, lineage: Uuid) -> Result<Option<Accounts>> {
        let is_kin = |volume: &Volume| volume.info().lineage == lineage;
        Ok(match self {
            Place::Snapshot(named) => named.0.accounts_of(&named.1).filter(|_| is_kin(&named.0)).cloned(),
            Place::Directory(root) => found_in(root)?.filter(is_kin).and_then(|v| v.accounts().cloned()),
            Place::Log(_) => None,
        })
    }

    /// The volume whose pool holds the objects of its rows. A copy of a volume has the same id but not its
    /// pool.
    pub(crate) fn pool(&self) -> Option<&Path> {
        match self {
            Place::Snapshot(named) if named.1.provider == Provider::Pool => Some(named.0.path()),
            _ => None,
        }
    }

    /// The directory that holds it, if it is one, and the subset of it that counts.
    pub(crate) fn tree(&self, monitor: &Monitor) -> Result<Option<(Root, Subset)>> {
        Ok(match self {
            Place::Snapshot(named) => match named.0.tree_of(&named.1) {
                Some(tree) => Some((tree.tree()?, named.1.subset.clone())),
                None => None,
            },
            Place::Directory(root) => Some((root.again()?, subset_of(root, monitor)?)),
            Place::Log(_) => None,
        })
    }

    pub(crate) fn open(&self, monitor: &Monitor) -> Result<Opened> {
        Ok(match self {
            Place::Snapshot(named) => Opened::Snapshot(named.0.open_snapshot(&named.1, monitor)?),
            Place::Directory(root) => {
                let subset = subset_of(root, monitor)?;
                Opened::Tree(Box::new(Tree::of(root.underneath()?, &subset, monitor)?))
            }
            Place::Log(place) => Opened::Snapshot(place.open(monitor)?),
        })
    }
}

/// The replicated part of a directory that is a volume; all of any other.
fn subset_of(root: &Root, monitor: &Monitor) -> Result<Subset> {
    match Volume::find_in(root.again()?) {
        Err(error) if is_hidden(&error) => {
            let show = root.path().display();
            monitor.note(format!("cannot read the store of {show}: all of its tree is compared"));
            Ok(Subset::default())
        }
        found => Ok(found?.map(|volume| volume.subset().clone()).unwrap_or_default()),
    }
}

/// The volume that a directory is, if this user may see that.
fn found_in(root: &Root) -> Result<Option<Volume>> {
    match Volume::find_in(root.again()?) {
        Err(error) if is_hidden(&error) => Ok(None),
        found => found,
    }
}

fn is_hidden(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
}

pub(crate) enum Opened {
    Snapshot(Box<dyn Side>),
    Tree(Box<Tree>),
}

impl Opened {
    pub(crate) fn side(&self) -> &dyn Side {
        match self {
            Opened::Snapshot(side) => &**side,
            Opened::Tree(tree) => &**tree,
        }
    }

    pub(crate) fn into_side(self) -> Box<dyn Side> {
        match self {
            Opened::Snapshot(side) => side,
            Opened::Tree(tree) => tree,
        }
    }
}

/// The volume and the snapshot that `VOLUME@SNAP` names.
pub(crate) fn named(address: &Path) -> Result<(Volume, SnapshotInfo)> {
    match Place::parse(address)? {
        Place::Snapshot(named) => Ok(*named),
        Place::Directory(path) => Err(Error::usage(
            format!("{} is a directory, not a snapshot", path.path().display()),
            "write VOLUME@SNAP; `snapsync list VOLUME` shows the snapshots",
        )),
        Place::Log(_) => Err(is_elsewhere(&Location::parse(address)?)),
    }
}

/// Describes a snapshot that no store describes.
pub(crate) fn describe(path: &Path, identity: &Identity) -> Result<SnapshotInfo> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::usage(format!("{} has a name that is not text", path.display()), "give it one with --name")
    })?;
    let modified = path.metadata().and_then(|m| m.modified()).context("read the attributes of", path)?;
    let created = jiff::Timestamp::try_from(modified).unwrap_or_default();
    Ok(SnapshotInfo {
        id: identity.id,
        name: name.to_owned(),
        sequence: 0,
        parent: None,
        created: created.to_string(),
        provider: if identity.origin.is_some() { Provider::Btrfs } else { Provider::Pool },
        entries: None,
        bytes: None,
        subset: Subset::default(),
        aside: false,
    })
}
