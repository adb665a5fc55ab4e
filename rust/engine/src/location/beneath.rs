//! Opens the paths that a client names. Everything later works on the open directory, and nothing is looked
//! up again.

use crate::location::directory::{not_hiding, open_directory, part_of};
use crate::location::place::Place;
use crate::location::target::{self, Found, Target};
use crate::location::text::Location;
use snapsync_model::{Context, Error, Result};
use snapsync_snapshot::Volume;
use snapsync_sys::Root;
use snapsync_walk::STORE;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The places that a client may name.
pub(crate) enum Admission {
    Anywhere,
    /// Only places beneath a directory that was opened when the server started.
    Beneath {
        root: Root,
        /// The path as the administrator wrote it, which clients may use.
        named: PathBuf,
    },
}

impl Admission {
    pub(crate) fn new(restrict_to: Option<&Path>) -> Result<Admission> {
        let Some(path) = restrict_to else { return Ok(Admission::Anywhere) };
        let named = std::path::absolute(path).context("find the path of", path)?;
        let location = Location::here(path);
        let part = location.of_part().filter(|_| location.is_part() && !path.is_dir());
        let root = match part {
            Some(_) => open_directory(path)?,
            None => Root::open(&path.canonicalize().context("find", path)?)?,
        };
        Ok(Admission::Beneath { root, named })
    }

    /// A directory or, under a name that no directory has, a part of a volume.
    pub(crate) fn directory(&self, text: &[u8]) -> Result<Root> {
        match self.found(text)? {
            Found::Directory(root) => Ok(root),
            Found::Nothing { .. } => Err(match self {
                Admission::Anywhere => Error::usage(
                    format!("{} does not exist", Path::new(OsStr::from_bytes(text)).display()),
                    "check the path",
                ),
                Admission::Beneath { .. } => outside(text),
            }),
        }
    }

    /// A standby, or the place for a new one.
    pub(crate) fn target(&self, text: &[u8]) -> Result<Target> {
        let target = match self {
            Admission::Anywhere => target::target(&path_of(text)?, None)?,
            Admission::Beneath { .. } => Target::of(self.found(text)?)?.judged()?,
        };
        if is_in_store(&target.path) { Err(outside(text)) } else { Ok(target) }
    }

    /// A directory, or a snapshot of a volume.
    pub(crate) fn place(&self, text: &[u8]) -> Result<Place> {
        let whole = self.directory(text);
        let location = Location::here(Path::new(OsStr::from_bytes(text)));
        let Location { path: volume, snapshot: Some(snapshot), .. } = &location else {
            return whole.map(Place::Directory);
        };
        let snapshot = snapshot.to_string_lossy();
        match (whole, self.directory(volume.as_os_str().as_bytes())) {
            (Err(error), Ok(volume)) if location.part.is_some() && volume.part().is_none() => Err(error),
            (Err(_), volume) => Place::snapshot(volume?, &snapshot),
            (Ok(whole), Ok(volume)) => Place::directory(whole, volume, &snapshot),
            (Ok(whole), Err(_)) => Ok(Place::Directory(whole)),
        }
    }

    /// A directory comes first, and is refused if it hides a part.
    fn found(&self, text: &[u8]) -> Result<Found> {
        let location = Location::here(Path::new(OsStr::from_bytes(text)));
        let whole = self.find(text);
        let Some((around, part)) = location.of_part().filter(|_| location.is_part()) else {
            return whole;
        };
        let Ok(Found::Directory(around)) = self.find(around.as_os_str().as_bytes()) else { return whole };
        if !matches!(Volume::find_in(around.again()?), Ok(Some(_))) {
            let is_nothing = matches!(whole, Ok(Found::Nothing { .. }));
            return if is_nothing { Err(target::is_no_volume(around.path(), part)) } else { whole };
        }
        match whole {
            Ok(Found::Directory(whole)) if whole.part().is_none() => {
                not_hiding(whole, around, part).map(Found::Directory)
            }
            Ok(Found::Directory(whole)) => Ok(Found::Directory(whole)),
            _ => part_of(around, part).map(Found::Directory),
        }
    }

    fn find(&self, text: &[u8]) -> Result<Found> {
        let Admission::Beneath { root, named } = self else {
            let found = target::find(&path_of(text)?)?;
            let (Found::Directory(root) | Found::Nothing { above: root, .. }) = &found;
            return if is_in_store(root.path()) { Err(outside(text)) } else { Ok(found) };
        };
        let names = names(text, root, named).ok_or_else(|| outside(text))?;
        descend(root, &names)?.ok_or_else(|| outside(text))
    }
}

/// Opens one name after the other, each in the directory before: no link is followed, and no path leads
/// through a volume. Every failure gives None, so that it does not reveal what exists.
fn descend(root: &Root, names: &[&OsStr]) -> Result<Option<Found>> {
    let mut here = root.again()?;
    for (at, name) in names.iter().enumerate() {
        // The content of a volume belongs to that volume.
        if here.has(OsStr::new(STORE)).unwrap_or(true) {
            return Ok(None);
        }
        here = match here.step(name) {
            Ok(below) => below,
            Err(e) if e.kind() == io::ErrorKind::NotFound && at + 1 == names.len() => {
                return Ok(Some(Found::Nothing { above: here, name: (*name).to_owned() }));
            }
            Err(_) => return Ok(None),
        };
    }
    Ok(Some(Found::Directory(here)))
}

/// The names that lead from `root` to the place a client means; None if it is elsewhere.
fn names<'t>(text: &'t [u8], root: &Root, named: &Path) -> Option<Vec<&'t OsStr>> {
    let text = Path::new(OsStr::from_bytes(text));
    let below = if text.is_absolute() {
        text.strip_prefix(named).or_else(|_| text.strip_prefix(root.title())).ok()?
    } else {
        text
    };
    let parts = below.components().filter(|part| *part != Component::CurDir);
    let names: Vec<&OsStr> = parts
        .map(|part| match part {
            Component::Normal(name) if name != STORE => Some(name),
            _ => None,
        })
        .collect::<Option<_>>()?;
    // `~` means the home directory of the client's user, which does not exist here.
    if names.first().is_some_and(|first| *first == "~") { None } else { Some(names) }
}

/// The path as a user who logs in here means it.
fn path_of(text: &[u8]) -> Result<PathBuf> {
    let text = Path::new(OsStr::from_bytes(text));
    text.strip_prefix("~").map_or_else(|_| Ok(text.to_path_buf()), |below| Ok(home()?.join(below)))
}

fn home() -> Result<PathBuf> {
    std::env::home_dir().ok_or_else(|| Error::usage("there is no home directory", "write the whole path"))
}

fn is_in_store(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == STORE)
}

fn outside(text: &[u8]) -> Error {
    Error::refused(
        format!("this server may not work on {}", Path::new(OsStr::from_bytes(text)).display()),
        "name a volume beneath what it was restricted to, without `..` and links, and none that lies in \
         another; see whether the \
         directory above it is there, and its disk mounted; or ask its administrator",
    )
}
