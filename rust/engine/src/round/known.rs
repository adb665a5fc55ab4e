//! Handles standbys that are known but missing: an unmounted disk must not be taken for an empty place.

use crate::location::directory::open_directory;
use crate::location::text::Location;
use crate::round::rights::Rights;
use crate::round::steps::StandbyInfo;
use crate::volume::standing::{expect_standby, was_replaced};
use snapsync_log::LogAddress;
use snapsync_model::{Error, Monitor, Result, Role, Standing};
use snapsync_snapshot::{Claim, LockedVolume, Standby, Volume};
use snapsync_sys::Root;
use std::collections::BTreeMap;
use std::path::Path;
use uuid::Uuid;

/// Whether the volume at the target may be fed by this primary.
pub(crate) fn is_standby_of(target: &StandbyInfo, source: &Root, primary: Option<&Volume>) -> Result<()> {
    target.role.map_or(Ok(()), |role| expect_standby(&target.path, role))?;
    let Some(lineage) = target.lineage else { return Ok(()) };
    match primary {
        Some(primary) if primary.info().lineage == lineage => Ok(()),
        Some(_) => Err(Error::refused(
            format!("{} is the standby of another volume", target.path),
            "name its own primary as the source, or another target",
        )),
        None if source.part().is_some() => Err(Error::refused(
            format!("{} is new, and {} is the standby of another", source.title().display(), target.path),
            "check the name of the part: `snapsync list VOLUME` shows those it has; or name another target",
        )),
        None => Err(Error::refused(
            format!("{} is no volume, and {} is the standby of one", source.path().display(), target.path),
            "mount the file system of its primary, if that was here; else name its primary as the source, or \
             another target",
        )),
    }
}

/// The source does not exist: it may name a snapshot, or a standby at the target may know that it did.
pub(crate) fn without_source(source: &Path, target: &Path, error: Error) -> Error {
    let named = Location::parse(source).ok().filter(|_| error.exit_code() == 2);
    if let Some(Location { path, snapshot: Some(snapshot), .. }) = named
        && Volume::find(&path).is_ok_and(|volume| volume.is_some())
    {
        return Error::usage(
            format!("{} names a snapshot, and rounds are of a volume", source.display()),
            format!("name {} and bring that snapshot with --snap {}", path.display(), snapshot.display()),
        );
    }
    match open_directory(target).and_then(Volume::find_in) {
        // It is there, and does not answer.
        _ if error.exit_code() != 2 => error,
        Ok(Some(volume)) if volume.info().role == Role::Standby && !volume.info().lineage.is_nil() => {
            Error::refused(
                format!("{}, and {} is the standby of a volume", error.sentence(), target.display()),
                "mount the file system of its primary, or name where that is",
            )
        }
        _ => error,
    }
}

/// A standby that claims a later epoch is not fed, and the claim is recorded. It may be true or a lie, so it
/// does not affect the other standbys.
pub(crate) fn fence(primary: Option<Volume>, looked: &StandbyInfo, rights: Rights) -> Result<Option<Volume>> {
    let Some(volume) = primary else { return Ok(None) };
    let Some(claim) = claim_of(&volume, looked) else { return Ok(Some(volume)) };
    let mut volume = volume.lock()?;
    if let Some((id, standby)) = at(&volume, looked).filter(|_| !rights.only_reads) {
        volume.remember_standby(id, Standby { claim: Some(claim.clone()), ..standby })?;
    }
    Err(was_replaced(&volume, &looked.path, &claim))
}

/// The same without a record of the claim.
pub(crate) fn expect_follower(primary: Option<Volume>, looked: &StandbyInfo) -> Result<Option<Volume>> {
    let claim = primary.as_ref().and_then(|volume| Some((volume, claim_of(volume, looked)?)));
    claim.map_or(Ok(()), |(volume, claim)| Err(was_replaced(volume, &looked.path, &claim)))?;
    Ok(primary)
}

