//! Finds the changes between two states of one Btrfs subvolume by searching both trees for what was written
//! since they parted. No directory is walked, so the cost depends on the changes and not on the size of the
//! tree.

use crate::searched::{Entries, Half, Loaded, Reader};
use crate::tree::{Flush, Searched, Tree};
use snapsync_model::{Context, Counters, Monitor, Result, Subset};
use snapsync_sys::btrfs::{self, InodeItems, Key};
use snapsync_sys::{Root, sync_filesystem};
use std::collections::BTreeSet;

/// Items of unchanged inodes are passed over if no more numbers than these lie between two that may differ.
const GAP: u64 = 8;

/// Both trees within `subset`, with only those inodes that may differ; all others are equal. None if the
/// trees cannot be searched, or if a search would prove nothing; a note says which.
///
/// This is correct because a search skips only nodes older than the transaction in which the two states
/// parted: such a node, in either tree, was part of their common state. An item that differs lies in a newer
/// node in at least one of the trees, and every change of an inode's names, attributes or data changes its
/// inode item too. The parting transaction itself is searched as well, because after copying the tree the
/// kernel changes the directory that a new snapshot is put in. Of what was found, all is dropped whose items
/// are the same in both trees: as the trees hold on to their data, so are names, attributes and bytes.
/// Reading a file writes its access time, and nothing else that is compared.
pub fn candidates(
    base: &Root,
    target: &Root,
    flush: Flush,
    subset: &Subset,
    monitor: &Monitor,
) -> Result<Option<(Tree, Tree)>> {
    let (mut old, mut new) = (Half::open(base, subset)?, Half::open(target, subset)?);
    let Some(parted) = old.parted_from(&new)? else {
        if old.is_read_only() && new.is_read_only() {
            monitor.note("both are walked whole: they are not two states of one subvolume");
        }
        return Ok(None);
    };
    flush.end(&new.root)?;
    match find(&mut old, &mut new, parted, monitor) {
        Err(e) if e.errno() == Some(rustix::io::Errno::PERM.raw_os_error()) => {
            monitor.note(
                "snapshots are walked whole, and compressed data is read: searching them takes CAP_SYS_ADMIN",
            );
            Ok(None)
        }
        Err(e) => Err(e),
        Ok(false) => {
            monitor.note(
                "both are walked whole: a directory was renamed, and patterns or a store may affect its \
                 content",
            );
            Ok(None)
        }
        Ok(true) if !new.are_owners_as_told(&new.owned())? => Ok(None),
        Ok(true) => {
            monitor.count(Counters { visited: old.visited + new.visited, ..Counters::default() });
            new.note_left_out(monitor);
            let searched = |half: &mut Half| {
                let layouts = std::mem::take(&mut half.layouts);
                Some(Searched { parted, subset: subset.clone(), layouts })
            };
            let searched = (searched(&mut old), searched(&mut new));
            Ok(Some((old.into_tree(searched.0)?, new.into_tree(searched.1)?)))
        }
    }
}

/// Loads what differs. False if unchanged inodes may enter or leave the subset, or a store, together with a
/// changed directory.
fn find(old: &mut Half, new: &mut Half, parted: u64, monitor: &Monitor) -> Result<bool> {
    let (mut was, mut is) = (Reader::of(old)?, Reader::of(new)?);
    let (mut wanted, mut seen) = (may_differ(old, new, parted)?, Vec::new());
    while !wanted.is_empty() {
        let mut further = BTreeSet::new();
        for run in runs(&wanted) {
            let keys = Key::between(run[0], run[run.len() - 1]);
            was.go_to(keys);
            is.go_to(keys);
            for ino in run {
                monitor.check()?;
                monitor.advance(1);
                let (from, to) = (was.pass_to(*ino)?, is.pass_to(*ino)?);
                if !load((old, new), (from, to), parted, &mut further)? {
                    return Ok(false);
                }
            }
        }
        seen.push(wanted);
        further.retain(|ino| seen.iter().all(|seen| seen.binary_search(ino).is_err()));
        wanted = further.into_iter().collect();
    }
    new.visited += was.visited() + is.visited();
    Ok(true)
}

