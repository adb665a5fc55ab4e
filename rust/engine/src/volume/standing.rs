//! How a volume presents itself to others, and what they are told.

use snapsync_model::{Error, Result, Role, VolumeInfo};
use snapsync_snapshot::{Claim, Volume};
use uuid::Uuid;

/// The error for a primary that meets a later epoch. People must decide whether that epoch is real.
pub(crate) fn was_replaced(volume: &Volume, path: &str, by: &Claim) -> Error {
    let (show, Claim { epoch, shown, .. }) = (volume.path().display(), by);
    let shown = if *shown { "" } else { ", and does not show how that came to be" };
    Error::refused(
        format!(
            "{path} is not fed: it says that {show} was replaced, which is of epoch {}, and that it is of \
             epoch \
             {epoch} itself{shown}",
            volume.info().epoch
        ),
        format!(
            "if another was promoted, `snapsync rejoin {show} NEW`, where NEW is the primary of epoch \
             {epoch}, makes \
             it a standby again and keeps what it has of its own; --preview shows that. If none was, {path} \
             is not to \
             be trusted"
        ),
    )
}

/// Whether this is a standby of the lineage that its client shows: only members of a lineage know its id.
pub(crate) fn is_fed_by(standby: &VolumeInfo, lineage: Option<Uuid>) -> bool {
    standby.role == Role::Standby && lineage.is_some_and(|one| one == standby.lineage && !one.is_nil())
}

/// The error that does not reveal what is there, or whether anything is.
pub(crate) fn not_own(called: &str) -> Error {
    Error::refused(
        format!("{called} is nothing that this client may feed or verify"),
        "name the standby of your volume, or a new directory in one that is there; or ask the server's \
         administrator",
    )
}

/// In a standby nothing is put by hand.
pub(crate) fn expect_restorable(volume: &Volume) -> Result<()> {
    volume.expect_primary("restore").map_err(|error| match error {
        Error::Refused { what, .. } => Error::refused(
            what,
            "restore elsewhere with --to DIR, or name its primary; if that is lost, `snapsync promote` makes \
             this one the primary",
        ),
        other => other,
    })
}

/// Refuses to apply anything to a primary.
pub(crate) fn expect_standby(path: &str, role: Role) -> Result<()> {
    if role == Role::Standby {
        return Ok(());
    }
    Err(Error::refused(
        format!("{path} is a primary, not a standby"),
        "it would be overwritten: check which way you mean, or name another target",
    ))
}
