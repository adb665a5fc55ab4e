//! What people name on the command line, checked before anything is touched.

use rustix::fs::{Access, AtFlags};
use snapsync_model::{
    Context, Error, Monitor, Provider, Result, Role, Side, SnapshotInfo, Subset, VolumeInfo,
};
use snapsync_snapshot::{Claim, Volume, is_vacant_in};
use snapsync_sys::Root;
use snapsync_walk::Tree;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// `VOLUME@SNAP`, or a directory.
pub(crate) enum Place {
    Snapshot(Box<(Volume, SnapshotInfo)>),
    Directory(Root),
}

impl Place {
    /// A directory of that very name comes first: `@` is a usual name on Btrfs. It hides no snapshot: others may have made it.
    pub(crate) fn parse(text: &Path) -> Result<Place> {
        match split_at_sign(text) {
            Some((volume, snapshot)) if volume.is_dir() && !text.is_dir() => {
                Place::snapshot(open_directory(volume)?, &snapshot)
            }
            Some((volume, snapshot)) if volume.is_dir() => {
                Place::directory(open_directory(text)?, open_directory(volume)?, &snapshot)
            }
            _ => open_directory(text).map(Place::Directory),
        }
    }

    /// A directory beside a volume, with the name of a snapshot of that, if it has no such.
    pub(crate) fn directory(named: Root, beside: Root, snapshot: &str) -> Result<Place> {
        let volume = Volume::find_in(beside).ok().flatten();
        let Some(hidden) = volume.filter(|volume| volume.find_snapshot(snapshot).is_ok()) else {
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

    /// The volume that it is of, or is.
    pub(crate) fn volume(&self) -> Result<Option<VolumeInfo>> {
        Ok(match self {
            Place::Snapshot(named) => Some(named.0.info()),
            Place::Directory(root) => Volume::find_in(root.again()?)?.map(|volume| volume.info()),
        })
    }

    /// Whose pool holds the objects that its rows point at. A copy of a volume has the id of the first, and not its pool.
    pub(crate) fn pool(&self) -> Option<&Path> {
        match self {
            Place::Snapshot(named) if named.1.provider == Provider::Pool => Some(named.0.path()),
            _ => None,
        }
    }

    /// The directory that holds it, where it is one, and the part of it that counts.
    pub(crate) fn tree(&self, monitor: &Monitor) -> Result<Option<(Root, Subset)>> {
        Ok(match self {
            Place::Snapshot(named) => match named.0.tree_of(&named.1) {
                Some(tree) => Some((tree.tree()?, named.1.subset.clone())),
                None => None,
            },
            Place::Directory(root) => Some((root.again()?, subset_of(root, monitor)?)),
        })
    }

    pub(crate) fn open(&self, monitor: &Monitor) -> Result<Opened> {
        Ok(match self {
            Place::Snapshot(named) => Opened::Snapshot(named.0.open_snapshot(&named.1, monitor)?),
            Place::Directory(root) => {
                let subset = subset_of(root, monitor)?;
                Opened::Tree(Box::new(Tree::of(root.underneath()?, &subset, monitor)?))
            }
        })
    }
}

/// What is replicated of a directory that is a volume; of any other, all of it.
fn subset_of(root: &Root, monitor: &Monitor) -> Result<Subset> {
    match Volume::find_in(root.again()?) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            let show = root.path().display();
            monitor.note(format!("cannot read the store of {show}: all of its tree is compared"));
            Ok(Subset::default())
        }
        found => Ok(found?.map(|volume| volume.subset().clone()).unwrap_or_default()),
    }
}

pub(crate) fn split_at_sign(text: &Path) -> Option<(&Path, String)> {
    let bytes = text.as_os_str().as_bytes();
    let at = bytes.iter().rposition(|b| *b == b'@').filter(|at| *at > 0)?;
    let name = String::from_utf8_lossy(&bytes[at + 1..]).into_owned();
    Some((Path::new(OsStr::from_bytes(&bytes[..at])), name))
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

/// The canonical path of a directory that must be there and readable.
pub(crate) fn existing_directory(path: &Path) -> Result<PathBuf> {
    let show = path.display();
    let found = path.canonicalize().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::usage(format!("{show} does not exist"), "check the path"),
        _ => Error::usage(format!("cannot reach {show}: {e}"), "check the path and your permissions"),
    })?;
    if !found.is_dir() {
        return Err(Error::usage(format!("{show} is not a directory"), "name a directory"));
    }
    match std::fs::read_dir(&found) {
        Err(e) => Err(Error::usage(format!("cannot read {show}: {e}"), "run as root, or as its owner")),
        Ok(_) => Ok(found),
    }
}

