//! What of some paths differs from a snapshot, as far down as it goes: a restore leaves the same alone.

use crate::delta::sides::Sides;
use crate::location::inside::{above, outermost};
use crate::volume::drift::is_only_dated;
use snapsync_manifest::{ManifestHeader, ManifestReader};
use snapsync_model::{Attributes, Error, Monitor, RelPath, Result, Side, SnapshotInfo};
use snapsync_snapshot::Volume;
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
            dated.insert(path, new);
        }
    }
    let names = |snapshot| names(&*volume.open_snapshot(snapshot, monitor)?, &inos, &is_within);
    let (gone, mut brought) = (names(now)?, names(then)?);
    let linked = linked(&*volume.open_snapshot(then, monitor)?, &brought)?;
    brought.extend(linked.into_iter().filter(is_within));
    let tops = outermost(&gone.union(&brought).cloned().collect::<Vec<_>>());
    let is_top = |path: &RelPath| gone.contains(path) || brought.contains(path);
    dated.retain(|path, _| !above(path).any(|dir| is_top(&dir)));
    let (brought, gone) = tops.into_iter().partition(|path| brought.contains(path));
    Ok(Differing { brought, gone, dated })
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