/// The inodes that may differ between two trees, sorted.
fn may_differ(old: &mut Half, new: &mut Half, parted: u64) -> Result<Vec<u64>> {
    let (was, is) = (old.changed_since(parted)?, new.changed_since(parted)?);
    // In the transaction itself nothing changes any more but directories that snapshots are put in, and so
    // their sizes.
    let is_as_parted = |ino: &u64| was.then.get(ino).is_some_and(|item| is.then.get(ino) == Some(item));
    let then = was.then.keys().chain(is.then.keys()).copied().filter(|ino| !is_as_parted(ino));
    let mut found: Vec<u64> = then.collect();
    found.extend(was.later.iter().chain(&is.later));
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Numbers that lie close together, so that one search for all of them is quicker than one for each.
fn runs(numbers: &[u64]) -> impl Iterator<Item = &[u64]> {
    numbers.chunk_by(|a, b| b - a <= GAP)
}

/// Takes an inode on both sides unless it is the same, and asks for those that a directory has lost or got.
/// False as for `find`.
fn load(
    (old, new): (&mut Half, &mut Half),
    (from, to): (Option<InodeItems>, Option<InodeItems>),
    parted: u64,
    further: &mut BTreeSet<u64>,
) -> Result<bool> {
    if from.as_ref().zip(to.as_ref()).is_some_and(|(from, to)| from.is_same(to)) {
        return Ok(true);
    }
    let load = |half: &mut Half, items: &Option<InodeItems>| {
        let Some(items) = items else { return Ok(Loaded::default()) };
        let loaded = half.load(items)?;
        half.keep_layout(items, parted).map(|()| loaded)
    };
    let (was, is) = (load(old, &from)?, load(new, &to)?);
    if let (Some(from), Some(to)) = (&was.place, &is.place)
        && from != to
        && (new.has_patterns || was.is_directory != is.is_directory)
    {
        return Ok(false);
    }
    if was.is_directory || is.is_directory {
        // An inode that lost or got a name here may have been removed, and then no item leads to it.
        let entries = |half: &mut Half, loaded: &Loaded, items: &Option<InodeItems>| {
            let items = items.as_ref().filter(|_| loaded.is_directory);
            items.map_or_else(|| Ok(Entries::new()), |items| half.entries(items))
        };
        let (had, has) = (entries(old, &was, &from)?, entries(new, &is, &to)?);
        further.extend(had.symmetric_difference(&has).filter_map(|(_, child)| *child));
    }
    Ok(true)
}

/// Whether the subvolume `live` is still what `snapshot`, one of its snapshots, holds. False as well where
/// that cannot be told, or where something may differ.
pub fn is_as_in(snapshot: &Root, live: &Root, subset: &Subset, monitor: &Monitor) -> Result<bool> {
    let (mut old, mut new) = (Half::open(snapshot, subset)?, Half::open(live, subset)?);
    let Some(parted) = new.parted_from_snapshot(&old).filter(|_| btrfs::may_search(live.fd())) else {
        return Ok(false);
    };
    // What is in memory alone cannot be found.
    sync_filesystem(live.fd()).context("sync the file system of", live.path())?;
    let (mut was, mut is) = (Reader::of(&old)?, Reader::of(&new)?);
    for run in runs(&may_differ(&mut old, &mut new, parted)?) {
        monitor.check()?;
        let keys = Key::between(run[0], run[run.len() - 1]);
        was.go_to(keys);
        is.go_to(keys);
        for ino in run {
            let (from, to) = (was.pass_to(*ino)?, is.pass_to(*ino)?);
            let within = |half: &mut Half, items: Option<&InodeItems>| {
                items.map_or(Ok(false), |items| half.load(items).map(|loaded| loaded.is_within))
            };
            let is_same = from.as_ref().zip(to.as_ref()).is_some_and(|(from, to)| from.is_same(to));
            if !is_same && (within(&mut old, from.as_ref())? || within(&mut new, to.as_ref())?) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
