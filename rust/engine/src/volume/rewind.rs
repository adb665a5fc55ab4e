//! Makes a volume's tree equal to one of its own snapshots with the stage and commit of a delta, so that only
//! differences are written.

use crate::delta::outgoing::{Outgoing, announce, copy, header, volume_head};
use crate::delta::room::Room;
use crate::delta::sides::Sides;
use crate::delta::staging::{Data, IncomingDelta, StageTarget, as_offered, begin, displaces, fill, give_up};
use crate::options::Terms;
use crate::volume::recovery::{commit, finish};
use snapsync_apply::{Journal, Loss, Phase};
use snapsync_model::{Counts, End, Inode, Monitor, Result, SnapshotInfo, Stage};
use snapsync_snapshot::LockedVolume;

pub(crate) struct Rewound {
    pub(crate) snapshot: SnapshotInfo,
    pub(crate) counts: Counts,
    pub(crate) losses: Vec<Loss>,
}

/// The snapshot in the tree, the one to go back to, and the one that the tree holds afterwards: `to` itself,
/// or a new snapshot with the same content.
pub(crate) struct Rewind<'a> {
    pub(crate) base: &'a SnapshotInfo,
    pub(crate) to: &'a SnapshotInfo,
    pub(crate) result: &'a SnapshotInfo,
    pub(crate) terms: Terms,
}

/// Goes back on a standby that its primary feeds afterwards: that brings the files whose bytes are `lost`.
pub(crate) fn rewind_without(
    volume: &mut LockedVolume,
    turn: &Rewind<'_>,
    lost: &[Inode],
    monitor: &Monitor,
) -> Result<Rewound> {
    monitor.start(Stage::Compare, 0);
    let sides = Sides::between(volume, turn.base, turn.to, monitor)?.without(End::Target, lost)?;
    volume.remember_absent(turn.to, lost)?;
    rewind_between(volume, &sides, turn, monitor)
}

/// Goes to the target of two sides, which need not be two snapshots of the volume as they are.
pub(crate) fn rewind_between(
    volume: &mut LockedVolume,
    sides: &Sides,
    rewind: &Rewind<'_>,
    monitor: &Monitor,
) -> Result<Rewound> {
    let result = attempt(volume, sides, rewind, monitor);
    if result.is_err()
        && let Ok(Some(journal)) = Journal::load(&volume.store())
        && journal.phase == Phase::Staging
    {
        let _ = give_up(volume.root(), &volume.store(), &journal);
    }
    volume.seal()?;
    result
}

fn attempt(
    volume: &mut LockedVolume,
    sides: &Sides,
    rewind: &Rewind<'_>,
    monitor: &Monitor,
) -> Result<Rewound> {
    let Rewind { base, to, result, terms } = *rewind;
    let outgoing = Outgoing::make(volume, to, Some(base))?;
    let manifest = outgoing.manifest();
    let counts = sides.write_manifest(&manifest, &header(volume, Some(base), result), monitor)?;
    let head = volume_head(volume, Some(base), result, &counts);
    volume.unseal()?;
    let offer = IncomingDelta {
        header: &head,
        manifest: announce(&manifest)?,
        terms,
        file: &manifest,
        spare: None,
        again: None,
        fetch: &mut |to| copy(&manifest, to),
    };
    let stage = StageTarget::of(volume, Some(base))?;
    let mut room = Room::given(&stage.root, monitor);
    let (mut incoming, begun) = begin(&stage, offer, &mut as_offered, &mut room, monitor)?;
    monitor.start(Stage::Stage, counts.data_bytes);
    let (held, seed) = (&begun.held, Default::default());
    let data = Data { manifest: &manifest, side: &*sides.target, held, restless: None, seed };
    fill(&incoming, &data, None, monitor)?;
    // If a tree is repaired that its own snapshot describes, its wrong bytes are those of no snapshot.
    if base.id != result.id {
        displaces(volume, &mut incoming)?;
    }
    incoming.seal()?;
    volume.renumber(result.id)?;
    commit(volume, &mut incoming, monitor)?;
    drop(incoming);
    let mut snapshot = finish(volume, result, Some(base.id), monitor)?;
    if let (Some(entries), Some(bytes)) = (to.entries, to.bytes) {
        volume.record_counts(&mut snapshot, entries, bytes)?;
    }
    Ok(Rewound { snapshot, counts, losses: begun.losses })
}
