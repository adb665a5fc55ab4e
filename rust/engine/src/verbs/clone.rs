//! Writable copies of snapshots.

use crate::delta::landing::RestoreTarget;
use crate::location::directory::open_volume;
use crate::location::place::named;
use crate::options::{Supply, Terms};
use crate::remote::supply;
use crate::report::snapshots::{CloneInfo, Cloned, Unlisted};
use crate::volume::recovery;
use snapsync_model::{Error, Monitor, Result, Stage};
use snapsync_snapshot::{CloneRecord, Mark, Volume, name_is_free};
use std::path::Path;
use std::time::Instant;

/// Makes the absent or empty directory `to` a writable copy of a snapshot, and records it as `name`.
pub fn clone(
    address: &Path,
    to: &Path,
    name: Option<String>,
    terms: Terms,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<Cloned> {
    let started = Instant::now();
    let (volume, snapshot) = named(address)?;
    let name = name_for(&volume, to, name)?;
    let (mut volume, _) = recovery::lock(&volume, monitor)?;
    can_be_given(&volume, &name)?;
    let landing = RestoreTarget::find(to, Some(&volume))?;
    monitor.start(Stage::Compare, 0);
    let mut cloned = Cloned {
        verb: "clone",
        volume: volume.info(),
        snapshot: snapshot.clone(),
        clone: None,
        instant: false,
        data_bytes: 0,
        shared_bytes: 0,
        losses: Vec::new(),
        notes: Vec::new(),
        seconds: 0.0,
    };
    let is_made = match (landing.above(), landing.path.file_name()) {
        (Some(above), Some(name)) if supply.standby.is_none() => volume.clone_tree(&snapshot, above, name)?,
        _ => None,
    };
    let mark = if let Some(mark) = is_made {
        cloned.instant = true;
        mark
    } else {
        let mut content = supply::content(&volume, &snapshot, &[], supply, monitor)?;
        let filled = landing.fill(&mut *content, terms, monitor)?;
        (cloned.data_bytes, cloned.shared_bytes) = (filled.counts.data_bytes, filled.shared);
        cloned.losses = filled.losses;
        Mark::of(&filled.root)?
    };
    let record = CloneRecord::of(&landing.path, mark, &snapshot);
    volume.remember_clone(&name, record.clone())?;
    cloned.clone = Some(CloneInfo::new(name, record)?);
    cloned.notes = monitor.take_notes();
    cloned.seconds = started.elapsed().as_secs_f64();
    Ok(cloned)
}

fn name_for(volume: &Volume, to: &Path, name: Option<String>) -> Result<String> {
    let of_dir = || Some(to.file_name()?.to_str()?.to_owned());
    let name = name.or_else(of_dir).ok_or_else(|| {
        Error::usage(format!("{} gives the clone no name", to.display()), "name it with --name")
    })?;
    can_be_given(volume, &name)?;
    Ok(name)
}

/// Checks that a clone's name is free; that of a missing clone is.
fn can_be_given(volume: &Volume, name: &str) -> Result<()> {
    name_is_free(name, &volume.snapshots()?)?;
    match volume.clones().get(name) {
        Some(clone) if clone.is_there()? => Err(Error::usage(
            format!("there is a clone named {name:?} already: {}", clone.path.display()),
            "choose another with --name, or delete that one first",
        )),
        _ => Ok(()),
    }
}

/// The clones of a volume, by name.
pub(crate) fn clones(volume: &Volume) -> Result<Vec<CloneInfo>> {
    volume.clones().iter().map(|(name, clone)| CloneInfo::new(name.clone(), clone.clone())).collect()
}

/// Deletes the clone `name` with its directory; None if no clone has that name.
pub fn delete_clone(path: &Path, name: &str, monitor: &Monitor) -> Result<Option<Unlisted>> {
    let volume = open_volume(path)?;
    if !volume.clones().contains_key(name) {
        return Ok(None);
    }
    let (mut volume, _) = recovery::lock(&volume, monitor)?;
    if volume.snapshots()?.iter().any(|snapshot| snapshot.name == name) {
        return Err(Error::usage(
            format!("{name:?} is a snapshot and a clone of {}", volume.path().display()),
            "name the snapshot by its id, or remove the directory of the clone",
        ));
    }
    let Some(clone) = volume.clones().get(name).cloned() else { return Ok(None) };
    let clone = CloneInfo::new(name.to_owned(), clone)?;
    if clone.exists {
        clone.record.remove()?;
    }
    volume.forget_clone(name)?;
    Ok(Some(Unlisted { verb: "delete", volume: volume.info(), clone }))
}
