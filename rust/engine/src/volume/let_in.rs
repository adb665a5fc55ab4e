//! What lies in the tree of a standby where patterns left something out, and do so no longer. The snapshot to
//! come would have it on Btrfs, and elsewhere it may be in the way of what the primary has there.

use crate::volume::drift::{Differences, Drift, is_only_dated, of_probe, of_tree};
use snapsync_manifest::ManifestReader;
use snapsync_model::{Attributes, Context, Error, Monitor, RelPath, Result, SnapshotInfo, Stage, Subset};
use snapsync_snapshot::{LockedVolume, Volume};
use snapsync_sys::{Named, Root};

/// Directories that have another time since entries that were left out came there or went, and their times in
/// the newest snapshot.
#[derive(Default)]
pub(crate) struct Dated(Vec<(RelPath, Attributes)>);

/// What differs from the newest snapshot as the patterns of the next one see the tree.
#[derive(Default)]
struct Strays {
    /// Names that no snapshot has.
    found: Differences,
    dated: Dated,
    /// Whether the next patterns also leave out more.
    narrows: bool,
}

/// Finds what lies where the patterns of `next` let something in. Refuses it, or keeps it as a snapshot, as a
/// note tells, and makes the tree `newest` again. The times that are left to set are for the commit.
pub(crate) fn clear(
    volume: &mut LockedVolume,
    newest: &SnapshotInfo,
    next: &SnapshotInfo,
    discards: bool,
    monitor: &Monitor,
) -> Result<Dated> {
    if newest.subset.is_everything() || newest.subset == next.subset {
        return Ok(Dated::default());
    }
    monitor.start(Stage::Compare, 0);
    let probe = volume.probe("drift-", next.subset.clone(), monitor)?;
    match of_probe(volume, newest, &probe, Strays::read, monitor) {
        Ok(strays) if strays.found.is_empty() => {
            volume.drop_probe(&probe)?;
            strays.dated.expect_settable(volume.root())?;
            Ok(strays.dated)
        }
        Ok(strays) if discards && !strays.narrows => {
            discard(volume, newest, probe, strays.found, monitor)?;
            Ok(Dated::default())
        }
        Ok(strays) => {
            volume.drop_probe(&probe)?;
            Err(strays.refusal(volume, discards))
        }
        Err(error) => {
            volume.drop_probe(&probe)?;
            Err(error)
        }
    }
}

/// The same of a volume in which nothing is written: what would be refused, or is noted.
pub(crate) fn foresee(
    volume: &Volume,
    newest: &SnapshotInfo,
    subset: &Subset,
    discards: bool,
    monitor: &Monitor,
) -> Result<()> {
    if newest.subset.is_everything() || newest.subset == *subset {
        return Ok(());
    }
    let strays = of_tree(volume, newest, subset, Strays::read, monitor)?;
    if strays.found.is_empty() {
        return strays.dated.expect_settable(volume.root());
    }
    if !discards || strays.narrows {
        return Err(strays.refusal(volume, discards));
    }
    monitor.note(format!(
        "what {} holds and was left out so far would be removed, and kept as a snapshot: {}",
        volume.path().display(),
        strays.found.paths()
    ));
    Ok(())
}

fn discard(
    volume: &mut LockedVolume,
    newest: &SnapshotInfo,
    probe: SnapshotInfo,
    found: Differences,
    monitor: &Monitor,
) -> Result<()> {
    let (name, paths) = (probe.name.clone(), found.paths());
    Drift { probe, found }.discard(volume, newest, monitor)?;
    monitor.note(format!(
        "what {} held and was left out so far was removed, and is kept as snapshot {name}: {paths}",
        volume.path().display()
    ));
    Ok(())
}

impl Dated {
    /// Refuses directories whose time cannot be set: one that lost its protection to a kill would not get it
    /// back.
    fn expect_settable(&self, root: &Root) -> Result<()> {
        for (path, attributes) in &self.0 {
            let show = root.show(path);
            let flags = root.read(path).and_then(|directory| snapsync_sys::flags_of(&directory));
            let flags = flags.context("read the flags of", &show)? & snapsync_sys::PROTECTIVE;
            if flags != 0 {
                let time = attributes.time();
                let (second, part) = (time.div_euclid(1_000_000_000), time.rem_euclid(1_000_000_000));
                let (show, flags) = (show.display(), snapsync_sys::flag_names(flags));
                return Err(Error::refused(
                    format!(
                        "{show} is immutable or append-only, and what patterns leave out has changed its time"
                    ),
                    format!(
                        "give it the time of the snapshot: `chattr -{flags} {show}; touch -d \
                         @{second}.{part:09} {show}; chattr +{flags} {show}`"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Gives them these times. The tree must be writable.
    pub(crate) fn settle(&self, root: &Root) -> Result<()> {
        self.0.iter().try_for_each(|(path, attributes)| {
            let set = root.entry(path).and_then(|entry| entry.set_time(attributes));
            set.map(drop).context_at("set the time of", || root.show(path))
        })
    }
}

impl Strays {
    fn read(manifest: &dyn Named) -> Result<Strays> {
        let mut strays = Strays::default();
        for change in ManifestReader::open(manifest)? {
            let change = change?;
            strays.narrows |= !change.links_removed.is_empty();
            if !change.links_added.is_empty() {
                strays.found.add(&change);
            } else if let (true, Some(path), Some(old)) =
                (is_only_dated(&change), &change.old_path, change.old)
                && change.new.is_some_and(|new| new.time() != old.time())
            {
                strays.dated.0.push((path.clone(), old));
            }
        }
        Ok(strays)
    }

    fn refusal(&self, volume: &Volume, discards: bool) -> Error {
        let advice = if discards {
            "the new patterns leave out more, too, and both at once cannot be undone here: make one round \
             with patterns that only leave out less, then another one"
        } else {
            "move it away, leave it out again with --exclude, or sync with --discard-drift, which keeps it \
             as a snapshot and removes it"
        };
        Error::refused(
            format!(
                "{} holds what was left out so far, and is not any more: {}",
                volume.path().display(),
                self.found.paths()
            ),
            advice,
        )
    }
}
