//! Removes objects that no snapshot names, and gives back what they took.
//!
//! In a pack they are struck from its head first; their blocks are punched out where the file system can do
//! that, and a pack of which less than half is left is written anew. One of which nothing is left goes, which
//! needs no space. Each step can be done again.

use crate::pool::hand_over::{hand_over, has_before_images, remove_names};
use crate::pool::pack::{Entry, HEAD, Writer, clear_entry, entries_of, object_at, open_pack};
use rustix::fs::{FallocateFlags, fallocate};
use snapsync_model::{Context, Pack, Range, Result};
use snapsync_sys::{Spot, fault, next_data, sync_filesystem};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// A pack is not written anew for fewer bytes.
const LITTLE: u64 = 16 << 10;

pub(crate) fn remove_round(pool: &Spot, round: u64) -> Result<()> {
    let dir = pool.join(round.to_string());
    dir.remove_tree().context("remove", dir.show())
}

/// Quick where those of one directory follow each other.
pub(crate) fn remove_objects(pool: &Spot, objects: impl Iterator<Item = u64>) -> Result<()> {
    let (mut packed, mut last) = (BTreeMap::<Pack, BTreeSet<u64>>::new(), None::<Spot>);
    let mut objects: BTreeSet<u64> = objects.collect();
    let lie_over_each_other = has_before_images(pool);
    if lie_over_each_other {
        hand_over(pool, &mut objects).context("merge before-images in", pool.show())?;
    }
    // What lies below goes first.
    for object in objects.into_iter().rev() {
        if lie_over_each_other {
            remove_names(pool, object).context("remove a before-image in", pool.show())?;
        }
        if let Some((pack, place)) = Pack::of(object) {
            packed.entry(pack).or_default().insert(place);
            continue;
        }
        let spot = object_at(pool, object);
        if let Some(left) = last.take_if(|last| spot.above().is_none_or(|above| above.rel() != last.rel())) {
            remove_if_empty(&left, 2);
        }
        spot.remove_file().context("remove", spot.show())?;
        last = last.or_else(|| spot.above());
    }
    if let Some(left) = last {
        remove_if_empty(&left, 2);
    }
    let struck = packed.iter().map(|(pack, places)| remove_packed(pool, *pack, places));
    let struck: Vec<bool> = struck.collect::<Result<_>>()?;
    if struck.contains(&true) {
        // The tables that tell what goes are removed next.
        let dir = pool.directory().and_then(sync_filesystem);
        dir.context("sync the file system of", pool.show())?;
    }
    Ok(())
}

/// Directories of objects go with the last of them.
fn remove_if_empty(dir: &Spot, levels: usize) {
    let dirs = std::iter::successors(Some(dir.clone()), Spot::above).take(levels);
    dirs.take_while(|dir| dir.remove_dir().is_ok()).for_each(drop);
}

/// Whether something of the pack is left.
fn remove_packed(pool: &Spot, pack: Pack, places: &BTreeSet<u64>) -> Result<bool> {
    let spot = pool.join(pack.path());
    let file = open_pack(pool, pack, Spot::open_to_write).context("open", spot.show())?;
    let mut entries =
        file.as_ref().map_or_else(|| Ok(Vec::new()), entries_of).context("read", spot.show())?;
    for place in places {
        match entries.get(*place as usize) {
            Some(entry) if entry.is_there() => {}
            // It was put into a file of its own once the pack had lost it.
            _ => {
                let own = object_at(pool, pack.object(*place));
                own.remove_file().context("remove", own.show())?;
                own.above().iter().for_each(|dir| remove_if_empty(dir, 2));
            }
        }
    }
    let Some(file) = file else { return Ok(false) };
    for place in places {
        entries.get_mut(*place as usize).map(std::mem::take);
    }
    let fresh = pool.join(format!("{}.new", pack.path()));
    if !entries.iter().any(Entry::is_there) {
        for spot in [&fresh, &spot] {
            spot.remove_file().context("remove", spot.show())?;
        }
        spot.above().iter().for_each(|dir| remove_if_empty(dir, 1));
        fault::point("pack.removed");
        return Ok(false);
    }
    strike(&file, places, &entries).context("write", spot.show())?;
    if is_mostly_gone(&file, &entries).context("read the attributes of", spot.show())?
        && rewrite(&file, pack, &entries, &fresh, &spot).is_err()
    {
        // It has all that is needed, and its turn comes again.
        fresh.remove_file().context("remove", fresh.show())?;
    }
    Ok(true)
}

/// Takes the objects at `places` out of a pack, which has `left` afterwards.
fn strike(pack: &File, places: &BTreeSet<u64>, left: &[Entry]) -> io::Result<()> {
    let clear = || places.iter().try_for_each(|place| clear_entry(pack, *place));
    let cleared = clear();
    fault::point("pack.struck");
    punch(pack, left);
    fault::point("pack.punched");
    match cleared {
        // A file system that never writes in place has no room for that. Perhaps it has now; otherwise they
        // stay in the pack, and go with it.
        Err(e) if is_full(&e) => drop(clear()),
        other => other?,
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Frees the blocks between those of objects that are left, if the file system can.
fn punch(pack: &File, left: &[Entry]) {
    let Ok(found) = pack.metadata() else { return };
    let block = found.blksize().max(1);
    let mut left: Vec<Range> = left.iter().filter(|entry| entry.is_there()).map(Entry::range).collect();
    left.sort_unstable();
    let starts = left.iter().map(|range| range.offset).chain([found.len().next_multiple_of(block)]);
    let ends = std::iter::once(HEAD).chain(left.iter().map(|range| range.end()));
    for (start, end) in ends.zip(starts) {
        let (start, end) = (start.next_multiple_of(block), end / block * block);
        let is_in_use = start < end && next_data(pack, start, end).is_ok_and(|data| data.is_some());
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if is_in_use && fallocate(pack, how, start, end - start).is_err() {
            return;
        }
    }
}

fn is_mostly_gone(file: &File, left: &[Entry]) -> io::Result<bool> {
    let all = file.metadata()?.len().saturating_sub(HEAD);
    let left: u64 = left.iter().map(|entry| entry.length).sum();
    Ok(2 * left < all && all - left >= LITTLE)
}

/// The new pack is on the disk before it takes the place of the old one, which readers may still have open.
fn rewrite(file: &File, pack: Pack, entries: &[Entry], fresh: &Spot, spot: &Spot) -> io::Result<()> {
    let mut writer = Writer::new(fresh.create()?);
    writer.put_all_of(file, entries)?;
    writer.finish(pack)?.sync_all()?;
    fault::point("pack.written");
    fresh.rename(spot)?;
    fault::point("pack.replaced");
    Ok(())
}