/// The same, opened. Whatever takes its name later is not looked at.
pub(crate) fn open_directory(path: &Path) -> Result<Root> {
    Root::open(&existing_directory(path)?)
}

/// What has a name, opened once.
pub(crate) enum Found {
    Directory(Root),
    /// Nothing, in a directory where it can be made.
    Nothing {
        above: Root,
        name: OsString,
    },
}

/// Where a standby is, or is to be.
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) volume: Option<Volume>,
    pub(crate) exists: bool,
    /// None where it cannot be made.
    pub(crate) found: Option<Found>,
    /// Why it cannot be made: there is not even the directory above it.
    pub(crate) lacks: Option<String>,
}

impl Target {
    pub(crate) fn of(found: Found) -> Result<Target> {
        let (path, volume, exists) = match &found {
            Found::Directory(root) => (root.path().to_path_buf(), Volume::find_in(root.again()?)?, true),
            Found::Nothing { above, name } => (above.path().join(name), None, false),
        };
        Ok(Target { path, volume, exists, found: Some(found), lacks: None })
    }

    /// A standby, or where one is to be, so far as that can be judged without writing anything.
    pub(crate) fn judged(self) -> Result<Target> {
        match &self.found {
            Some(Found::Directory(root)) if self.volume.is_none() => {
                Volume::expect_own_store(root)?;
                writable(root)?;
                if !is_vacant_in(root)? {
                    return Err(Error::refused(
                        format!("{} is not empty and is not a standby", self.path.display()),
                        "name an empty or absent directory, or move what is in it away",
                    ));
                }
            }
            Some(Found::Directory(root)) if !self.volume.as_ref().is_some_and(Volume::is_read_only) => {
                writable(root)?;
            }
            Some(Found::Nothing { above, .. }) => writable(above)?,
            _ => {}
        }
        Ok(self)
    }

    /// Which file system it is on, or would be.
    pub(crate) fn filesystem(&self) -> Option<String> {
        match &self.found {
            Some(Found::Directory(root)) => snapsync_sys::identity(root.fd()),
            Some(Found::Nothing { above, .. }) => snapsync_sys::identity(above.fd()),
            None => {
                let above = self.path.ancestors().find(|above| above.is_dir())?;
                std::fs::File::open(above).ok().and_then(snapsync_sys::identity)
            }
        }
    }

    pub(crate) fn expect_reachable(&self) -> Result<()> {
        self.lacks.clone().map_or(Ok(()), |lacks| Err(Error::usage(lacks, "check the path")))
    }
}

/// A primary, or what is to become one, so far as it can be judged without writing anything.
pub(crate) fn source(root: &Root) -> Result<Option<Volume>> {
    let primary = Volume::find_in(root.again()?)?;
    match &primary {
        Some(volume) => volume.expect_primary("sync from")?,
        None => Volume::expect_own_store(root)?,
    }
    // Of a tree that belongs to others, the store is written to and nothing else.
    writable_at(root, if primary.is_some() { snapsync_walk::STORE } else { "." })?;
    Ok(primary)
}

/// A standby, or where one is to be, as far as that; and apart from a source on the same machine.
pub(crate) fn target(path: &Path, source: Option<&Path>) -> Result<Target> {
    let target = match target_of(path) {
        // It may be known what was there: whoever asks is to hear of that first.
        Err(error) if error.exit_code() == 2 && above(path).symlink_metadata().is_err() => {
            let path = resolved(path)?;
            Target { path, volume: None, exists: false, found: None, lacks: Some(error.sentence()) }
        }
        found => found?,
    };
    if let Some(source) = source {
        apart(source, &target.path)?;
    }
    target.judged()
}

/// A target must not be in its source, even where it is not there yet.
pub(crate) fn not_inside(target: &Path, source: &Path) -> Result<()> {
    let named = std::path::absolute(target).context("find the path of", target)?;
    if named.starts_with(source) && named != source {
        return Err(is_inside(&named, source));
    }
    Ok(())
}

pub(crate) fn target_of(path: &Path) -> Result<Target> {
    Target::of(find(path)?)
}

/// What a path leads to.
pub(crate) fn find(path: &Path) -> Result<Found> {
    if path.symlink_metadata().is_ok() {
        return open_directory(path).map(Found::Directory);
    }
    let name = path.file_name().ok_or_else(|| {
        Error::usage(
            format!("{} is no name for a new directory", path.display()),
            "name a directory to be made",
        )
    })?;
    Ok(Found::Nothing { above: open_directory(above(path))?, name: name.to_owned() })
}

