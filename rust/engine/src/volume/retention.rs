//! Decides which snapshots are kept: by calendar rules, because users hold them, or because standbys need
//! them.

use crate::keep::Keep;
use crate::report::snapshots::Kept;
use crate::volume::holds::holds;
use crate::volume::{kept, trimmed};
use snapsync_model::{Error, Monitor, Result, SnapshotInfo};
use snapsync_snapshot::{LockedVolume, Volume};
use uuid::Uuid;

/// The snapshots to delete and those to keep, with the reasons. `needed` are the bases of standbys elsewhere.
pub(crate) fn plan(volume: &Volume, keep: &Keep, needed: &[Uuid]) -> Result<(Vec<SnapshotInfo>, Vec<Kept>)> {
    // Snapshots that are kept aside are never pruned.
    let is_lent = |s: &SnapshotInfo| volume.taken_for(s.id).is_some_and(|by| by.lent);
    let (lent, snapshots): (Vec<_>, Vec<_>) = volume.line()?.into_iter().partition(is_lent);
    let (holds, read) = (holds(volume)?, volume.read_by_others());
    let (mut pruned, mut kept) = (Vec::new(), Vec::new());
    let mut reasons = keep.reasons(&snapshots);
    // No rule applies to snapshots taken for clients that may only read. They are deleted once their standbys
    // do not need them any more.
    reasons.extend(lent.iter().map(|snapshot| why_lent(volume, snapshot)));
    for (snapshot, mut why) in snapshots.into_iter().chain(lent).zip(reasons) {
        let by_rule = !why.is_empty();
        why.extend(holds.iter().filter(|hold| hold.snapshot == snapshot.id).map(|hold| hold.why()));
        if needed.contains(&snapshot.id) {
            why.push("another standby needs it as its base".to_owned());
        }
        if read.iter().any(|(id, base)| *id == snapshot.id || *base == Some(snapshot.id)) {
            why.push("it is being sent to a standby".to_owned());
        }
        if why.is_empty() {
            pruned.push(snapshot);
        } else {
            kept.push(Kept { snapshot, why, by_rule });
        }
    }
    Ok((pruned, kept))
}

fn why_lent(volume: &Volume, snapshot: &SnapshotInfo) -> Vec<String> {
    let standby = volume.taken_for(snapshot.id).and_then(|by| volume.standbys().get(&by.standby));
    standby.map(|standby| format!("taken for the standby {}", standby.path)).into_iter().collect()
}

/// Whether a round still counts as good: keeping old snapshots only takes space.
pub(crate) fn is_bearable(error: &Error) -> bool {
    matches!(error.exit_code(), 1..=3)
}

/// Deletes what nothing keeps.
pub(crate) fn apply(
    volume: &mut LockedVolume,
    keep: &Keep,
    needed: &[Uuid],
    monitor: &Monitor,
) -> Result<(Vec<SnapshotInfo>, Vec<Kept>)> {
    let (pruned, kept) = plan(volume, keep, needed)?;
    kept::delete_all(volume, &pruned, monitor)?;
    // What cannot be folded takes space, and may not keep snapshots from going.
    match trimmed::trim(volume, keep.history, monitor) {
        Err(error) if error.exit_code() != 5 => {
            monitor.note(format!("the history was not folded: {}", error.sentence()));
        }
        other => other?,
    }
    Ok((pruned, kept))
}