/// The later epoch that a standby claims to be of.
fn claim_of(primary: &Volume, looked: &StandbyInfo) -> Option<Claim> {
    let info = primary.info();
    let epoch = looked.epoch.filter(|epoch| looked.lineage == Some(info.lineage) && *epoch > info.epoch)?;
    let standing = looked.promotions.standing(epoch, primary.promotions(), info.epoch);
    let now = jiff::Timestamp::now().to_string();
    Some(Claim { epoch, shown: standing == Standing::Shown, at: now })
}

/// Fails if a known standby is missing.
pub(crate) fn is_there(looked: &StandbyInfo, primary: Option<&Volume>) -> Result<()> {
    let Some(primary) = primary.filter(|_| looked.volume.is_none()) else { return Ok(()) };
    let known = |standby: &&Standby| is_same_place(&standby.path, &looked.path);
    let Some(standby) = primary.standbys().values().filter(known).max_by_key(|standby| &standby.at) else {
        return Ok(());
    };
    let is_other =
        standby.filesystem.as_ref().zip(looked.filesystem.as_ref()).is_some_and(|(known, now)| known != now);
    let why = if is_other {
        "the file system there now is another than the one that it is on"
    } else {
        "its file system is not mounted, or it was moved or deleted"
    };
    let (source, path, name) = (primary.path().display(), &standby.path, &standby.name);
    if let Ok(Some(log)) = LogAddress::parse(Path::new(path)) {
        // A round that begins a log encrypts nothing.
        return Err(Error::refused(
            format!("the log {path} is known, at snapshot {name}, and is not there: {why}"),
            format!(
                "mount it and run this again; if it is gone, `snapsync init {log}` begins a new one there, \
                 with --encrypt-to if it was encrypted, and `snapsync release {source} --standby {path}` \
                 forgets it"
            ),
        ));
    }
    Err(Error::refused(
        format!("the standby {path} is known, at snapshot {name}, and is not there: {why}"),
        format!(
            "mount it and run this again; if it is gone, --new-standby begins a new one there, and \
             `snapsync release {source} --standby {path}` forgets it"
        ),
    ))
}

/// The refusal of a command that names a known but missing standby; otherwise the error as it is.
pub(crate) fn explained(standbys: &BTreeMap<Uuid, Standby>, path: &Path, error: Error) -> Error {
    let mut place = Location::known(path);
    if place.host.is_none() {
        place = Location::here(&std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()));
    }
    let is_known = |standby: &Standby| Location::known(Path::new(&standby.path)).is_at(&place);
    if error.exit_code() != 2 || !standbys.values().any(is_known) {
        return error;
    }
    Error::refused(
        format!("the standby {} is known and is not there: {}", path.display(), error.sentence()),
        "mount its file system and run this again",
    )
}

/// Whether two addresses mean one place, whatever the user names in them.
fn is_same_place(known: &str, other: &str) -> bool {
    Location::known(Path::new(known)).is_at(&Location::known(Path::new(other)))
}

/// The known standby if the volume that was met is at its place.
pub(crate) fn at(primary: &Volume, met: &StandbyInfo) -> Option<(Uuid, Standby)> {
    let id = met.volume?;
    let known = primary.standbys().get(&id).filter(|standby| is_same_place(&standby.path, &met.path))?;
    Some((id, known.clone()))
}

/// Records a new standby in place of the one that was known there, unless that one may be on a disk that
/// comes back.
pub(crate) fn replace(primary: &mut LockedVolume, id: Uuid, new: &Standby, monitor: &Monitor) -> Result<()> {
    let before: Vec<(Uuid, Option<String>)> = primary
        .standbys()
        .iter()
        .filter(|(known, standby)| **known != id && is_same_place(&standby.path, &new.path))
        .map(|(known, standby)| (*known, standby.filesystem.clone()))
        .collect();
    for (known, filesystem) in before {
        if filesystem.is_some() && filesystem == new.filesystem {
            primary.forget_standby(known)?;
        } else {
            let source = primary.path().display();
            monitor.note(format!(
                "the standby that was at {} before stays known: `snapsync release {source} --standby \
                 {known}` \
                 forgets it",
                new.path
            ));
        }
    }
    Ok(())
}
