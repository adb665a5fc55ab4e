//! Checks manifests that may come from outside and lie: proves that each row is sound, and that all rows
//! agree, before anything is staged. Staging and commit rely on it. `check` then compares the manifest with
//! the tree.
//!
//! The paths of a row must be the ones that its names and its parents' rows give. Each path is longer than
//! that of its directory, so a tree whose paths agree has no cycles and no places outside.

use crate::vet::claim::{MEMORY, MEMORY_FOR_BYTE, Memory, Rows, lie};
use crate::vet::paths::{Directories, Order, names};
use crate::vet::row;
use crate::vet::sources::Sources;
use snapsync_manifest::ManifestReader;
use snapsync_model::{Context, Monitor, Result};
use snapsync_sys::Named;

/// Proves that a manifest is consistent in itself.
pub fn vet(manifest: &dyn Named, monitor: &Monitor) -> Result<()> {
    let rows = Rows { manifest, monitor };
    let size =
        manifest.open().and_then(|file| file.metadata()).context("read the size of", manifest.show())?.len();
    let mut memory = Memory(MEMORY.saturating_add(size.saturating_mul(MEMORY_FOR_BYTE)));
    let (mut order, mut directories) = (Order::default(), Directories::new());
    let mut sources = Sources::default();
    rows.each(|change| {
        row::vet(change)?;
        order.next(change)?;
        sources.ask(change);
        directories.add(change, &mut memory)
    })?;
    let reader = ManifestReader::open(manifest)?;
    if !order.are(&reader.counts()?) {
        return Err(lie("its totals", "they are not those of its rows"));
    }
    names(&rows, &directories, order.names, &mut memory)?;
    if sources.are_asked_for() {
        rows.each(|change| sources.answer(change, &mut memory))?;
        rows.each(|change| sources.check(change))?;
    }
    Ok(())
}
