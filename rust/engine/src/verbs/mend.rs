//! Repairs a standby from its primary: everything that differs from their newest common snapshot, by content
//! and metadata, is brought again with the stage and commit of a delta, and the standby's snapshot is taken
//! again in its place.

use crate::accounts::translated::{Of, Translated};
use crate::delta::completed::Completed;
use crate::delta::landing::lost_in;
use crate::delta::sides::Sides;
use crate::digest::Reading;
use crate::location::directory::open_volume;
use crate::location::place::Place;
use crate::location::target;
use crate::location::text::Location;
use crate::options::{SshOptions, Terms};
use crate::report::checks::{Mended, Verified};
use crate::verbs::verify::verify;
use crate::volume::lost::shown;
use crate::volume::recovery::recover;
use crate::volume::rewind::{Rewind, rewind_between};
use crate::volume::{drift, standing};
use snapsync_model::{Error, Kind, Monitor, Result, SnapshotInfo};
use snapsync_snapshot::{LockedVolume, Standby, Volume};
use snapsync_sys::Stat;
use std::path::Path;
use std::time::Instant;

/// Proves that the standby holds what its primary's snapshot holds, and repairs it if it does not. Changes
/// made by hand are kept as a snapshot with `discard_drift`, and refused without it.
pub fn verify_and_mend(
    primary: &Path,
    standby: &Path,
    discard_drift: bool,
    monitor: &Monitor,
) -> Result<Verified> {
    let started = Instant::now();
    let (primary, standby) = (open(primary)?, open(standby)?);
    target::source(primary.root())?;
    target::target(standby.path(), Some(primary.root().path()))?;
    let (mut primary, mut standby) = (primary.lock()?, standby.lock()?);
    let mut recovered = recover(&mut primary, monitor)?;
    recovered.append(&mut recover(&mut standby, monitor)?);
    let (theirs, own) = common(&primary, &standby)?;
    let (set_aside, now) = match drift::find(&mut standby, &own, "drift-", monitor)? {
        None => (None, own.clone()),
        Some(drift) if !discard_drift => return drift.refuse(&standby, DRIFT),
        Some(drift) if standby.lost_in(&own, &drift.probe)?.is_empty() => {
            (Some(drift.discard(&mut standby, &own, monitor)?.0), own.clone())
        }
        // It cannot go back by itself: all comes from the primary.
        Some(drift) => {
            standby.keep(&drift.probe)?;
            (Some(drift.probe.clone()), drift.probe)
        }
    };
    let (a, b) = (primary.address_of(&theirs.id.to_string()), standby.path().to_path_buf());
    let look = || verify(&a, &b, Reading::All, &SshOptions::default(), monitor);
    let found = look()?;
    let mut mended = Mended { set_aside, recovered, ..Mended::default() };
    let mut report = if found.equal {
        found
    } else {
        mended.bring((&primary, &theirs), &mut standby, (&now, &own), monitor)?;
        standby.forget_absent()?;
        (mended.difference_count, mended.differences) = (found.difference_count, found.differences);
        let again = look()?;
        Verified { notes: [found.notes, again.notes.clone()].concat(), ..again }
    };
    forget(&mut primary, &standby)?;
    report.a = primary.address_of(&theirs.name);
    report.mended = Some(mended);
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The advice about changes made by hand.
const DRIFT: &str = "with --discard-drift they are kept as a snapshot, and the standby goes back first";

fn open(path: &Path) -> Result<Volume> {
    if Location::parse(path)?.host.is_some() {
        return Err(Error::usage(
            format!("{} is on another machine, and only what is on this one is mended here", path.display()),
            "rounds mend a standby over ssh: `snapsync sync` with a short --scrub finds what differs, and \
             the next brings it",
        ));
    }
    open_volume(path)
}

/// The standby's newest snapshot, as recorded on each side.
fn common(primary: &Volume, standby: &Volume) -> Result<(SnapshotInfo, SnapshotInfo)> {
    let (p, s) = (primary.info(), standby.info());
    let (show, of) = (s.path.display(), p.path.display());
    standing::expect_standby(&show.to_string(), s.role)?;
    if p.lineage != s.lineage || p.epoch < s.epoch {
        return Err(Error::refused(
            format!("{show} is not a standby of {of}"),
            "name a standby after its own primary",
        ));
    }
    let newest = standby.line()?.pop();
    let of_both =
        newest.and_then(|own| Some((primary.line().ok()?.into_iter().find(|s| s.id == own.id)?, own)));
    of_both.ok_or_else(|| {
        Error::refused(
            format!("{of} does not have the newest snapshot of {show}"),
            format!("`snapsync rejoin {show} {of}` goes back to one that both have"),
        )
    })
}

impl Mended {
    /// Makes the standby's tree, which is what `now` says, what the primary's snapshot is.
    fn bring(
        &mut self,
        (primary, theirs): (&Volume, &SnapshotInfo),
        standby: &mut LockedVolume,
        (now, own): (&SnapshotInfo, &SnapshotInfo),
        monitor: &Monitor,
    ) -> Result<()> {
        let old = Place::Directory(standby.root().again()?);
        let new = Place::Snapshot(Box::new((primary.clone(), theirs.clone())));
        let sides = Sides::of_places(&old, &new, monitor)?;
        let sides = completed(sides, (primary, theirs), standby, monitor)?.with_target(|side| {
            let side = Translated::by(primary.accounts_of(theirs), Of::Lineage, side);
            Translated::by(standby.accounts(), Of::Volume, side)
        });
        // What somebody has put into the tree since it was looked at is in these sides, as if it were the
        // standby's own.
        if let Some(drift) = drift::find(standby, now, "drift-", monitor)? {
            return drift.refuse(standby, DRIFT);
        }
        let rewind = Rewind { base: now, to: own, result: own, terms: Terms::default() };
        let rewound = rewind_between(standby, &sides, &rewind, monitor)?;
        (self.changes, self.data_bytes) = (rewound.counts, rewound.counts.data_bytes);
        self.losses = rewound.losses;
        Ok(())
    }
}

/// What the primary has lost the bytes of cannot be brought: the standby keeps what it has of that, where the
/// size is right. Nothing proves those bytes, and the comparison tells each such file.
fn completed(
    sides: Sides,
    (primary, theirs): (&Volume, &SnapshotInfo),
    standby: &Volume,
    monitor: &Monitor,
) -> Result<Sides> {
    let mut kept = Vec::new();
    for inode in lost_in(&*sides.target, usize::MAX, monitor)? {
        let found = standby.root().entry(&sides.target.path(&inode)?).and_then(|entry| entry.stat());
        let size = |stat: &Stat| stat.attributes.size == inode.attributes.size;
        if found.is_ok_and(|stat| stat.kind == Kind::File && size(&stat)) {
            kept.push(inode);
        }
    }
    if kept.is_empty() {
        return Ok(sides);
    }
    monitor.note(format!(
        "{} has lost the bytes of {}: {} keeps what it has of them, which nothing proves",
        primary.address_of(&theirs.name).display(),
        shown(primary, theirs, &kept, monitor)?,
        standby.path().display()
    ));
    let tree = standby.root().again()?;
    Ok(sides.with_target(|target| {
        let mut completed = Completed::new(target);
        completed.take(tree, &kept);
        Box::new(completed)
    }))
}

/// Files that scrubs had found were repaired with the rest.
fn forget(primary: &mut LockedVolume, standby: &Volume) -> Result<()> {
    let Some(mut known) = primary.standbys().get(&standby.info().id).cloned() else { return Ok(()) };
    match &mut known {
        Standby { scrub: Some(scrub), .. } if !scrub.pending.is_empty() => scrub.pending.clear(),
        _ => return Ok(()),
    }
    primary.remember_standby(standby.info().id, known)
}
