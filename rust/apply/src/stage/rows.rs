//! Reads the rows of a manifest in chunks.

use crate::stage::fresh::StageDirs;
use crate::stage::incoming::Incoming;
use rayon::prelude::*;
use snapsync_manifest::Brief;
use snapsync_model::{Change, Result};
use std::borrow::Borrow;

pub(crate) const CHUNK: usize = 4096;
/// A chunk ends after this many extents and names; an extended attribute counts as many.
const PARTS: usize = 65_536;
/// The number of rows that one thread stages while it remembers the last directory.
pub(crate) const SIDE_BY_SIDE: usize = 64;

impl<'a> Incoming<'a> {
    /// Calls `act` in parallel for every row that is wanted.
    pub(crate) fn each_row(
        &self,
        wanted: impl Fn(&Brief<'_>) -> bool + Sync,
        act: impl Fn(&mut StageDirs<'_>, &Change) -> Result<()> + Sync,
    ) -> Result<()> {
        let mut rows = self.manifest_reader()?.only(wanted);
        loop {
            let chunk = next_chunk(&mut rows)?;
            if chunk.is_empty() {
                return Ok(());
            }
            chunk.par_chunks(SIDE_BY_SIDE).try_for_each(|changes| {
                let mut parents = StageDirs::new(&self.root);
                changes.iter().try_for_each(|change| act(&mut parents, change))
            })?;
        }
    }
}

/// The next rows to be handled in parallel: fewer if they are large.
pub(crate) fn next_chunk<R: Borrow<Change>>(rows: &mut impl Iterator<Item = Result<R>>) -> Result<Vec<R>> {
    let (mut chunk, mut parts) = (Vec::new(), 0);
    while chunk.len() < CHUNK && parts < PARTS {
        let Some(row) = rows.next().transpose()? else { break };
        let change = row.borrow();
        parts += change.extents.len() + change.links_added.len() + change.links_removed.len();
        parts += change.xattrs.as_ref().map_or(0, |xattrs| 64 * xattrs.len());
        chunk.push(row);
    }
    Ok(chunk)
}
