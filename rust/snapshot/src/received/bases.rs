//! Finds the base of a delta: on the shelf that receives it, elsewhere on the same Btrfs file system, as
//! `btrfs receive` does too, or on a shelf beside this one.

use crate::received::identity::{
    Base, Place, Record, is_changed, is_constant, mark_of, own_origin, records, shelf_at,
};
use crate::received::shelf::ReceivedDirectory;
use rustix::io::Errno;
use rustix::process::geteuid;
use snapsync_model::{Context, Error, Identity, Result};
use snapsync_sys::{Root, is_own, read_dir, stat_of, subvolumes_known_as, sync_filesystem};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// A search for one base.
pub(crate) struct Bases<'a> {
    wanted: &'a Identity,
    /// Why a former copy of the base cannot be used.
    refusal: Option<Error>,
}

impl<'a> Bases<'a> {
    pub(crate) fn new(wanted: &'a Identity) -> Bases<'a> {
        Bases { wanted, refusal: None }
    }

    pub(crate) fn find(mut self, shelf: &ReceivedDirectory) -> Result<Option<Base>> {
        let mut found = self.among(&shelf.places()?, &shelf.root)?;
        // Whoever changed the copy here must hear of it, even if the base exists elsewhere too.
        if let Some(refusal) = self.refusal.take().filter(|_| found.is_none()) {
            return Err(refusal);
        }
        if found.is_none() && shelf.is_btrfs {
            found = self.on_file_system(shelf)?;
        }
        if found.is_none() {
            found = self.on_shelves_beside(shelf)?;
        }
        match (found, self.refusal) {
            (None, Some(refusal)) => Err(refusal),
            (found, _) => Ok(found),
        }
    }

    /// The one of these places in `dir` that holds the base.
    fn among(&mut self, places: &[Place], dir: &Arc<Root>) -> Result<Option<Base>> {
        let records = records(dir)?;
        for claim in claims(places, &records).filter(|claim| claim.identity.matches(self.wanted)) {
            match claim.check(self.wanted) {
                Ok(root) => {
                    let (identity, record) = (claim.identity, claim.record.cloned());
                    return Ok(Some(Base { root, identity, record }));
                }
                Err(e @ Error::Refused { .. }) => {
                    self.refusal.get_or_insert(e);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    fn on_file_system(&mut self, shelf: &ReceivedDirectory) -> Result<Option<Base>> {
        let uuids = [Some(self.wanted.mark().uuid), Some(self.wanted.id)];
        for uuid in uuids.into_iter().flatten() {
            let known = match subvolumes_known_as(shelf.root.fd(), uuid.into_bytes()) {
                // Only root may ask.
                Err(e) if Errno::from_io_error(&e) == Some(Errno::PERM) => return Ok(None),
                other => other.context("look for the base on the file system of", shelf.path())?,
            };
            for path in known {
                let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { continue };
                let above = shelf_at(above)?;
                // The owner of a subvolume can give it any mark.
                if !is_closed_to_others(&above)? {
                    self.refusal.get_or_insert(is_anybodys(&path));
                    continue;
                }
                let place = Place::at(&above, name)?.filter(|place| place.subvolume.is_some());
                if let Some(found) = self.among(place.as_slice(), &above)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The shelf of another user may claim anything about its content.
    fn on_shelves_beside(&mut self, shelf: &ReceivedDirectory) -> Result<Option<Base>> {
        let Some(above) = shelf.path().parent() else { return Ok(None) };
        let Ok(above) = Root::open(above) else { return Ok(None) };
        let Ok(mut beside) = read_dir(above.fd()) else { return Ok(None) };
        beside.sort_by(|a, b| a.name.cmp(&b.name));
        let own = shelf.path().file_name().map(OsStr::as_bytes);
        for entry in beside.iter().filter(|entry| Some(&*entry.name) != own && entry.is_dir != Some(false)) {
            let Some(other) = shelf.beside(&above, &entry.name)? else { continue };
            if is_closed_to_others(&other.root)?
                && other.is_on(shelf)?
                && let Some(found) = self.among(&other.places()?, &other.root)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Whether nobody else can have put anything into a directory. The group of an ordinary user may have no
/// other member.
fn is_closed_to_others(dir: &Root) -> Result<bool> {
    let stat = stat_of(dir.fd()).context("read the attributes of", dir.path())?;
    let others = if geteuid().is_root() { 0o022 } else { 0o002 };
    Ok(is_own(&stat) && stat.attributes.mode & others == 0)
}

fn is_anybodys(path: &Path) -> Error {
    Error::refused(
        format!(
            "{} says that it is the base of this delta, and others may write where it lies",
            path.display()
        ),
        "receive the base first, or move it to where nobody else can write",
    )
}

/// What is claimed about a directory of a shelf.
struct Claim<'p> {
    place: &'p Place,
    record: Option<&'p Record>,
    identity: Identity,
    /// Whether it was received, and as which snapshot.
    was_received: bool,
}

/// The claims about each place: first the recorded one, then that of Btrfs.
fn claims<'p>(places: &'p [Place], records: &'p [Record]) -> impl Iterator<Item = Claim<'p>> {
    let recorded = records.iter().filter_map(|record| {
        let place = places.iter().find(|place| place.is_of(record))?;
        Some(Claim { place, record: Some(record), identity: record.identity, was_received: true })
    });
    let known = places.iter().filter_map(|place| Some((place, place.subvolume?)));
    let marked = known.clone().filter_map(|(place, subvolume)| {
        let identity = Identity::of_origin(mark_of(&subvolume)?);
        Some(Claim { place, record: None, identity, was_received: true })
    });
    let own = known.map(|(place, subvolume)| Claim {
        place,
        record: None,
        identity: Identity::of_origin(own_origin(&subvolume)),
        was_received: false,
    });
    recorded.chain(marked).chain(own)
}

impl Claim<'_> {
    /// Refuses a directory that was changed since it was `wanted`.
    fn check(&self, wanted: &Identity) -> Result<Root> {
        let root = self.place.open()?;
        let refuse = |why: &str| {
            let what = format!("{} is not the base of this delta any more: {why}", self.place.path.display());
            let advice = "delete it and receive the base again, or send without a base";
            Err(Error::refused(what, advice))
        };
        if let Some(subvolume) = self.place.subvolume {
            if !subvolume.read_only {
                return refuse("it is writable");
            }
            if self.was_received && is_changed(&root, &subvolume)? {
                return refuse("it was made writable and changed since it was received");
            }
        }
        if let Some(record) = self.record
            && record.is_changed(&root)?
        {
            return refuse("it was changed since it was received");
        }
        let is_as_made = |subvolume| !self.was_received && is_constant(&root, &subvolume);
        if self.identity.is_another_state_of(wanted) && !self.place.subvolume.is_some_and(is_as_made) {
            return refuse("it is another state of the same subvolume, which was changed in between");
        }
        Ok(root)
    }
}

impl ReceivedDirectory {
    /// The directory that holds the snapshot `wanted`: here, elsewhere on a Btrfs file system, or on a shelf
    /// beside this one. Fails if there is only one that was changed since.
    pub fn find(&self, wanted: &Identity) -> Result<Option<Base>> {
        if self.is_btrfs {
            // Data in memory changes a subvolume once more when it is written out.
            sync_filesystem(self.root.fd()).context("sync the file system of", self.path())?;
        }
        Bases::new(wanted).find(self)
    }
}
