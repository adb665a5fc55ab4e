//! Lists every version of one file in the snapshots of its volume, and tells what changed between two.

use crate::delta::landing::RestoreTarget;
use crate::delta::selected::Select;
use crate::digest::{Digest, content};
use crate::location::directory::part_of;
use crate::location::inside::{is_in_store, relative};
use crate::location::target;
use crate::options::{Supply, Terms};
use crate::report::snapshots::{RestoredTo, Version, Versions};
use crate::unified::{OneSide, What, unified};
use crate::verbs::change_of::{MOST, read_side};
use crate::verbs::restore::directory::restore_into;
use crate::volume::kept;
use rustix::fs::{AtFlags, unlinkat};
use snapsync_history::trace;
use snapsync_model::{Context, Error, Kind, Monitor, Range, RelPath, Result, SnapshotInfo, count, size};
use snapsync_snapshot::{Finding, Found, Proof, Volume, find_at};
use snapsync_sys::{Place, Root, remove_all_in};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// A version, and the entry that it was found as, for comparisons.
struct Known {
    found: Found,
    digest: Option<Digest>,
    proofs: Vec<Proof>,
    /// In the newest of its snapshots, or now if none has it.
    path: RelPath,
    snapshots: Vec<SnapshotInfo>,
    is_live: bool,
}

/// The versions of a present or past file of a volume, oldest first. `part` names the part of its tree whose
/// snapshots are meant; without it, those of the whole volume, or else of the first part that has the file.
/// With `diff` the patch comes along that leads from one version to another, by their numbers: 0 is no file,
/// the second one is by default what is there now, and without any number it is the last change.
pub fn versions(
    file: &Path,
    part: Option<&str>,
    diff: Option<&[u64]>,
    monitor: &Monitor,
) -> Result<Versions> {
    let (volume, path) = place_of(file)?;
    versions_in(volume, &path, part, diff, monitor)
}

