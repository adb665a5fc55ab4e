//! The owners that the files of a delta have on this machine.

use crate::accounts::arriving::{Arriving, Finding, as_held};
use crate::delta::outgoing::announce;
use crate::digest::hex;
use snapsync_apply::{Journal, OwnManifest, Phase, discard};
use snapsync_model::{Accounts, Monitor, Naming, Result, SnapshotInfo};
use snapsync_snapshot::{LockedVolume, Volume};
use snapsync_sys::{Named, Spot};
use std::path::Path;

/// The map of a volume, or the one that it begins with if it is to find owners by name: those that it has
/// keep their numbers.
pub(crate) fn accounts(
    volume: &Volume,
    newest: Option<&SnapshotInfo>,
    by_name: bool,
    monitor: &Monitor,
) -> Result<Option<Accounts>> {
    match (volume.accounts(), newest) {
        (None, Some(newest)) if by_name => as_held(volume, newest, monitor).map(Some),
        (None, None) if by_name => Ok(Some(Accounts::default())),
        (known, _) => Ok(known.cloned()),
    }
}

/// Gives up what was staged with other owners than would be found now, as far as that is known before the
/// delta begins again.
pub(crate) fn give_up_others(
    volume: &mut LockedVolume,
    accounts: &Accounts,
    naming: Option<&Naming>,
) -> Result<()> {
    let staged = Journal::load(&volume.store())?.filter(|left| left.phase == Phase::Staging);
    let Some(left) = staged else { return Ok(()) };
    if let Some(own) = &left.own {
        let names = &own.accounts.names();
        let finding = Finding { names: Some(names), naming, is_strict: false, sequence: 0 };
        if Arriving::new(accounts, finding).finds_again(&own.accounts)? {
            return Ok(());
        }
    }
    discard(volume.root(), left.snapshot.id)?;
    Journal::remove(&volume.store())
}

/// Refuses accounts of a delta that goes on if it was to be strict from the beginning.
pub(crate) fn expect_strict(volume: &Volume, accounts: &Accounts, finding: Finding<'_>) -> Result<()> {
    let Some(own) = Journal::load(&volume.store())?.and_then(|left| left.own) else { return Ok(()) };
    let mut arriving = Arriving::new(accounts, finding);
    arriving.finds_again(&own.accounts)?;
    arriving.expect_known(volume.path())
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
    finding: Finding<'_>,
    monitor: &Monitor,
) -> Result<()> {
    let by_name = finding.naming.is_some();
    let accounts = match volume {
        Some(volume) => accounts(volume, volume.line()?.last(), by_name, monitor)?,
        None => by_name.then(Accounts::default),
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
    let mut arriving = Arriving::new(accounts, finding);
    arriving.rewrite(manifest, path, monitor)?;
    Ok(arriving.accounts)
}
