//! Existing directories, and how they lie to each other.

use crate::location::text::{Location, can_name_part};
use rustix::fs::{Access, AtFlags};
use snapsync_model::{Context, Error, Result};
use snapsync_snapshot::Volume;
use snapsync_sys::Root;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The canonical path of a directory that must be there and readable.
pub(crate) fn existing_directory(path: &Path) -> Result<PathBuf> {
    let show = path.display();
    let reached = path.canonicalize().and_then(|found| Ok((found.metadata()?, found)));
    let (stat, found) = reached.map_err(|e| match e.kind() {
        _ if is_dead(&e) => does_not_answer(path, &e),
        io::ErrorKind::NotFound => is_not_here(path),
        _ => Error::usage(format!("cannot reach {show}: {e}"), "check the path and your permissions"),
    })?;
    if !stat.is_dir() {
        return Err(Error::usage(format!("{show} is not a directory"), "name a directory"));
    }
    match std::fs::read_dir(&found) {
        Err(e) if is_dead(&e) => Err(does_not_answer(path, &e)),
        Err(e) => Err(Error::usage(format!("cannot read {show}: {e}"), "run as root, or as its owner")),
        Ok(_) => Ok(found),
    }
}

/// Whether something has a path, which nobody knows while the file system does not answer.
pub(crate) fn is_there(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Err(e) if is_dead(&e) => Err(does_not_answer(path, &e)),
        found => Ok(found.is_ok()),
    }
}

/// EIO, ENOTCONN, ESHUTDOWN, EHOSTDOWN, ESTALE, EUCLEAN: the file system is gone, or broken.
fn is_dead(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| [5, 107, 108, 112, 116, 117].contains(&number))
}

fn does_not_answer(path: &Path, error: &io::Error) -> Error {
    Error::failed(
        format!("cannot look at {}: {error}", path.display()),
        "its file system does not answer: `dmesg` may say why; mount it again, and check it if that fails",
    )
}

/// What it is called may say why.
fn is_not_here(path: &Path) -> Error {
    match Location::parse(path) {
        Ok(location) if location.host.is_some() || location.is_log => is_elsewhere(&location),
        Ok(_) => Error::usage(format!("{} does not exist", path.display()), "check the path"),
        Err(error) => error,
    }
}

/// Where only what is on this machine will do.
pub(crate) fn is_elsewhere(location: &Location) -> Error {
    if location.is_log {
        return Error::usage(
            format!("{location} is a log, and this needs a volume on this machine"),
            "a log can be given to init, sync, list, status, log, find, report, verify, diff, mount, prune, \
             delete, hold, release and rejoin, and LOG@SNAP to restore --to DIR",
        );
    }
    Error::usage(
        format!("{location} is on another machine"),
        "run this command there; ./ goes before a name with a colon. Another machine is reached by sync, \
         verify, rejoin, switch, status, list, find, versions, diff, prune and restore --to",
    )
}

/// The same, opened. Nothing that takes its name later matters. `VOLUME@PART/` is the part of a tree, which
/// need not be there yet, unless a directory has that name.
pub(crate) fn open_directory(path: &Path) -> Result<Root> {
    let location = Location::here(path);
    let Some((around, part)) = location.of_part().filter(|_| location.is_part()) else {
        return Root::open(&existing_directory(path)?);
    };
    let (is_directory, is_in_one) = (path.is_dir(), around.is_dir());
    if is_directory {
        let root = Root::open(&existing_directory(path)?)?;
        return if is_in_one { not_hiding(root, Root::open(&around)?, part) } else { Ok(root) };
    }
    if !is_in_one {
        return Root::open(&existing_directory(path)?);
    }
    part_of(Root::open(&existing_directory(&around)?)?, part)
}

/// A directory that is named like a part of the volume beside it. Fails if the volume has such a part: others
/// may have made the directory.
pub(crate) fn not_hiding(named: Root, beside: Root, part: &OsStr) -> Result<Root> {
    let volume = Volume::find_in(beside).ok().flatten();
    let parts = volume.as_ref().and_then(|volume| volume.parts().ok()).unwrap_or_default();
    let Some(volume) = volume.filter(|_| parts.iter().any(|known| part == known.as_str())) else {
        return Ok(named);
    };
    let (show, volume, part) = (named.path().display(), volume.path().display(), part.display());
    Err(Error::usage(
        format!("{show} is a directory, and a part of {volume} as well"),
        format!("name the directory as {show}/., or the part as {volume}/.@{part}/"),
    ))
}

/// An open directory as a part of its tree.
pub(crate) fn part_of(root: Root, part: &OsStr) -> Result<Root> {
    let name = can_name_part(part)?;
    if root.part().is_some() {
        return Err(Error::usage(
            format!("{} is a part itself, and has none", root.title().display()),
            "name a part of the whole volume",
        ));
    }
    let mut title = root.path().as_os_str().to_owned();
    title.push(format!("@{name}/"));
    Ok(root.of_part(name, title.into()))
}

/// The volume, or the part of one, at a path.
pub(crate) fn open_volume(path: &Path) -> Result<Volume> {
    Volume::open_in(open_directory(path)?)
}

/// A target must not be inside its source, even if it does not exist yet.
pub(crate) fn not_inside(target: &Path, source: &Path) -> Result<()> {
    let named = std::path::absolute(target).context("find the path of", target)?;
    if named.starts_with(source) && named != source {
        return Err(is_inside(&named, source));
    }
    Ok(())
}

/// The path without links and `..` as far as it exists; the rest does not exist and has none.
pub(crate) fn resolved(path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path).context("find the path of", path)?;
    let there = whole.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    let rest = whole.strip_prefix(there).unwrap_or(Path::new(""));
    if rest.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(Error::usage(format!("{} does not exist", path.display()), "check the path"));
    }
    let there = there.canonicalize().context("find", there)?;
    // Joining an empty name would add a slash at the end, and no file is found with that.
    Ok(if rest.as_os_str().is_empty() { there } else { there.join(rest) })
}

pub(crate) fn parent(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| Error::usage("the root directory cannot be made", "name another target"))
}

const APART: &str = "name two directories that lie apart";

fn is_inside(inner: &Path, outer: &Path) -> Error {
    Error::usage(format!("{} is inside {}", inner.display(), outer.display()), APART)
}

/// Neither may be inside the other, whatever names or mounts lead to them.
pub(super) fn apart(source: &Path, target: &Path) -> Result<()> {
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

pub(super) fn writable_at(root: &Root, name: &str) -> Result<()> {
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
                format!(
                    "cannot write to {show}: it is a read-only subvolume, and a store is kept inside \
                    each volume"
                ),
                format!(
                    "`btrfs property set -f {show} ro false` makes it writable; as it is, `snapsync send \
                     {show}` \
                     sends it to `snapsync receive --as-snapshot DIR`"
                ),
            );
        }
        Error::usage(format!("cannot write to {}: {e}", path.display()), "run as root, or as its owner")
    })
}
