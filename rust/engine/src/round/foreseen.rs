//! What a standby would make of a plan, found without writing anything.

use crate::accounts::arriving::Finding;
use crate::delta::staging::{StageTarget, too_strict};
use crate::location::target::{Found, Target};
use crate::options::DriftOptions;
use crate::round::steps::{Outlook, Prospect, Refusal};
use crate::volume::owned::own_in_plan;
use crate::volume::{drift, let_in};
use snapsync_apply::{Ground, expect_untouched, foresee};
use snapsync_model::{Context, Error, Monitor, Provider, Result, SnapshotInfo};
use snapsync_snapshot::Volume;
use snapsync_sys::{Named, Root, btrfs};
use std::fs::File;

/// What to do about changes by hand.
pub(super) const DRIFT: &str = "sync with --discard-drift keeps them as a snapshot and goes back first";

/// On Btrfs it is cheap to find what was written since; elsewhere each path is checked before it is touched.
pub(super) fn looks_for_drift(volume: &Volume, options: DriftOptions) -> bool {
    let is_cheap = volume.info().provider == Provider::Btrfs && btrfs::may_search(volume.root().fd());
    is_cheap || options.check || options.discard_drift
}

/// Refuses changes by hand, or notes them and tells that they would be put aside first.
pub(super) fn goes_back(
    volume: &Volume,
    newest: &SnapshotInfo,
    options: DriftOptions,
    monitor: &Monitor,
) -> Result<bool> {
    if !looks_for_drift(volume, options) {
        return Ok(false);
    }
    let Some(found) = drift::foresee(volume, newest, monitor)? else { return Ok(false) };
    if !options.discard_drift {
        return Err(found.refusal(volume, DRIFT));
    }
    monitor.note(format!(
        "{} would go back first, and keep as a snapshot: {}; where that has overwritten bytes of which no \
         older copy is there, files are brought whole, and more than is told here",
        volume.path().display(),
        found.paths()
    ));
    Ok(true)
}

/// `is_rewound` says that its tree would be its newest snapshot again first.
pub(super) fn outlook(
    target: &Target,
    (is_rewound, drift): (bool, DriftOptions),
    prospect: Prospect<'_>,
    monitor: &Monitor,
) -> Result<Outlook> {
    let Prospect { manifest, subset, names, owners, terms, spares } = prospect;
    if let (Some(volume), Some(subset)) = (&target.volume, subset)
        && let Some(newest) = volume.line()?.pop()
    {
        let_in::foresee(volume, &newest, subset, drift.discard_drift, monitor)?;
    }
    let finding = Finding { names, naming: owners, is_strict: terms.strict, sequence: 0 };
    own_in_plan((target.volume.as_ref(), &target.path), manifest, finding, monitor)?;
    let root = root_of(target)?;
    let ground = target.volume.as_ref().map_or(Ok(Ground::default()), |volume| ground(volume, is_rewound))?;
    let found = foresee(&root, manifest, &ground, monitor)?;
    if let Some(volume) = target.volume.as_ref().filter(|_| !is_rewound) {
        untouched(volume, manifest, monitor)?;
    }
    if !found.is_tried {
        monitor.note(format!(
            "what {} cannot hold, or was changed there by hand, only the round finds out: its file system \
             makes no file without a name to try it on",
            target.path.display()
        ));
    }
    let room = if terms.no_space_check { Ok(()) } else { found.has_room(&root, monitor) };
    let refused = match room {
        _ if terms.strict && !found.losses.is_empty() => {
            Some(Refusal::of(too_strict(&target.path, &found.losses))?)
        }
        Err(error) if spares && matches!(error, Error::NoSpace { .. }) => {
            monitor.note(format!("old snapshots would be deleted first: {}", error.sentence()));
            None
        }
        Err(error) => Some(Refusal::of(error)?),
        Ok(()) => None,
    };
    let (bytes, inodes) = (found.bytes(), found.inodes());
    let losses = found.is_tried.then_some(found.losses);
    Ok(Outlook { losses, bytes, inodes, refused, notes: Vec::new() })
}

/// As `delta::staging::expect_untouched` does in a round.
fn untouched(volume: &Volume, manifest: &dyn Named, monitor: &Monitor) -> Result<()> {
    let Some(base) = volume.line()?.pop() else { return Ok(()) };
    if !volume.keeps_bytes_in_tree(base.id)? {
        return Ok(());
    }
    let has = |file: &File, object| volume.has_bytes_of(file, object);
    expect_untouched(volume.root(), manifest, (&mut |inos| volume.times_of(base.id, inos), &has), monitor)
}

/// The standby, or what it would be made in, under its name.
fn root_of(target: &Target) -> Result<Root> {
    match (&target.found, &target.volume) {
        (_, Some(volume)) => volume.root().again(),
        (Some(Found::Directory(root)), None) => root.again(),
        (Some(Found::Nothing { above, .. }), None) => {
            let above = above.fd().try_clone_to_owned().context("open", above.path())?;
            Ok(Root::of(above, target.path.clone()))
        }
        (None, None) => {
            Err(Error::usage(format!("{} is not there", target.path.display()), "check the path"))
        }
    }
}

fn ground(volume: &Volume, is_rewound: bool) -> Result<Ground> {
    let newest = volume.line()?.pop();
    let StageTarget { store, copies, displaces, unlisted, .. } = StageTarget::of(volume, newest.as_ref())?;
    Ok(Ground { store: Some(store), is_rewound, copies, displaces, unlisted })
}
