//! The owners that the files of a delta have on this machine.

use crate::accounts::arriving::{Arriving, as_held};
use crate::accounts::naming::Naming;
use crate::delta::outgoing::announce;
use crate::digest::hex;
use snapsync_apply::{Journal, OwnManifest, Phase, discard};
use snapsync_model::{AccountNames, Accounts, Monitor, Result, SnapshotInfo};
use snapsync_snapshot::{LockedVolume, Volume};
use snapsync_sys::{Named, Spot};
use std::path::Path;

/// How owners are found that the volume has not met yet.
#[derive(Clone, Copy)]
pub(crate) struct Finding<'a> {
    /// What the other end tells.
    pub(crate) names: Option<&'a AccountNames>,
    pub(crate) naming: &'a Naming,
    pub(crate) is_strict: bool,
}

/// The map of a volume, or the one that it begins with if it `is_asked` to find owners by name: those that it
/// has keep their numbers.
pub(crate) fn accounts(
    volume: &Volume,
    newest: Option<&SnapshotInfo>,
    is_asked: bool,
    monitor: &Monitor,
) -> Result<Option<Accounts>> {
    match (volume.accounts(), newest) {
        (None, Some(newest)) if is_asked => as_held(volume, newest, monitor).map(Some),
        (None, None) if is_asked => Ok(Some(Accounts::default())),
        (known, _) => Ok(known.cloned()),
    }
}

/// Gives up what was staged before the volume was to find owners by name.
pub(crate) fn give_up_others(volume: &mut LockedVolume) -> Result<()> {
    let left = Journal::load(&volume.store())?;
    match left.filter(|left| left.phase == Phase::Staging && left.own.is_none()) {
        Some(left) => {
            discard(volume.root(), left.snapshot.id)?;
            Journal::remove(&volume.store())
        }
        None => Ok(()),
    }
}

/// Gives the files in a manifest of the lineage the owners that they have in the volume at `path`.
pub(crate) fn own(
    (accounts, path): (Option<&Accounts>, &Path),
    manifest: &Spot,
    finding: Finding<'_>,
    monitor: &Monitor,
) -> Result<Option<OwnManifest>> {
    let Some(accounts) = accounts else { return Ok(None) };
    let accounts = rewrite(accounts, manifest, path, finding, monitor)?;
    let digest = hex(&announce(manifest)?.digest);
    Ok(Some(OwnManifest { digest, accounts }))
}

/// The same for a plan, which changes nothing; `volume` is None if there is none yet.
pub(crate) fn own_in_plan(
    (volume, path): (Option<&Volume>, &Path),
    manifest: &dyn Named,
    (finding, is_asked): (Finding<'_>, bool),
    monitor: &Monitor,
) -> Result<()> {
    let accounts = match volume {
        Some(volume) => accounts(volume, volume.line()?.last(), is_asked, monitor)?,
        None => is_asked.then(Accounts::default),
    };
    let rewritten = accounts.map(|accounts| rewrite(&accounts, manifest, path, finding, monitor));
    rewritten.transpose().map(drop)
}

fn rewrite(
    accounts: &Accounts,
    manifest: &dyn Named,
    path: &Path,
    finding: Finding<'_>,
    monitor: &Monitor,
) -> Result<Accounts> {
    let mut arriving = Arriving::new(accounts, finding.names, finding.naming, finding.is_strict);
    arriving.rewrite(manifest, path, monitor)?;
    Ok(arriving.accounts)
}
