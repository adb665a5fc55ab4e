//! What a volume's tree is now, without a snapshot of it.

use crate::delta::sides::Sides;
use crate::location::place::Place;
use snapsync_model::{Context, Monitor, Provider, Result, SnapshotInfo, Subset};
use snapsync_snapshot::{LARGEST_IN_PACK, Volume};
use snapsync_sys::{Root, sync_filesystem};
use snapsync_walk::Tree;

/// The tree as it is, with these patterns, beside one of the volume's snapshots.
pub(crate) fn since(
    volume: &Volume,
    base: &SnapshotInfo,
    tree: &Root,
    subset: &Subset,
    monitor: &Monitor,
) -> Result<Sides> {
    // What is in memory alone has no address yet.
    sync_filesystem(tree.fd()).context("sync the file system of", tree.path())?;
    let packed = (volume.info().provider == Provider::Pool).then_some(LARGEST_IN_PACK);
    if *subset != *volume.subset() {
        let now = Tree::of(tree.underneath()?, subset, monitor)?;
        let sides = Sides::between_sides(volume.open_snapshot(base, monitor)?, Box::new(now));
        return sides.like_taken(tree, packed);
    }
    let held = Volume::open_in(volume.root().again()?)?;
    let held = Place::Snapshot(Box::new((held, base.clone())));
    Sides::found_at(&held, &Place::Directory(tree.again()?), monitor)?.like_taken(tree, packed)
}
