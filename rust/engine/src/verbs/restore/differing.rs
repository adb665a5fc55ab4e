//! What of some paths differs from a snapshot, as far down as it goes: a restore leaves the same alone.

use crate::delta::sides::Sides;
use crate::location::inside::{above, outermost};
use crate::volume::drift::is_only_dated;
use snapsync_manifest::{ManifestHeader, ManifestReader};
use snapsync_model::{Attributes, Error, Monitor, RelPath, Result, Side, SnapshotInfo};
use snapsync_snapshot::Volume;
use snapsync_sys::Root;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct Differing {
    /// What is to be as in the snapshot, with all below it.
    pub(super) brought: Vec<RelPath>,
    /// What the snapshot does not have.
    pub(super) gone: Vec<RelPath>,
    /// Other directories that had another time.
    pub(super) dated: BTreeMap<RelPath, Attributes>,
}

impl Differing {
    /// Where the bytes of the snapshot are lost here, so that nothing can be compared, it is all of them.
    pub(super) fn of(
        volume: &Volume,
        (now, then): (&SnapshotInfo, &SnapshotInfo),
        paths: &[RelPath],
        monitor: &Monitor,
    ) -> Result<Differing> {
        match found(volume, (now, then), paths, monitor) {
            Err(Error::Lost { .. }) => Ok(Differing { brought: outermost(paths), ..Differing::default() }),
            found => found,
        }
    }
}

fn found(
    volume: &Volume,
    (now, then): (&SnapshotInfo, &SnapshotInfo),
    paths: &[RelPath],
    monitor: &Monitor,
) -> Result<Differing> {
    let within: BTreeSet<&RelPath> = paths.iter().collect();
    let is_within = |path: &RelPath| within.contains(path) || above(path).any(|dir| within.contains(&dir));
    let scratch = snapsync_sys::scratch()?;
    let manifest = scratch.path().join("manifest.arrow");
    let sides = Sides::between(volume, now, then, monitor)?.pruned(paths);
    sides.write_manifest(&manifest, &ManifestHeader::default(), monitor)?;
    let (mut inos, mut dated) = (BTreeSet::new(), BTreeMap::new());
    for change in ManifestReader::open(&manifest)? {
        let change = change?;
        if !change.flags.any() || change.only_lends() {
            continue;
        }
        if !is_only_dated(&change) {
            inos.insert(change.ino);
        } else if let (Some(path), Some(new)) = (change.path.filter(is_within), change.new) {
            if is_protected(volume.root(), &path) {
                inos.insert(change.ino);
            } else {
                dated.insert(path, new);
            }
        }
    }
    let names_in = |side: &dyn Side| names(side, &inos, &is_within);
    let gone = names_in(&*volume.open_snapshot(now, monitor)?)?;
    let then = volume.open_snapshot(then, monitor)?;
    let brought = with_others((volume.root(), &*then), &gone, names_in(&*then)?, &is_within)?;
    let tops = outermost(&gone.union(&brought).cloned().collect::<Vec<_>>());
    let is_top = |path: &RelPath| gone.contains(path) || brought.contains(path);
    dated.retain(|path, _| !above(path).any(|dir| is_top(&dir)));
    let (brought, gone) = tops.into_iter().partition(|path| brought.contains(path));
    Ok(Differing { brought, gone, dated })
}

/// What is brought, with the other names of its files and the directories in which nothing can be replaced.
fn with_others(
    (root, then): (&Root, &dyn Side),
    gone: &BTreeSet<RelPath>,
    mut brought: BTreeSet<RelPath>,
    is_within: &dyn Fn(&RelPath) -> bool,
) -> Result<BTreeSet<RelPath>> {
    let mut dirs = protected(root, gone, is_within);
    dirs.append(&mut protected(root, &brought, is_within));
    loop {
        while !dirs.is_subset(&brought) {
            brought.append(&mut dirs);
            dirs = protected(root, &brought, is_within);
        }
        brought.extend(linked(then, &brought)?.into_iter().filter(is_within));
        // Names of files in such a directory may lie in another one.
        dirs = protected(root, &brought, is_within);
        if dirs.is_subset(&brought) {
            return Ok(brought);
        }
    }
}

/// The directories of these paths that are immutable or append-only: they can be replaced, but nothing in
/// them.
fn protected(
    root: &Root,
    paths: &BTreeSet<RelPath>,
    is_within: &dyn Fn(&RelPath) -> bool,
) -> BTreeSet<RelPath> {
    let dirs: BTreeSet<RelPath> = paths.iter().filter_map(|path| Some(path.split()?.0)).collect();
    dirs.into_iter().filter(|dir| is_within(dir) && is_protected(root, dir)).collect()
}

/// Whether it is immutable or append-only.
pub(super) fn is_protected(root: &Root, path: &RelPath) -> bool {
    let flags = root.read(path).and_then(|open| snapsync_sys::flags_of(&open));
    flags.is_ok_and(|flags| flags & snapsync_sys::PROTECTIVE != 0)
}

/// All names of files of which one is brought: they are to be one file again.
fn linked(side: &dyn Side, brought: &BTreeSet<RelPath>) -> Result<Vec<RelPath>> {
    let is_brought = |path: &RelPath| brought.contains(path) || above(path).any(|dir| brought.contains(&dir));
    let mut linked = Vec::new();
    if brought.is_empty() {
        return Ok(linked);
    }
    for inode in side.inodes()? {
        let inode = inode?;
        if inode.links.len() > 1 {
            let paths = inode.links.iter().map(|link| side.path_of(link)).collect::<Result<Vec<_>>>()?;
            linked.extend(paths.iter().any(is_brought).then_some(paths).into_iter().flatten());
        }
    }
    Ok(linked)
}

/// All names that inodes have within the paths.
fn names(
    side: &dyn Side,
    inos: &BTreeSet<u64>,
    is_within: &dyn Fn(&RelPath) -> bool,
) -> Result<BTreeSet<RelPath>> {
    let inodes = side.pick(inos)?;
    let paths = inodes.iter().flat_map(|inode| &inode.links).map(|link| side.path_of(link));
    paths.filter(|path| path.as_ref().map_or(true, is_within)).collect()
}
