//! Checks manifests that may come from outside and lie: proves that each row is sound, and that all rows
//! agree, before anything is staged. Staging and commit rely on it. `check` then compares the manifest with
//! the tree.
//!
//! The paths of a row must be the ones that its names and its parents' rows give. Each path is longer than
//! that of its directory, so a tree whose paths agree has no cycles and no places outside.

use crate::names::Places;
use crate::vet::claim::{MEMORY, MEMORY_FOR_BYTE, Memory, NAMES, Rows, lie, of_row};
use crate::vet::paths::{Directories, Names, Order};
use crate::vet::row;
use crate::vet::sources::Sources;
use snapsync_manifest::ManifestReader;
use snapsync_model::{Context, Monitor, Result};
use snapsync_sys::Named;

#[cfg(fuzzing)]
pub fn fuzz_vet(manifest: &dyn Named, monitor: &Monitor) -> Result<()> {
    vet(manifest, monitor).map(drop)
}

/// Proves that a manifest is consistent in itself, and returns where its directories are.
pub(crate) fn vet(manifest: &dyn Named, monitor: &Monitor) -> Result<Places> {
    let rows = Rows { manifest, monitor };
    let size =
        manifest.open().and_then(|file| file.metadata()).context("read the size of", manifest.show())?.len();
    let mut memory = Memory(MEMORY.saturating_add(size.saturating_mul(MEMORY_FOR_BYTE)));
    let (mut order, mut directories) = (Order::default(), Directories::new());
    let mut sources = Sources::default();
    let places = Places::read_with(manifest, |change| {
        monitor.check()?;
        of_row(change, row::vet(change).and_then(|()| directories.add(change, &mut memory)))
    })?;
    let mut names = Names::part(0, 1);
    rows.each(|change| {
        row::vet(change)?;
        order.next(change)?;
        sources.ask(change);
        directories.place(change, &mut memory)?;
        // If they are too many for one pass, they are compared later.
        if order.names <= NAMES { names.add(change, &directories) } else { Ok(()) }
    })?;
    drop(names);
    let reader = ManifestReader::open(manifest)?;
    if !order.are(&reader.counts()?) {
        return Err(lie("its totals", "they are not those of its rows"));
    }
    let parts = order.names.div_ceil(NAMES);
    for part in (0..parts).filter(|_| parts > 1) {
        let mut names = Names::part(part, parts);
        rows.each(|change| names.add(change, &directories))?;
    }
    if sources.are_asked_for() {
        rows.each(|change| sources.answer(change, &mut memory))?;
        rows.each(|change| sources.check(change))?;
    }
    Ok(places)
}
