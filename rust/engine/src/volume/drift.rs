//! Checks whether a volume's tree is still what its newest snapshot holds.

use crate::delta::outgoing::{Outgoing, header};
use crate::delta::sides::Sides;
use crate::options::STRICT;
use crate::volume::lost;
use crate::volume::now::since;
use crate::volume::rewind::{Rewind, Rewound, rewind_without};
use snapsync_manifest::{ManifestHeader, ManifestReader};
use snapsync_model::{
    Attributes, Change, End, Error, Inode, Kind, Monitor, Result, SnapshotInfo, Stage, Subset,
};
use snapsync_snapshot::{LockedVolume, Volume};
use snapsync_sys::Named;
use snapsync_walk::is_as_in;

/// The number of paths in one message.
const SHOWN: usize = 5;

/// The differences between a volume's tree and its newest snapshot, in a probe that is kept or dropped.
pub(crate) struct Drift {
    pub(crate) probe: SnapshotInfo,
    pub(crate) found: Differences,
}

/// Some of the paths, and how many there are.
#[derive(Default)]
pub(crate) struct Differences {
    shown: Vec<String>,
    paths: usize,
}

/// The same as `find`, of a volume that is not locked and in which nothing is written.
pub(crate) fn foresee(
    volume: &Volume,
    newest: &SnapshotInfo,
    monitor: &Monitor,
) -> Result<Option<Differences>> {
    monitor.start(Stage::Compare, 0);
    if is_plainly_the_same(volume, newest, monitor)? {
        return Ok(None);
    }
    let found = of_tree(volume, newest, &newest.subset, |rows| Differences::read(rows, newest), monitor)?;
    Ok(Some(found).filter(|found| !found.is_empty()))
}

/// What `read` makes of the rows from `newest` to the tree as `subset` sees it. Nothing is written in the
/// volume.
pub(crate) fn of_tree<T>(
    volume: &Volume,
    newest: &SnapshotInfo,
    subset: &Subset,
    read: impl FnOnce(&dyn Named) -> Result<T>,
    monitor: &Monitor,
) -> Result<T> {
    let absent = volume.absent_files(newest)?;
    let sides = since(volume, newest, volume.root(), subset, monitor)?.without(End::Base, &absent)?;
    let scratch = snapsync_sys::scratch()?;
    let manifest = scratch.path().join("manifest.arrow");
    sides.write_manifest(&manifest, &ManifestHeader::default(), monitor)?;
    read(&manifest)
}

/// What `read` makes of the rows from `newest` to a snapshot of the tree. What is still to be brought is no
/// difference.
pub(crate) fn of_probe<T>(
    volume: &LockedVolume,
    newest: &SnapshotInfo,
    probe: &SnapshotInfo,
    read: impl FnOnce(&dyn Named) -> Result<T>,
    monitor: &Monitor,
) -> Result<T> {
    let absent = volume.absent_files(newest)?;
    let sides = Sides::between(volume, newest, probe, monitor)?.without(End::Base, &absent)?;
    let outgoing = Outgoing::make(volume, probe, Some(newest))?;
    let manifest = outgoing.manifest();
    sides.write_manifest(&manifest, &header(volume, Some(newest), probe), monitor)?;
    read(&manifest)
}

/// Compares the whole tree with `newest`. On Btrfs the cost follows what was written since; elsewhere it is a
/// walk. `prefix` begins the name of what may be kept.
pub(crate) fn find(
    volume: &mut LockedVolume,
    newest: &SnapshotInfo,
    prefix: &str,
    monitor: &Monitor,
) -> Result<Option<Drift>> {
    monitor.start(Stage::Compare, 0);
    if is_plainly_the_same(volume, newest, monitor)? {
        return Ok(None);
    }
    let probe = volume.probe(prefix, volume.subset().clone(), monitor)?;
    let found = compare(volume, newest, &probe, monitor);
    match found {
        Ok(found) if !found.found.is_empty() => Ok(Some(found)),
        other => {
            volume.drop_probe(&probe)?;
            other.map(|_| None)
        }
    }
}

/// Whether a search of the tree itself finds nothing, so that no probe of it is needed.
fn is_plainly_the_same(volume: &Volume, newest: &SnapshotInfo, monitor: &Monitor) -> Result<bool> {
    let Some(snapshot) = volume.tree_of(newest).filter(|_| volume.missing(newest).is_none()) else {
        return Ok(false);
    };
    is_as_in(&snapshot.tree()?, volume.root(), &newest.subset, monitor)
}

