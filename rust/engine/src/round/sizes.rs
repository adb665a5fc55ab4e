//! How much a snapshot holds, as its round learns it.

use crate::delta::outgoing::count;
use crate::delta::sides::Sides;
use snapsync_model::{Counts, Inode, Monitor, Result, SnapshotInfo};
use snapsync_snapshot::{LockedVolume, Volume};

/// Records the size of the snapshot, from its walk, or from its base and the changes.
pub(super) fn note_size(
    primary: &LockedVolume,
    base: Option<&SnapshotInfo>,
    snapshot: &mut SnapshotInfo,
    sides: &Sides,
    counts: &Counts,
) -> Result<()> {
    if snapshot.entries.is_some() {
        return Ok(());
    }
    let (entries, bytes) = if sides.target_is_whole {
        count(&*sides.target)?
    } else if let Some(size) = size_after(base, counts) {
        size
    } else {
        return Ok(());
    };
    primary.record_counts(snapshot, entries, bytes)
}

/// What there is after some changes of a base whose size is known.
pub(crate) fn size_after(base: Option<&SnapshotInfo>, counts: &Counts) -> Option<(u64, u64)> {
    let (entries, bytes) = base.and_then(|base| base.entries.zip(base.bytes))?;
    Some((
        entries.saturating_add(counts.created).saturating_sub(counts.deleted),
        bytes.saturating_add(counts.bytes_added).saturating_sub(counts.bytes_removed),
    ))
}

/// Notes that there is nothing any more, and where it still is.
pub(super) fn note_emptied(
    primary: &Volume,
    base: &SnapshotInfo,
    snapshot: &SnapshotInfo,
    monitor: &Monitor,
) {
    if snapshot.entries == Some(1) && base.entries.is_some_and(|entries| entries > 1) {
        let (source, name) = (primary.path().display(), &base.name);
        monitor.note(format!(
            "{source} is empty now, and so is its standby: snapshot {name} has what was there"
        ));
    }
}

/// A snapshot as if it did not have some files.
pub(super) fn without(snapshot: &SnapshotInfo, rows: &[Inode]) -> SnapshotInfo {
    let less = |all: u64, part: u64| all.saturating_sub(part);
    SnapshotInfo {
        entries: snapshot.entries.map(|entries| less(entries, rows.len() as u64)),
        bytes: snapshot.bytes.map(|bytes| {
            less(bytes, rows.iter().map(|row| row.attributes.size).fold(0, u64::saturating_add))
        }),
        ..snapshot.clone()
    }
}