/// The same of a path in a volume that is open.
pub(crate) fn versions_in(
    volume: Volume,
    path: &RelPath,
    part: Option<&str>,
    diff: Option<&[u64]>,
    monitor: &Monitor,
) -> Result<Versions> {
    let started = Instant::now();
    let volume = match part {
        Some(part) => Volume::open_in(part_of(volume.root().whole()?, OsStr::new(part))?)?,
        None => holder_of(volume, path)?,
    };
    let mut history = History { known: Vec::new(), states: vec![0], monitor };
    let (paths, last) = paths_in(&volume, path, monitor)?;
    history.add_snapshots(&volume, &paths, path)?;
    let exists = history.add_live(&volume, [path, &last])?;
    if history.known.is_empty() {
        return Err(Error::usage(
            format!("{} is not in {}, and in none of its snapshots", path.display(), volume.path().display()),
            "check the path; it need not exist any more, but must have".to_owned() + &around(&volume),
        ));
    }
    let patch = diff.map(|numbers| history.patch(numbers, path)).transpose();
    let patch = patch.map_err(|error| compared_elsewhere(error, &volume, path))?;
    Ok(Versions {
        verb: "versions",
        volume: volume.info(),
        path: path.as_path().to_path_buf(),
        exists,
        versions: history.known.into_iter().zip(1..).map(|(known, number)| known.told(number)).collect(),
        diff: patch.map(|bytes| PathBuf::from(OsString::from_vec(bytes))),
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A directory of a volume may have become a volume of its own later.
fn around(volume: &Volume) -> String {
    target::volume_around(volume.path()).map_or_else(String::new, |outer| {
        format!(
            "; it lies in the volume {0}, too: `snapsync log {0} PATH` tells of it",
            outer.path().display()
        )
    })
}

/// The bytes of one of two versions are not here.
fn compared_elsewhere(error: Error, volume: &Volume, path: &RelPath) -> Error {
    let Error::Lost { what, .. } = error else { return error };
    let (show, path) = (volume.path().display(), path.display());
    let advice = format!(
        "`snapsync versions STANDBY/{path} --diff` compares them where a standby has both: `snapsync status \
         {show}` names them"
    );
    Error::Lost { what, advice }
}

/// The path that a file had in each snapshot where its history tells it, and the last of them: files and
/// directories are renamed.
fn paths_in(volume: &Volume, path: &RelPath, monitor: &Monitor) -> Result<(HashMap<Uuid, RelPath>, RelPath)> {
    let traced = kept::history(volume, monitor).and_then(|past| {
        let paths = trace(&past.steps, path, monitor)?;
        let ids = past.steps.iter().map(|step| Uuid::parse_str(&step.header.target));
        Ok(ids.zip(paths).filter_map(|(id, path)| Some((id.ok()?, path))).collect::<Vec<_>>())
    });
    match traced {
        Err(error) if !matches!(error.exit_code(), 5) => {
            monitor.note(format!(
                "only this path was looked at, as its history is not known: {}",
                error.sentence()
            ));
            Ok((HashMap::new(), path.clone()))
        }
        traced => {
            let traced = traced?;
            let last = traced.last().map_or_else(|| path.clone(), |(_, path)| path.clone());
            Ok((traced.into_iter().collect(), last))
        }
    }
}

/// Restores a path of a snapshot to `to`, where nothing exists.
pub fn restore_file(
    address: &Path,
    path: &Path,
    to: &Path,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<RestoredTo> {
    let occupied =
        || Error::refused(format!("{} is there already", to.display()), "name a file that is not there yet");
    if to.symlink_metadata().is_ok() {
        return Err(occupied());
    }
    let target::Found::Nothing { above, name } = target::find(to)? else { return Err(occupied()) };
    target::expect_no_standby_around(&above.path().join(&name))?;
    let work = OsString::from(format!(".snapsync-{}", Uuid::new_v4()));
    // Nobody else can enter it, whatever the mode of the tree in it. Whoever may write in its parent can only
    // move it away.
    let made = above.make_directory(&work)?;
    let done = restored_in(&made, address, path, (&above, &name), supply, monitor);
    let removed =
        remove_all_in(made.fd()).and_then(|()| Ok(unlinkat(above.fd(), &work, AtFlags::REMOVEDIR)?));
    let report = done?;
    removed.context("remove", made.path())?;
    Ok(report)
}

/// Restores a path of a snapshot in a directory, and then links it to its name.
fn restored_in(
    made: &Root,
    address: &Path,
    path: &Path,
    (above, name): (&Root, &OsStr),
    supply: &Supply,
    monitor: &Monitor,
) -> Result<RestoredTo> {
    let to = above.path().join(name);
    let tree = made.make_directory(OsStr::new("tree"))?;
    let find = |volume: Option<&Volume>| {
        if volume.is_some_and(|volume| is_in_store(&to, volume)) {
            let what = format!("{} is in the store of the volume", to.display());
            return Err(Error::refused(what, "name a file elsewhere"));
        }
        Ok(RestoreTarget::made(tree.again()?))
    };
    let path = (&[path.to_path_buf()][..], &Select::default());
    let mut report = restore_into(address, path, &find, Terms::default(), supply, monitor)?;
    let from = RelPath::new(report.paths[0].as_os_str().as_bytes())?;
    let above = above.fd().try_clone_to_owned().context("make", &to)?;
    let moved = tree.place(&from).and_then(|from| from.rename_to_new(&Place::new(above, name)));
    moved.context("make", &to)?;
    report.to = to;
    Ok(report)
}

/// The volume that a present or past file belongs to, and its path there.
fn place_of(file: &Path) -> Result<(Volume, RelPath)> {
    let named = std::path::absolute(file).context("find the path of", file)?;
    let path = match (named.parent().map(Path::canonicalize), named.file_name()) {
        (Some(Ok(above)), Some(name)) => above.join(name),
        _ => named,
    };
    for above in path.ancestors().skip(1) {
        let Some(volume) = Volume::find(above)? else { continue };
        let above = above.canonicalize().context("find", above)?;
        let path = relative(volume.root().path(), &path)?;
        let is_stored = path.as_bytes().split(|b| *b == b'/').next() == Some(b".snapsync");
        if is_stored {
            return Err(Error::usage(
                format!("{} is in the store of {}", file.display(), above.display()),
                "name a file of the volume itself",
            ));
        }
        return Ok((volume, path));
    }
    if Volume::find(&path)?.is_some() {
        return Err(Error::usage(
            format!("{} is a volume itself", file.display()),
            format!("name a file in it; `snapsync list {}` shows its snapshots", file.display()),
        ));
    }
    Err(Error::usage(
        format!("{} is in no volume", file.display()),
        "name a file beneath a directory that has snapshots",
    ))
}

/// The volume, or the first part of it, that has a path in a snapshot.
fn holder_of(volume: Volume, path: &RelPath) -> Result<Volume> {
    let mut parts = volume.parts()?.into_iter();
    let mut next = (parts.len() > 0).then(|| volume.clone());
    while let Some(candidate) = next {
        let mut finding = Finding::new(&candidate, path);
        for snapshot in candidate.snapshots()?.iter().rev() {
            if finding.find_in(snapshot)?.is_some() {
                return Ok(candidate);
            }
        }
        let name = parts.next();
        let part =
            name.map(|name| part_of(volume.root().whole()?, OsStr::new(&name)).and_then(Volume::open_in));
        next = part.transpose()?;
    }
    Ok(volume)
}

struct History<'a> {
    known: Vec<Known>,
    /// The numbers of the versions in the order of time, each as often as it came back; 0 where no file was.
    states: Vec<u64>,
    monitor: &'a Monitor,
}

impl History<'_> {
    /// What was there next: the version with this place, or none.
    fn became(&mut self, at: Option<usize>) {
        let number = at.map_or(0, |at| at as u64 + 1);
        if self.states.last() != Some(&number) {
            self.states.push(number);
        }
    }

    fn patch(&self, numbers: &[u64], path: &RelPath) -> Result<Vec<u8>> {
        let now = self.states.last().copied().unwrap_or_default();
        let (old, new) = match numbers {
            [] => (self.states.len().checked_sub(2).map_or(0, |at| self.states[at]), now),
            [old] => (*old, now),
            [old, new] => (*old, *new),
            _ => {
                return Err(Error::usage("a diff is of two versions", "give at most two of their numbers"));
            }
        };
        if old == new {
            return Ok(Vec::new());
        }
        let (old, new) = (self.side(old, path)?, self.side(new, path)?);
        if needs_lines(&old.what) && needs_lines(&new.what) {
            refuse_large(&old)?;
            refuse_large(&new)?;
        }
        Ok(unified(&old, &new))
    }

    fn side<'p>(&self, number: u64, path: &'p RelPath) -> Result<OneSide<'p>> {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let known = match at.checked_sub(1) {
            None => None,
            Some(at) => Some(self.known.get(at).ok_or_else(|| {
                Error::usage(
                    format!("{} has no version {number}", path.display()),
                    format!(
                        "it has {}; `snapsync versions FILE` shows them",
                        count(self.known.len() as u64, "version", "versions")
                    ),
                )
            })?),
        };
        let label = format!("version {number}");
        let what = known.map(|known| read_side(&known.found, self.monitor)).transpose()?;
        Ok(OneSide { path: path.as_bytes(), label, what })
    }

    fn add_snapshots(
        &mut self,
        volume: &Volume,
        paths: &HashMap<Uuid, RelPath>,
        path: &RelPath,
    ) -> Result<()> {
        let mut findings: HashMap<&RelPath, Finding<'_>> = HashMap::new();
        for snapshot in volume.snapshots()? {
            self.monitor.check()?;
            let path = paths.get(&snapshot.id).unwrap_or(path);
            let finding = findings.entry(path).or_insert_with(|| Finding::new(volume, path));
            let found = finding.find_in(&snapshot)?;
            let is_aside = snapshot.aside;
            let at = found.map(|found| self.add(&found)).transpose()?;
            if let Some(at) = at {
                self.known[at].path = path.clone();
                self.known[at].snapshots.push(snapshot);
            }
            if !is_aside {
                self.became(at);
            }
        }
        Ok(())
    }

    /// What is at the first of some paths now; whether there is anything.
    fn add_live(&mut self, volume: &Volume, paths: [&RelPath; 2]) -> Result<bool> {
        let tree = Arc::new(volume.root().underneath()?);
        for path in paths {
            let Some(found) = find_at(&tree, path)? else { continue };
            let at = self.add(&found)?;
            let known = &mut self.known[at];
            known.is_live = true;
            if known.snapshots.is_empty() {
                known.path = path.clone();
            }
            self.became(Some(at));
            return Ok(true);
        }
        self.became(None);
        Ok(false)
    }

    /// The place of the version that this entry is, which may be known already.
    fn add(&mut self, found: &Found) -> Result<usize> {
        let proven = self.known.iter().position(|known| known.is_proven(found));
        let at = match proven {
            Some(at) => Some(at),
            None => self.equal(found)?,
        };
        let at = at.unwrap_or(self.known.len());
        if at == self.known.len() {
            let (proofs, snapshots) = (Vec::new(), Vec::new());
            let path = RelPath::root();
            self.known.push(Known {
                found: found.clone(),
                digest: None,
                proofs,
                path,
                snapshots,
                is_live: false,
            });
        }
        let known = &mut self.known[at];
        if !known.proofs.contains(&found.proof) {
            known.proofs.push(found.proof.clone());
        }
        Ok(at)
    }

    /// Files are read at most once, and only if another has the same size.
    fn equal(&mut self, found: &Found) -> Result<Option<usize>> {
        let mut digest = None;
        for (at, known) in self.known.iter_mut().enumerate() {
            if !known.looks_like(found) {
                continue;
            }
            if found.kind != Kind::File || found.attributes.size == 0 {
                return Ok(Some(at));
            }
            if known.digest.is_none() {
                known.digest = digest_of(&known.found, self.monitor)?;
            }
            if known.digest.is_some() && digest.is_none() {
                digest = digest_of(found, self.monitor)?;
            }
            if digest.is_some() && digest == known.digest {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

/// Whether more is said of it than that it differs.
fn needs_lines(what: &Option<What>) -> bool {
    !matches!(what, Some(What::Binary | What::Other(_)))
}

fn refuse_large(side: &OneSide<'_>) -> Result<()> {
    if !matches!(side.what, Some(What::Large)) {
        return Ok(());
    }
    Err(Error::refused(
        format!("cannot tell what changed: {} is larger than {}", side.label, size(MOST)),
        "get the versions with `snapsync versions FILE --restore N --to PATH`, and compare them",
    ))
}

impl Known {
    /// Compares everything except the bytes.
    fn looks_like(&self, found: &Found) -> bool {
        let told = |f: &Found| (f.kind, f.target.clone(), f.attributes.rdev, size_of(f));
        told(&self.found) == told(found)
    }

    /// An object that was not needed proves nothing; nor does the state of anything but a file.
    fn is_proven(&self, found: &Found) -> bool {
        self.looks_like(found)
            && !matches!(found.proof, Proof::Object(0) | Proof::None)
            && self.proofs.contains(&found.proof)
    }

    fn told(self, number: u64) -> Version {
        Version {
            number,
            kind: self.found.kind.name(),
            size: size_of(&self.found),
            mtime: self.found.attributes.mtime,
            content: if self.found.kind == Kind::File { self.found.content() } else { PathBuf::new() },
            content_offset: if self.found.kind == Kind::File { self.found.content_offset() } else { 0 },
            target: self.found.target.map(|target| String::from_utf8_lossy(&target).into_owned()),
            path: self.path.as_path().to_path_buf(),
            snapshots: self.snapshots,
            live: self.is_live,
        }
    }
}

/// The size; that of a directory means nothing.
fn size_of(found: &Found) -> u64 {
    if found.kind == Kind::File { found.attributes.size } else { 0 }
}

/// None where the bytes are lost.
fn digest_of(found: &Found, monitor: &Monitor) -> Result<Option<Digest>> {
    let whole = Range { offset: 0, length: size_of(found) };
    let file = match found.open() {
        Err(Error::Lost { .. }) => return Ok(None),
        file => file?,
    };
    let digest = content(&file, &found.content(), whole, monitor)?;
    found.holds_still(&file).map(|()| Some(digest))
}