fn compare(
    volume: &LockedVolume,
    newest: &SnapshotInfo,
    probe: &SnapshotInfo,
    monitor: &Monitor,
) -> Result<Drift> {
    let found = of_probe(volume, newest, probe, |rows| Differences::read(rows, newest), monitor)?;
    Ok(Drift { probe: probe.clone(), found })
}

/// There is nobody to bring files that a volume has lost.
pub(crate) fn cannot_go_back(
    volume: &LockedVolume,
    newest: &SnapshotInfo,
    lost: &[Inode],
    monitor: &Monitor,
) -> Error {
    let show = volume.path().display();
    let files = lost::shown(volume, newest, lost, monitor).unwrap_or_default();
    Error::refused(
        format!("{show} cannot be what snapshot {} was: it has lost the bytes of {files}", newest.name),
        "--accept-drift goes on with the tree as it is; a round with --discard-drift brings them from the \
         primary if that is still there",
    )
}

/// Entries that no snapshot has come and go in it.
pub(crate) fn is_only_dated(change: &Change) -> bool {
    let undated = |side: Option<Attributes>| side.map(|a| Attributes { mtime: 0, far_second: 0, ..a });
    change.kind == Kind::Directory
        && change.links_added.is_empty()
        && change.links_removed.is_empty()
        && !change.flags.xattrs
        && change.survives()
        && undated(change.old) == undated(change.new)
}

impl Differences {
    fn read(manifest: &dyn Named, newest: &SnapshotInfo) -> Result<Differences> {
        let (mut found, has_strays) = (Differences::default(), !newest.subset.is_everything());
        for change in ManifestReader::open(manifest)? {
            let change = change?;
            if !(change.only_lends() || (has_strays && is_only_dated(&change))) {
                found.add(&change);
            }
        }
        Ok(found)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.paths == 0
    }

    pub(crate) fn add(&mut self, change: &Change) {
        self.paths += 1;
        if self.paths > SHOWN {
            return;
        }
        let what = match change.flags {
            flags if flags.created => "new",
            flags if flags.deleted => "missing",
            flags if flags.data => "modified",
            flags if flags.renamed => "renamed",
            _ => "other attributes",
        };
        self.shown.push(format!("{} ({what})", change.display_path()));
    }

    /// Some of the paths, and how many more there are.
    pub(crate) fn paths(&self) -> String {
        let more = self.paths - self.shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", self.shown.join(", "))
    }

    pub(crate) fn refusal(&self, volume: &Volume, advice: &str) -> Error {
        let (show, paths) = (volume.path().display(), self.paths());
        Error::refused(format!("{show} was changed by hand since its newest snapshot: {paths}"), advice)
    }
}

impl Drift {
    /// Changes nothing, and fails with the reason.
    pub(crate) fn refuse<T>(self, volume: &LockedVolume, advice: &str) -> Result<T> {
        volume.drop_probe(&self.probe)?;
        Err(self.found.refusal(volume, advice))
    }

    /// Keeps what was changed as a snapshot, and makes the tree `newest` again, but for files whose bytes are
    /// lost: the primary is to bring those.
    pub(crate) fn discard(
        self,
        volume: &mut LockedVolume,
        newest: &SnapshotInfo,
        monitor: &Monitor,
    ) -> Result<(SnapshotInfo, Rewound)> {
        let lost = match lost::find(volume, newest, &self.probe, monitor) {
            Ok(lost) => lost,
            Err(error) => {
                volume.drop_probe(&self.probe)?;
                return Err(error);
            }
        };
        volume.keep(&self.probe)?;
        let rewind = Rewind { base: &self.probe, to: newest, result: newest, terms: STRICT };
        let rewound = rewind_without(volume, &rewind, &lost, monitor)?;
        Ok((self.probe, rewound))
    }

    /// The same where no primary brings anything: refused where something is lost.
    pub(crate) fn discard_alone(
        self,
        volume: &mut LockedVolume,
        newest: &SnapshotInfo,
        monitor: &Monitor,
    ) -> Result<(SnapshotInfo, Rewound)> {
        let lost = volume.lost_in(newest, &self.probe)?;
        if lost.is_empty() {
            return self.discard(volume, newest, monitor);
        }
        volume.drop_probe(&self.probe)?;
        Err(cannot_go_back(volume, newest, &lost, monitor))
    }
}
