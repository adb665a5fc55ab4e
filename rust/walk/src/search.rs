//! Finds the changes between two states of one Btrfs subvolume by searching both trees for what was written
//! since they parted. No directory is walked, so the cost depends on the changes and not on the size of the
//! tree.

use crate::foreign::{note_foreign, note_stores, note_too_long};
use crate::listing::Listing;
use crate::searched::{Entries, Half};
use crate::tree::{Pinned, Searched, Tree};
use snapsync_model::{Context, Counters, Monitor, Result, Subset};
use snapsync_sys::{Root, sync_filesystem};
use std::collections::HashSet;

/// Both trees within `subset`, with only those inodes that may differ; all others are equal. None if the
/// trees cannot be searched, or if a search would prove nothing; a note says which.
///
/// This is correct because a search skips only nodes older than the transaction in which the two states
/// parted: such a node, in either tree, was part of their common state. An item that differs lies in a newer
/// node in at least one of the trees, and every change of an inode's names, attributes or data changes its
/// inode item too. The parting transaction itself is searched as well, because after copying the tree the
/// kernel changes the directory that a new snapshot is put in.
pub fn candidates(
    base: &Root,
    target: &Root,
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
    // A subvolume that was made read-only after it was written may have data that is not in its tree yet.
    sync_filesystem(new.root.fd()).context("sync the file system of", target.path())?;
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
        Ok(true) => {
            monitor.count(Counters { visited: old.visited + new.visited, ..Counters::default() });
            note_foreign(std::mem::take(&mut new.foreign), 0, monitor);
            note_stores(std::mem::take(&mut new.stores).into_iter().collect(), monitor);
            note_too_long(std::mem::take(&mut new.too_long).into_iter().collect(), monitor);
            Ok(Some((old.into_tree(parted, subset)?, new.into_tree(parted, subset)?)))
        }
    }
}

/// Loads what differs. False if unchanged inodes may enter or leave the subset, or a store, together with a
/// changed directory.
fn find(old: &mut Half, new: &mut Half, parted: u64, monitor: &Monitor) -> Result<bool> {
    let mut wanted = old.changed_since(parted)?;
    wanted.append(&mut new.changed_since(parted)?);
    let mut wanted: Vec<u64> = wanted.into_iter().collect();
    let mut seen = HashSet::new();
    while let Some(ino) = wanted.pop() {
        if !seen.insert(ino) {
            continue;
        }
        monitor.check()?;
        monitor.advance(1);
        let (was, is) = (old.load(ino)?, new.load(ino)?);
        if let (Some(from), Some(to)) = (&was.place, &is.place)
            && from != to
            && (new.has_patterns || was.is_directory != is.is_directory)
        {
            return Ok(false);
        }
        if was.is_directory || is.is_directory {
            // An inode that lost or got a name here may have been removed, and then no item leads to it.
            let had = if was.is_directory { old.entries(ino)? } else { Entries::new() };
            let has = if is.is_directory { new.entries(ino)? } else { Entries::new() };
            wanted.extend(had.symmetric_difference(&has).filter_map(|(_, child)| *child));
        }
    }
    Ok(true)
}

impl Half {
    fn into_tree(self, parted: u64, subset: &Subset) -> Result<Tree> {
        Ok(Tree {
            pinned: Pinned::of(&self.root),
            root: self.root,
            filesystem: self.filesystem,
            top: self.top,
            inodes: Listing::of(self.inodes.into_values())?,
            directories: self.directories.into(),
            is_relabeled: false,
            is_whole: false,
            moves: None,
            searched: Some(Searched { parted, subset: subset.clone() }),
        })
    }
}
