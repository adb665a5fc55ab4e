//! The manifests that a volume keeps: what changed from each snapshot of its line to the next, also when the
//! snapshots are gone.
//!
//! A round brings its manifest along. Whatever nobody has brought is made from the two snapshots, at the
//! latest before one of them is deleted. The first manifest of all creates everything.

use crate::delta::outgoing::{announce, copy, header};
use crate::delta::sides::Sides;
use crate::digest::hex;
use rayon::prelude::*;
use snapsync_history::Step;
use snapsync_manifest::ManifestReader;
use snapsync_model::{Context, Error, Monitor, Result, SnapshotInfo};
use snapsync_snapshot::{LockedVolume, Volume};
use snapsync_sys::{Named, Spot};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use uuid::Uuid;

/// In the store.
const HISTORY: &str = "history";
/// There, what is not whole.
const PART: &str = "part";

/// The steps of a volume that lead to its newest snapshot, oldest first, and those that were made only to be
/// read now.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) steps: Vec<Step>,
    made: Option<TempDir>,
}

impl History {
    /// The files of the steps, oldest first; those that would go with the history are copied to a directory.
    pub(crate) fn files_in(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let file = |step: &Step| {
            let file = step.file().show().into_owned();
            let name = file
                .file_name()
                .filter(|_| self.made.as_ref().is_some_and(|made| file.starts_with(made.path())));
            let Some(name) = name else { return Ok(file.clone()) };
            let to = dir.join(name);
            std::fs::copy(&file, &to).context("copy to", &to)?;
            Ok(to)
        };
        self.steps.iter().map(file).collect()
    }

    /// Steps whose files go with a directory.
    pub(crate) fn made(steps: Vec<Step>, dir: TempDir) -> History {
        History { steps, made: Some(dir) }
    }
}

/// A step as the chain of a volume has it.
pub(super) enum Link {
    Kept(Step),
    /// To be made from two snapshots, or of all that the first has.
    Missing(Option<SnapshotInfo>, SnapshotInfo),
}

/// Reads the history of a volume. Steps that nobody has kept are made: in the store if nobody works on the
/// volume.
pub(crate) fn history(volume: &Volume, monitor: &Monitor) -> Result<History> {
    let is_missing = |link: &Link| matches!(link, Link::Missing(..));
    let mut chain = chain(volume, monitor)?;
    if chain.iter().any(is_missing) && keep_all(volume, monitor).is_ok() {
        chain = self::chain(volume, &Monitor::default())?;
    }
    let made = if chain.iter().any(is_missing) { Some(snapsync_sys::scratch()?) } else { None };
    let mut steps = Vec::new();
    for link in chain {
        match (link, &made) {
            (Link::Kept(step), _) => steps.push(step),
            (Link::Missing(base, target), Some(dir)) => {
                let to = dir.path().join(format!("{}.arrow", target.id));
                write(volume, base.as_ref(), &target, &to, monitor)?;
                steps.push(Step::open(Box::new(to), 0)?);
            }
            (Link::Missing(..), None) => {}
        }
    }
    Ok(History { steps, made })
}

/// All files of kept manifests, each with the snapshot that it leads to.
pub(super) fn kept_files(volume: &Volume) -> Result<Vec<(Uuid, Spot)>> {
    let dir = volume.store().join(HISTORY);
    let named = |name: Box<[u8]>| parsed(&name).map(|(id, _)| (id, dir.join(&name)));
    Ok(list(&dir)?.into_iter().filter_map(named).collect())
}

/// What the kept manifests take: how many they are, and their bytes.
pub(crate) fn weight(volume: &Volume) -> Result<(u64, u64)> {
    kept_files(volume)?.iter().try_fold((0, 0), |(count, bytes), (_, file)| {
        let found = file.stat().context("read the attributes of", file.show())?;
        Ok((count + 1, u64::saturating_add(bytes, found.attributes.size)))
    })
}

/// Makes all steps that are missing, if nobody works on the volume.
fn keep_all(volume: &Volume, monitor: &Monitor) -> Result<()> {
    let volume = volume.lock()?;
    let all = volume.line()?.iter().map(|snapshot| snapshot.id).collect();
    keep_before_deletion(&volume, &all, monitor)
}

/// Deletes snapshots, and keeps what changed in them. Where there is no space for that they go nevertheless.
pub(crate) fn delete_all(volume: &mut LockedVolume, going: &[SnapshotInfo], monitor: &Monitor) -> Result<()> {
    let ids = going.iter().map(|snapshot| snapshot.id).collect();
    match keep_before_deletion(volume, &ids, monitor) {
        Err(error) if !matches!(error.exit_code(), 5) => {
            monitor
                .note(format!("the history lacks what changed in deleted snapshots: {}", error.sentence()));
        }
        other => other?,
    }
    volume.delete_all(going, monitor)
}

