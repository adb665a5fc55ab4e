//! What files of a store take, and so what their end gives back.

use crate::pool::objects::open_object;
use rayon::prelude::*;
use serde::Serialize;
use snapsync_model::{Context, Kind, Result};
use snapsync_sys::{FileSystem, Spot, layout};
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

/// What an object takes; None where it has no file.
pub(crate) fn of_object(pool: &Spot, object: u64, filesystem: FileSystem) -> io::Result<Option<Weight>> {
    let Some(file) = open_object(pool, object)? else { return Ok(None) };
    let bytes = bytes_of(&file, &file.metadata()?, filesystem)?;
    Ok(Some(Weight { bytes, inodes: 1 }))
}

/// Without those that it shares with other files.
fn bytes_of(file: &File, found: &Metadata, filesystem: FileSystem) -> io::Result<u64> {
    let all = found.blocks() * 512;
    if !filesystem.shares_blocks() {
        return Ok(all);
    }
    let layout = layout(file, found.len(), filesystem)?;
    let shared = layout.segments().iter().filter(|segment| segment.shared);
    let shared: u64 = shared.map(|segment| segment.length.next_multiple_of(found.blksize().max(1))).sum();
    Ok(all.saturating_sub(shared))
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
        let found = spot.stat().context("read the attributes of", spot.show())?;
        match found.kind {
            Kind::Directory => of_tree(&spot, filesystem, counts),
            Kind::File => of_file(&spot, filesystem, counts).context("look at", spot.show()),
            _ => Ok(Weight { bytes: 0, inodes: 1 }),
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