fn above(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Without links and `..` as far as it is there; what follows is not there, and has none.
pub(crate) fn resolved(path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path).context("find the path of", path)?;
    let there = whole.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    let rest = whole.strip_prefix(there).unwrap_or(Path::new(""));
    if rest.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(Error::usage(format!("{} does not exist", path.display()), "check the path"));
    }
    let there = there.canonicalize().context("find", there)?;
    // A name joined to nothing would end in a slash, and a file is not found by that.
    Ok(if rest.as_os_str().is_empty() { there } else { there.join(rest) })
}

pub(crate) fn parent(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| Error::usage("the root directory cannot be made", "name another target"))
}

const APART: &str = "name two directories that lie apart";

fn is_inside(inner: &Path, outer: &Path) -> Error {
    Error::usage(format!("{} is inside {}", inner.display(), outer.display()), APART)
}

/// Neither may be in the other, by whatever name or mount it is reached.
fn apart(source: &Path, target: &Path) -> Result<()> {
    let same = |a: &Path, b: &Path| {
        let id = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
        id(a).is_some() && id(a) == id(b)
    };
    if source == target || same(source, target) {
        return Err(Error::usage(format!("{} is both source and target", source.display()), APART));
    }
    let inside = |inner: &Path, outer: &Path| {
        inner.ancestors().skip(1).any(|above| above == outer || same(above, outer))
    };
    for (inner, outer) in [(target, source), (source, target)] {
        if inside(inner, outer) {
            return Err(is_inside(inner, outer));
        }
    }
    Ok(())
}

pub(crate) fn writable(root: &Root) -> Result<()> {
    writable_at(root, ".")
}

fn writable_at(root: &Root, name: &str) -> Result<()> {
    let path = &if name == "." { root.path().to_path_buf() } else { root.path().join(name) };
    let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", path)?;
    if filesystem.read_only {
        return Err(Error::refused(
            format!("cannot write to {}: its file system is read-only", path.display()),
            "mount it read-write: a store is kept inside each volume",
        ));
    }
    rustix::fs::accessat(root.fd(), name, Access::WRITE_OK, AtFlags::empty()).map_err(|e| {
        if e == rustix::io::Errno::ROFS {
            let show = path.display();
            return Error::refused(
                format!("cannot write to {show}: it is a read-only subvolume, and a store is kept inside each volume"),
                format!(
                    "`btrfs property set -f {show} ro false` makes it writable; as it is, `snapsync send {show}` \
                     sends it to `snapsync receive --as-snapshot DIR`"
                ),
            );
        }
        Error::usage(format!("cannot write to {}: {e}", path.display()), "run as root, or as its owner")
    })
}

/// What a primary is told that meets a later epoch. Whether there is one is for people to say.
pub(crate) fn was_replaced(volume: &Volume, path: &str, by: &Claim) -> Error {
    let (show, Claim { epoch, shown, .. }) = (volume.path().display(), by);
    let shown = if *shown { "" } else { ", and does not show how that came to be" };
    Error::refused(
        format!(
            "{path} is not fed: it says that {show} was replaced, which is of epoch {}, and that it is of epoch \
             {epoch} itself{shown}",
            volume.info().epoch
        ),
        format!(
            "if another was promoted, `snapsync rejoin {show} NEW`, where NEW is the primary of epoch {epoch}, makes \
             it a standby again and keeps what it has of its own; --preview shows that. If none was, {path} is not to \
             be trusted"
        ),
    )
}

/// A standby of the lineage that its client shows: nobody knows that but those who belong to it.
pub(crate) fn is_fed_by(standby: &VolumeInfo, lineage: Option<Uuid>) -> bool {
    standby.role == Role::Standby && lineage.is_some_and(|one| one == standby.lineage && !one.is_nil())
}

/// Tells nothing of what is there, nor whether anything is.
pub(crate) fn not_own(called: &str) -> Error {
    Error::refused(
        format!("{called} is nothing that this client may feed or verify"),
        "name the standby of your volume, or a new directory in one that is there; or ask the server's administrator",
    )
}

/// Nothing is applied to a primary.
pub(crate) fn expect_standby(path: &str, role: Role) -> Result<()> {
    if role == Role::Standby {
        return Ok(());
    }
    Err(Error::refused(
        format!("{path} is a primary, not a standby"),
        "it would be overwritten: check which way you mean, or name another target",
    ))
}