/// Makes the steps that nobody can make any more once some snapshots are gone.
pub(crate) fn keep_before_deletion(volume: &Volume, going: &BTreeSet<Uuid>, monitor: &Monitor) -> Result<()> {
    let is_going = |snapshot: &SnapshotInfo| going.contains(&snapshot.id);
    let (have, line) = (kept_files(volume)?, volume.line()?);
    let have: BTreeMap<Uuid, Spot> = have.into_iter().collect();
    // The one after the last that goes loses its base.
    let end = line.iter().rposition(is_going).map_or(0, |last| line.len().min(last + 2));
    // Up to which one it is known what the whole table says of inodes that changed.
    let mut read = 0;
    for (at, target) in line.iter().enumerate() {
        let base = at.checked_sub(1).map(|before| &line[before]);
        if !(is_going(target) || base.is_some_and(is_going)) {
            continue;
        }
        let old = have.get(&target.id);
        if old.is_some_and(|file| open_named(file).is_ok()) {
            continue;
        }
        if base.is_some() && at > read {
            // A table that cannot be read is told where it is needed.
            let together = volume.read_ahead(&line[at - 1..end]).unwrap_or(0);
            read = at - 1 + together.saturating_sub(1);
        }
        make(volume, target.id, |part| write(volume, base, target, part, monitor))?;
        if let Some(damaged) = old {
            damaged.remove_file().context("remove", damaged.show())?;
        }
    }
    Ok(())
}

/// Copies the manifest of a round, whose stage is about to go, for `keep`.
pub(crate) fn put_by(volume: &Volume, manifest: &Spot) -> Option<Spot> {
    // What a standby had lost is brought as if it were new.
    let part = part_in(volume).ok().filter(|_| !volume.has_absent())?;
    copy(manifest, &part).ok().map(|()| part)
}

/// The snapshot before one of the line.
pub(crate) fn before(volume: &Volume, target: Uuid) -> Result<Option<Uuid>> {
    let line = volume.line()?;
    let at = line.iter().position(|snapshot| snapshot.id == target);
    Ok(at.and_then(|at| at.checked_sub(1)).map(|before| line[before].id))
}

/// Keeps the manifest of a round, if it tells what changed since the snapshot `before`. It is made again
/// where that fails: a round is no worse without it.
pub(crate) fn keep(volume: &Volume, before: Option<Uuid>, target: Uuid, manifest: &Spot) {
    let is_next = || {
        let header = ManifestReader::open(manifest)?.header()?;
        let is_of = header.target == target.to_string() && header.sequence.is_some();
        Result::Ok(is_of && Uuid::parse_str(&header.base).ok() == before)
    };
    let kept = || {
        if !is_next()? {
            return Ok(());
        }
        let part = volume.store().join(HISTORY).join(PART);
        if *manifest.show() == *part.show() {
            return name(volume, target, &part);
        }
        make(volume, target, |part| manifest.link(part).or_else(|_| copy(manifest, part)))
    };
    drop(kept());
}

/// Keeps a manifest that is yet to be written. Nothing of it is left where that fails: disks may be full.
pub(super) fn make(volume: &Volume, target: Uuid, write: impl FnOnce(&Spot) -> Result<()>) -> Result<()> {
    let part = part_in(volume)?;
    write(&part).and_then(|()| name(volume, target, &part)).inspect_err(|_| drop(part.remove_file()))
}

/// Where a manifest is until it is whole.
fn part_in(volume: &Volume) -> Result<Spot> {
    let dir = volume.store().join(HISTORY);
    dir.ensure_dir().context("create the directory", dir.show())?;
    let part = dir.join(PART);
    match part.remove_file() {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).context("remove", part.show()),
        _ => Ok(part),
    }
}

/// Gives a whole manifest its name, which tells its digest: nothing else would show that it is damaged.
fn name(volume: &Volume, target: Uuid, part: &Spot) -> Result<()> {
    let digest = hex(&announce(part)?.digest);
    let to = volume.store().join(HISTORY).join(format!("{target}.{digest}.arrow"));
    part.rename(&to).context("name", to.show())
}

