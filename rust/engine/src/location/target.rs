//! A place to write to, which may not exist yet.

use crate::location::directory::{apart, is_there, open_directory, resolved, writable, writable_at};
use crate::location::text::Location;
use snapsync_model::{Error, RelPath, Result, Role};
use snapsync_snapshot::{Volume, is_vacant_in};
use snapsync_sys::Root;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What exists under a name, opened once.
pub(crate) enum Found {
    Directory(Root),
    /// Nothing exists, but it can be created in this directory.
    Nothing {
        above: Root,
        name: OsString,
    },
}

/// The place of an existing or a new standby.
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) volume: Option<Volume>,
    pub(crate) exists: bool,
    /// Whether it is no volume, and holds something.
    pub(crate) occupied: bool,
    /// None if it cannot be created.
    pub(crate) found: Option<Found>,
    /// Why it cannot be created: even the parent directory is missing.
    pub(crate) lacks: Option<String>,
}

impl Target {
    pub(crate) fn of(found: Found) -> Result<Target> {
        let (path, volume, exists) = match &found {
            Found::Directory(root) => (root.title().to_path_buf(), Volume::find_in(root.again()?)?, true),
            Found::Nothing { above, name } => (above.path().join(name), None, false),
        };
        Ok(Target { path, volume, exists, occupied: false, found: Some(found), lacks: None })
    }

    /// Checks it as the place of a standby, as far as possible without writing anything.
    pub(crate) fn judged(mut self) -> Result<Target> {
        match &self.found {
            Some(Found::Directory(root)) if self.volume.is_none() => {
                Volume::expect_own_store(root)?;
                // A part is made of a tree that is there; its root would become that of another.
                if let Some(part) = root.part() {
                    let (show, whole) = (self.path.display(), root.path().display());
                    return Err(Error::refused(
                        format!(
                            "{show} does not exist: {whole} has no part {part}, and none is made as a standby"
                        ),
                        "name a directory of its own for the standby",
                    ));
                }
                writable(root)?;
                self.occupied = !is_vacant_in(root)?;
                expect_no_log(root)?;
            }
            Some(Found::Directory(root)) if !self.volume.as_ref().is_some_and(Volume::is_read_only) => {
                writable(root)?;
            }
            Some(Found::Nothing { above, .. }) => writable(above)?,
            _ => {}
        }
        Ok(self)
    }

    /// The identity of the file system that it is on, or would be on.
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

    /// The bytes that are free where it is or would be.
    pub(crate) fn available(&self) -> Option<u64> {
        let root = match self.found.as_ref() {
            Some(Found::Directory(root) | Found::Nothing { above: root, .. }) => root,
            None => self.volume.as_ref()?.root(),
        };
        snapsync_sys::filesystem(root.fd()).ok().map(|found| found.available)
    }

    pub(crate) fn expect_reachable(&self) -> Result<()> {
        self.lacks.clone().map_or(Ok(()), |lacks| Err(Error::usage(lacks, "check the path")))
    }
}

/// A log in a directory is written by another name, and is no copy of anything.
fn expect_no_log(root: &Root) -> Result<()> {
    let has = |name: &str| RelPath::new(name.as_bytes()).is_ok_and(|name| root.entry(&name).is_ok());
    if !(has("format.json") && has("commits")) {
        return Ok(());
    }
    let show = root.path().display();
    Err(Error::refused(
        format!("{show} is a log, and no directory for a standby"),
        format!("write file://{show} to publish to it"),
    ))
}

/// The volume whose tree a path lies in. What is mounted inside a tree, or is a subvolume, is no part of it.
pub(crate) fn volume_around(path: &Path) -> Option<Volume> {
    let on = |path: &Path| path.metadata().map(|found| found.dev()).ok();
    let device = path.ancestors().find_map(on);
    let above = path.ancestors().skip(1).filter(|above| on(above) == device);
    above.filter_map(|above| Volume::find(above).ok()).flatten().next()
}

/// Refuses what lies in a standby: whatever is put there would be a change by hand.
pub(crate) fn expect_no_standby_around(path: &Path) -> Result<()> {
    match volume_around(path).filter(|volume| volume.info().role == Role::Standby) {
        None => Ok(()),
        Some(standby) => Err(Error::refused(
            format!(
                "{} lies in the standby {}: what is put there is a change by hand",
                path.display(),
                standby.path().display()
            ),
            "name a directory outside of it",
        )),
    }
}

/// An existing or a new primary, checked as far as possible without writing anything.
pub(crate) fn source(root: &Root) -> Result<Option<Volume>> {
    let primary = feeding(root)?;
    if let Some(volume) = &primary {
        volume.expect_primary("sync from")?;
    }
    Ok(primary)
}

/// The same for who may also pass on, as a standby, what it gets.
pub(crate) fn feeding(root: &Root) -> Result<Option<Volume>> {
    let primary = Volume::find_in(root.again()?)?;
    if primary.is_none() {
        Volume::expect_own_store(root)?;
    }
    // In a tree that belongs to others, only the store is written to.
    let has_store = primary.is_some() || (root.part().is_some() && Volume::find_in(root.whole()?)?.is_some());
    writable_at(root, if has_store { snapsync_walk::STORE } else { "." })?;
    Ok(primary)
}

/// The place of a standby, checked in the same way. It must lie apart from a source on the same machine.
pub(crate) fn target(path: &Path, source: Option<&Path>) -> Result<Target> {
    let target = match target_of(path) {
        // Something may be known about what was there: the caller must hear of that first.
        Err(error) if error.exit_code() == 2 && above(path).symlink_metadata().is_err() => {
            let path = resolved(path)?;
            let lacks = Some(error.sentence());
            Target { path, volume: None, exists: false, occupied: false, found: None, lacks }
        }
        found => found?,
    };
    if let Some(source) = source {
        let root = if let Some(Found::Directory(root)) = &target.found { Some(root.path()) } else { None };
        apart(source, root.unwrap_or(&target.path))?;
    }
    target.judged()
}

pub(crate) fn target_of(path: &Path) -> Result<Target> {
    Target::of(find(path)?)
}

/// Opens what a path leads to.
pub(crate) fn find(path: &Path) -> Result<Found> {
    let location = Location::here(path);
    let around = location.of_part().filter(|_| location.is_part()).map(|(around, _)| around);
    if let Some(around) = around
        && Volume::find(&around)?.is_some()
    {
        return open_directory(path).map(Found::Directory);
    }
    let is_there = is_there(path)?;
    if let Some((around, part)) = location.of_part().filter(|_| location.is_part())
        && !is_there
        && around.is_dir()
    {
        return Err(is_no_volume(&around, part));
    }
    if is_there {
        return open_directory(path).map(Found::Directory);
    }
    let name = path.file_name().ok_or_else(|| {
        Error::usage(
            format!("{} is not a name for a new directory", path.display()),
            "name a directory to be made",
        )
    })?;
    Ok(Found::Nothing { above: open_directory(above(path))?, name: name.to_owned() })
}

/// The error for a part of what is only a directory.
pub(crate) fn is_no_volume(around: &Path, part: &OsStr) -> Error {
    let (around, part) = (around.display(), part.display());
    Error::usage(
        format!("{around} is no volume, and has no part {part}"),
        "if a disk is to be mounted there, mount it; for a new directory of that name leave out the slash",
    )
}

fn above(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
