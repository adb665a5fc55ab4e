//! What came of the deltas of a round.

use snapsync_apply::Loss;
use snapsync_model::{Error, Result, SnapshotInfo, printable};

/// The standby has the snapshot that was brought, and no other.
pub(super) fn is_the_same(held: &SnapshotInfo, brought: &SnapshotInfo, standby: &str) -> Result<()> {
    if (held.id, held.sequence) == (brought.id, brought.sequence) && held.name == printable(&brought.name) {
        return Ok(());
    }
    Err(Error::integrity(
        format!("{standby} says that it holds snapshot {}, and was brought {}", held.name, brought.name),
        "use the same snapsync on both sides; if it is the same, something changes what it sends",
    ))
}

/// The losses of two deltas, merged.
pub(crate) fn together(mut losses: Vec<Loss>, more: Vec<Loss>) -> Vec<Loss> {
    for loss in more {
        match losses.iter_mut().find(|known| known.what == loss.what) {
            Some(known) => known.count = known.count.saturating_add(loss.count),
            None => losses.push(loss),
        }
    }
    losses
}