fn write(
    volume: &Volume,
    base: Option<&SnapshotInfo>,
    target: &SnapshotInfo,
    to: &dyn Named,
    monitor: &Monitor,
) -> Result<()> {
    let sides = match base {
        Some(base) => Sides::between(volume, base, target, monitor)?,
        None => Sides::of_volume(volume, None, target, monitor)?,
    };
    let head = header(volume, base, target);
    match sides.write_manifest(to, &head, monitor) {
        // A primary without a history of its own has a table of that snapshot, and of what it held no more
        // than the tree still has.
        Err(Error::Lost { .. }) => sides.write_what_is_known(to, &head, monitor).map(drop),
        other => other.map(drop),
    }
}

/// What the chain is made of. A manifest that cannot be read is named, and passed over.
pub(super) fn chain(volume: &Volume, monitor: &Monitor) -> Result<Vec<Link>> {
    let mut kept = kept(volume, monitor)?;
    let line = volume.line()?;
    let mut links = Vec::new();
    let mut next = line.last().map(|snapshot| snapshot.id);
    while let Some(id) = next {
        let at = line.iter().position(|snapshot| snapshot.id == id);
        let (link, before) = match (kept.remove(&id), at) {
            (Some(step), _) => {
                let base = Uuid::parse_str(&step.header.base).ok();
                (Link::Kept(step), base)
            }
            (None, Some(at)) => {
                let base = at.checked_sub(1).map(|before| line[before].clone());
                let before = base.as_ref().map(|base| base.id);
                (Link::Missing(base, line[at].clone()), before)
            }
            (None, None) => {
                let Some(older) = before_gap(&links, &line, &kept) else { break };
                if let Some(Link::Kept(step)) = links.last_mut() {
                    step.after_gap = true;
                }
                next = Some(older);
                continue;
            }
        };
        links.push(link);
        next = before;
    }
    links.reverse();
    Ok(links)
}

/// The newest snapshot before a manifest that is missing.
fn before_gap(links: &[Link], line: &[SnapshotInfo], kept: &BTreeMap<Uuid, Step>) -> Option<Uuid> {
    let sequence = match links.last()? {
        Link::Kept(step) => step.header.sequence?,
        Link::Missing(_, target) => target.sequence,
    };
    let snapshots = line.iter().map(|snapshot| (snapshot.sequence, snapshot.id));
    let steps = kept.iter().filter_map(|(id, step)| step.header.sequence.map(|sequence| (sequence, *id)));
    let older = snapshots.chain(steps).filter(|(found, _)| *found < sequence);
    older.max().map(|(_, id)| id)
}

/// All manifests that can be read, by the ids of their snapshots.
fn kept(volume: &Volume, monitor: &Monitor) -> Result<BTreeMap<Uuid, Step>> {
    let dir = volume.store().join(HISTORY);
    let opened = list(&dir)?.into_par_iter().filter_map(|entry| {
        let (id, digest) = parsed(&entry)?;
        Some((id, open(&dir.join(&entry), id, digest)))
    });
    let opened: Vec<(Uuid, Result<Step>)> = opened.collect();
    let mut found = BTreeMap::new();
    for (id, step) in opened {
        match step {
            // One that was folded is there before the manifests that it replaces are gone.
            Ok(step) if step.header.base.is_empty() || !found.contains_key(&id) => {
                found.insert(id, step);
            }
            Ok(_) => {}
            Err(error @ Error::Integrity { .. }) => {
                monitor.note(format!("the history goes on without a manifest: {}", error.sentence()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The snapshot and the digest in a name.
fn parsed(name: &[u8]) -> Option<(Uuid, &str)> {
    let (id, digest) = std::str::from_utf8(name).ok()?.strip_suffix(".arrow")?.split_once('.')?;
    Some((Uuid::parse_str(id).ok()?, digest))
}

/// The same by its name.
pub(super) fn open_named(file: &Spot) -> Result<Step> {
    let show = file.show();
    let name = show.file_name().unwrap_or_default().as_encoded_bytes();
    match parsed(name) {
        Some((id, digest)) => open(file, id, digest),
        None => Err(Error::integrity(format!("{} is no manifest", show.display()), "remove it")),
    }
}

fn open(file: &Spot, id: Uuid, digest: &str) -> Result<Step> {
    let advice = "it is made again if both of its snapshots are there; otherwise remove it";
    let damaged = |what: &str| Error::integrity(format!("{} {what}", file.show().display()), advice);
    let announced = announce(file)?;
    if hex(&announced.digest) != digest {
        return Err(damaged("is not what was written: it is damaged"));
    }
    let step = Step::open(Box::new(file.clone()), announced.length)?;
    if step.header.target == id.to_string() && step.header.sequence.is_some() {
        return Ok(step);
    }
    Err(damaged("is the manifest of another snapshot"))
}

fn list(dir: &Spot) -> Result<Vec<Box<[u8]>>> {
    match dir.list() {
        Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).context("list", dir.show()),
    }
}
