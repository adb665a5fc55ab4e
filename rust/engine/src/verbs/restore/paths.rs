//! Restores some paths of a primary from a snapshot.
//!
//! The paths are first restored to a directory beneath `.snapsync/incoming`, and then take their places one
//! by one: each path is the old or the new one at any moment, even if the command is killed.

use crate::delta::landing::{Filled, RestoreTarget};
use crate::delta::pruned::Pruned;
use crate::delta::selected::{Chosen, Select};
use crate::location::inside::{above, within};
use crate::location::place::named;
use crate::options::{Supply, Terms};
use crate::remote::supply;
use crate::report::snapshots::RestoredPaths;
use crate::verbs::restore::differing::{Differing, is_protected};
use crate::volume::replacement::{Checked, Replacement, clock, keep_in_place};
use crate::volume::{recovery, standing};
use snapsync_model::{
    Attributes, Context, Error, Kind, Monitor, RelPath, Result, Side, SnapshotInfo, Stage, Subset,
};
use snapsync_snapshot::{LockedVolume, Request, Volume};
use snapsync_sys::Root;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Restores `paths` from a snapshot, or what is selected of them or of everything, after taking a snapshot of
/// their present state.
pub fn restore_paths(
    address: &Path,
    (paths, select): (&[PathBuf], &Select),
    terms: Terms,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<RestoredPaths> {
    let started = Instant::now();
    let selection = select.asked()?;
    let (volume, snapshot) = named(address)?;
    standing::expect_restorable(&volume)?;
    let paths = within(volume.root().path(), paths)?;
    if selection.is_none() && (paths.is_empty() || paths.iter().any(RelPath::is_root)) {
        return Err(Error::usage("no path is named", "name paths inside the volume, or use --to"));
    }
    let (mut volume, recovered) = recovery::lock(&volume, monitor)?;
    standing::expect_restorable(&volume)?;
    monitor.start(Stage::Compare, 0);
    let of = (&*volume, &snapshot);
    let chosen = Chosen::of(of, paths, selection.as_ref(), monitor)?;
    let (before, filled) = if chosen.is_nothing() {
        (None, None)
    } else {
        let (before, filled) = bring(&mut volume, &snapshot, &chosen.paths, (terms, supply), monitor)?;
        (Some(before), filled)
    };
    let (counts, shared_bytes, losses) =
        filled.map(|filled| (filled.counts, filled.shared, filled.losses)).unwrap_or_default();
    Ok(RestoredPaths {
        verb: "restore",
        volume: volume.info(),
        snapshot,
        before,
        paths: chosen.paths.iter().map(|path| path.as_path().to_path_buf()).collect(),
        searched: chosen.searched,
        changes: counts,
        data_bytes: counts.data_bytes,
        shared_bytes,
        losses,
        notes: monitor.take_notes(),
        recovered,
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Makes some paths what they are in a snapshot; returns the snapshot that was taken before.
fn bring(
    volume: &mut LockedVolume,
    snapshot: &SnapshotInfo,
    paths: &[RelPath],
    (terms, supply): (Terms, &Supply),
    monitor: &Monitor,
) -> Result<(SnapshotInfo, Option<Filled>)> {
    let mut content = supply::content(volume, snapshot, paths, supply, monitor)?;
    let root = volume.root().clone();
    paths.iter().try_for_each(|path| can_be_replaced(&root, path, volume.subset()))?;
    let at = clock();
    monitor.start(Stage::Snapshot, 0);
    let before = keep(volume, monitor)?;
    let Differing { brought, gone, dated } = Differing::of(volume, (&before, snapshot), paths, monitor)?;
    let look = |path| Checked::of(&root, path, at).context("look at", root.show(path));
    let [new, old] = [&brought, &gone].map(|paths| paths.iter().map(look).collect::<Result<Vec<_>>>());
    let (new, old) = (new?, old?);
    let replaced: Vec<RelPath> = brought.iter().chain(&gone).cloned().collect();
    let dated = times_within(&root, (paths, &replaced), dated)?;
    keep_in_place(volume, &before, &|| inos_below(volume, &before, &replaced, monitor), monitor)?;
    let stage = Replacement::make(volume)?;
    let mut filled = None;
    if !brought.is_empty() {
        if brought != paths {
            content = supply::content(volume, snapshot, &brought, supply, monitor)?;
        }
        filled = Some(RestoreTarget::made(stage.root.again()?).fill(&mut *content, terms, monitor)?);
    }
    stage.put(&root, (&new, &old), &dated, (snapshot.id, monitor))?;
    stage.finish(&root)?;
    Ok((before, filled))
}

/// The times that directories are to have again: those that had another one, and those within the paths in
/// which something is replaced.
fn times_within(
    root: &Root,
    (paths, replaced): (&[RelPath], &[RelPath]),
    mut dated: BTreeMap<RelPath, Attributes>,
) -> Result<BTreeMap<RelPath, Attributes>> {
    let dirs = replaced.iter().filter(|path| !paths.contains(path)).filter_map(RelPath::split);
    for (dir, _) in dirs {
        let stat = root.entry(&dir).and_then(|entry| entry.stat()).context("look at", root.show(&dir))?;
        dated.entry(dir).or_insert(stat.attributes);
    }
    Ok(dated)
}

/// Takes a snapshot of what is about to be replaced.
pub(crate) fn keep(volume: &mut LockedVolume, monitor: &Monitor) -> Result<SnapshotInfo> {
    let name = Some(volume.unused_name("before-restore-")?);
    volume.take(Request::New { name, subset: None }, monitor)
}

fn inos_below(
    volume: &Volume,
    before: &SnapshotInfo,
    paths: &[RelPath],
    monitor: &Monitor,
) -> Result<BTreeSet<u64>> {
    let below = Pruned::new(volume.open_snapshot(before, monitor)?, paths);
    below.inodes()?.map(|inode| Ok(inode?.ino)).collect()
}

/// Checks that nothing can be lost: everything there must be in the snapshot that is taken before.
fn can_be_replaced(root: &Root, path: &RelPath, subset: &Subset) -> Result<()> {
    for dir in above(path).filter(|dir| !dir.is_root()) {
        match root.entry(&dir).and_then(|entry| entry.stat()) {
            Ok(stat) if stat.kind != Kind::Directory => {
                return Err(in_the_way(root, &dir, "is no directory"));
            }
            Err(e) if !is_absent(&e) => return Err(unreachable(root, &dir, e)),
            _ => {}
        }
    }
    let parent = above(path).find(|dir| root.read(dir).is_ok());
    if let Some(dir) = parent.filter(|dir| is_protected(root, dir)) {
        return Err(Error::refused(
            format!(
                "{} is immutable or append-only: nothing in it can be replaced",
                root.show(&dir).display()
            ),
            "take that off with `chattr -ia` and set it again afterwards, or restore elsewhere with --to",
        ));
    }
    match root.entry(path).and_then(|entry| entry.stat()) {
        Err(e) if is_absent(&e) => Ok(()),
        Err(e) => Err(unreachable(root, path, e)),
        Ok(stat) => all_is_kept(root, path, stat.kind == Kind::Directory, subset),
    }
}

fn all_is_kept(root: &Root, path: &RelPath, is_dir: bool, subset: &Subset) -> Result<()> {
    let left_out = snapsync_walk::left_out(root, path, is_dir, subset)?;
    left_out.map_or(Ok(()), |inner| Err(in_the_way(root, &inner, "is in no snapshot, and would be lost")))
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn unreachable(root: &Root, path: &RelPath, error: io::Error) -> Error {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        // There is a link or a mount on the way, and what lies behind it does not belong to the volume.
        Some(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => in_the_way(root, path, "leads out of the volume"),
        _ => Error::Io { action: "open", path: root.show(path), source: error },
    }
}

fn in_the_way(root: &Root, path: &RelPath, why: &str) -> Error {
    Error::refused(
        format!("{} {why}", root.show(path).display()),
        "move it away, or restore elsewhere with --to",
    )
}
