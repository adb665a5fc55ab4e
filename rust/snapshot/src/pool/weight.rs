//! What files of a store take, and so what their end gives back.

use crate::pool::before::image_of;
use crate::pool::pack::Pool;
use rayon::prelude::*;
use serde::Serialize;
use snapsync_model::{Context, Kind, Range, Result};
use snapsync_sys::{FileSystem, Spot, shared_bytes};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

/// Blocks that nothing else has, and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Weight {
    pub bytes: u64,
    pub inodes: u64,
}

impl Weight {
    pub(crate) fn and(self, other: Weight) -> Weight {
        Weight { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

/// What an object takes; None where the pool has none. One in a pack has no inode of its own.
pub(crate) fn of_object(pool: &Pool, object: u64, filesystem: FileSystem) -> io::Result<Option<Weight>> {
    if let Some(Range { length: bytes, .. }) = pool.range_in_pack(object)? {
        return Ok(Some(Weight { bytes, inodes: 0 }));
    }
    let content = match pool.open(object)? {
        None => image_of(pool.dir(), object)?.map(|(file, _)| file.into()),
        whole => whole,
    };
    let Some(content) = content else { return Ok(None) };
    let Some(file) = content.file() else { return Ok(None) };
    let bytes = bytes_of(file, &file.metadata()?, filesystem)?;
    Ok(Some(Weight { bytes, inodes: 1 }))
}

/// Without those that it shares with other files.
fn bytes_of(file: &File, found: &Metadata, filesystem: FileSystem) -> io::Result<u64> {
    let shared = if filesystem.shares_blocks() { shared_bytes(file)? } else { 0 };
    Ok((found.blocks() * 512).saturating_sub(shared))
}

/// A directory with what is in it, but files that do not count.
pub(crate) fn of_tree(
    dir: &Spot,
    filesystem: FileSystem,
    counts: &(impl Fn(&Metadata) -> bool + Sync),
) -> Result<Weight> {
    let stat = dir.stat().context("read the attributes of", dir.show())?;
    let own = Weight { bytes: stat.blocks * 512, inodes: 1 };
    let entries = dir.list().context("list", dir.show())?;
    let below = entries.par_iter().map(|entry| {
        let spot = dir.join(&entry.name);
        let is_dir = match entry.is_dir {
            Some(is_dir) => is_dir,
            None => spot.stat().context("read the attributes of", spot.show())?.kind == Kind::Directory,
        };
        if is_dir {
            of_tree(&spot, filesystem, counts)
        } else {
            of_file(&spot, filesystem, counts).context("look at", spot.show())
        }
    });
    below.try_reduce(Weight::default, |a, b| Ok(a.and(b))).map(|below| own.and(below))
}

fn of_file(
    spot: &Spot,
    filesystem: FileSystem,
    counts: &(impl Fn(&Metadata) -> bool + Sync),
) -> io::Result<Weight> {
    let file = spot.open()?;
    let found = file.metadata()?;
    if !counts(&found) {
        return Ok(Weight::default());
    }
    Ok(Weight { bytes: bytes_of(&file, &found, filesystem)?, inodes: 1 })
}
