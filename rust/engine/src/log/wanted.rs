//! The frames of a delta that a stage does not hold yet.

use snapsync_apply::Incoming;
use snapsync_log::{StoredObject, Wanted};
use snapsync_manifest::FrameRow;
use snapsync_model::{Error, Range, Result};
use std::sync::Arc;

/// How many requests for frames are made at once.
pub(crate) const READERS: usize = 4;

pub(crate) fn wanted(
    frames: &[FrameRow],
    packs: &[StoredObject],
    incoming: &Incoming<'_>,
) -> Result<Vec<Wanted>> {
    let packs: Vec<_> = packs.iter().cloned().map(Arc::new).collect();
    let is_missing =
        |row: &&FrameRow| !incoming.holds(row.ino, Range { offset: row.offset, length: row.length.into() });
    let wanted = frames.iter().filter(is_missing).map(|row| {
        let pack = packs.get(row.pack as usize).cloned().ok_or_else(|| {
            Error::integrity(
                "an index of the log names a pack that its commit does not have",
                "something changes what is in the log",
            )
        })?;
        Ok(Wanted { pack, row: *row })
    });
    wanted.collect()
}
