//! Whether a delta may follow what a standby holds: by who sends it, and by how its snapshot is described.

use snapsync_model::{Error, Promotions, Result, SnapshotInfo, Standing};
use snapsync_snapshot::{Volume, name_is_free};
use uuid::Uuid;

/// Only the primary of its lineage may feed a standby, unless it was replaced. Whoever claims a promotion
/// must show it.
pub(super) fn is_of(
    volume: &Volume,
    lineage: Option<Uuid>,
    epoch: u64,
    promotions: &Promotions,
) -> Result<()> {
    let standby = volume.info();
    let show = standby.path.display();
    if lineage != Some(standby.lineage) {
        return Err(Error::refused(
            format!("this delta is of another volume than the one that {show} is a standby of"),
            "name its own standby, or receive it --as-snapshot",
        ));
    }
    let own = (standby.epoch, volume.promotions());
    can_follow(&show.to_string(), (epoch, promotions), own)
}

/// Whether who is of an epoch, to which some promotions led, follows a delta of another.
pub(crate) fn can_follow(
    show: &str,
    (epoch, promotions): (u64, &Promotions),
    (own_epoch, own): (u64, &Promotions),
) -> Result<()> {
    let what = format!("this delta is of epoch {epoch}, and {show} is in epoch {own_epoch}");
    match promotions.standing(epoch, own, own_epoch) {
        Standing::Shown => Ok(()),
        Standing::Behind => Err(Error::refused(
            what,
            "it comes from a primary that was replaced since: take it from the new one",
        )),
        Standing::Unshown => Err(Error::refused(
            format!("{what}: nothing shows the promotions between them"),
            format!("if its primary was promoted, `snapsync rejoin {show} NEW` follows that one"),
        )),
        Standing::Forked => Err(Error::refused(
            format!("{what}, and another volume was promoted than the one that {show} follows"),
            format!(
                "two standbys were promoted apart: `snapsync rejoin {show} NEW` follows the one that goes on"
            ),
        )),
    }
}

/// Checks that the promotions that led to the epoch of a joined lineage make sense, as far as they are shown.
pub(super) fn can_begin(epoch: u64, promotions: &Promotions) -> Result<()> {
    if promotions.lead_to(epoch) {
        return Ok(());
    }
    Err(Error::integrity(
        format!("the primary says that it is of epoch {epoch}, and its promotions do not lead there"),
        "use the same snapsync on both sides; if it is the same, something changes what it sends",
    ))
}

/// Checks that a header's snapshot can be recorded in a store.
pub(super) fn is_sound(snapshot: &SnapshotInfo, newest: Option<&SnapshotInfo>) -> Result<()> {
    let after = newest.map_or(0, |newest| newest.sequence.saturating_add(1));
    let has_time = snapshot.created.parse::<jiff::Timestamp>().is_ok();
    if !(after..1 << 48).contains(&snapshot.sequence)
        || snapshot.aside
        || !has_time
        || name_is_free(&snapshot.name, &[]).is_err()
    {
        return Err(Error::integrity(
            format!("the delta's snapshot {:?} has no proper name, time or number", snapshot.name),
            "send one that has; an older version may have given it a name that is not allowed any more",
        ));
    }
    snapsync_walk::Matcher::new(&snapshot.subset).map(drop)
}
