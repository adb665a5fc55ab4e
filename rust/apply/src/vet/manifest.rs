//! A manifest may come from outside and lie. Here it is proved that what its rows say makes sense, each for
//! itself and all together, before anything is staged: staging and commit rely on it. Whether it fits the
//! tree is looked at after that, by `check`.
//!
//! The paths of a row must be the ones that its names and the rows of its parents give. Each is longer than
//! the path of its directory, so that a tree whose paths agree has neither cycles nor places outside of it.

use crate::vet::claim::{MEMORY, MEMORY_FOR_BYTE, Memory, Rows, lie};
use crate::vet::paths::{Directories, Order, names};
use crate::vet::row;
use crate::vet::sources::Sources;
use snapsync_manifest::ManifestReader;
use snapsync_model::{Context, Monitor, Result};
use snapsync_sys::Named;

/// Proves that a manifest is in itself consistent.
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
