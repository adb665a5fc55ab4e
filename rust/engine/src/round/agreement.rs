//! What a round checks before it changes anything, and a plan no less.

use crate::location::target;
use crate::options::{DriftOptions, Options};
use crate::round::commands;
use crate::round::known;
use crate::round::passing::passing_on;
use crate::round::rights::Rights;
use crate::round::steps::{StandbyEnd, StandbyInfo};
use snapsync_model::{Error, Result, Role, SnapshotInfo, Subset};
use snapsync_snapshot::{Volume, name_is_free};
use snapsync_sys::Root;

/// Both ends, as they were found.
pub(super) struct Agreement {
    /// None if the source is no volume yet.
    pub(super) primary: Option<Volume>,
    pub(super) options: Options,
    /// The patterns that were asked for.
    pub(super) subset: Option<Subset>,
    pub(super) looked: StandbyInfo,
}

/// Whether anything follows, or it is only planned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Round,
    Plan,
}

/// Looks at both ends, and refuses what makes no round. A standby that claims to have replaced the primary
/// is remembered by a round.
pub(super) fn agree(
    source: &Root,
    standby: &mut dyn StandbyEnd,
    options: &Options,
    rights: Rights,
    purpose: Purpose,
) -> Result<Agreement> {
    let primary = target::feeding(source)?;
    let options = match &primary {
        Some(volume) if volume.info().role == Role::Standby => passing_on(volume, options)?,
        _ => options.clone(),
    };
    let subset = rights.subset(&options, source, primary.as_ref())?;
    options.keep.check()?;
    commands::fit(&options)?;
    if options.snap.is_some() && (options.name.is_some() || subset.is_some()) {
        return Err(Error::usage(
            "a snapshot that is there already has its name and its patterns",
            "leave out --name and the patterns, or --snap",
        ));
    }
    let drift: Option<DriftOptions> = (purpose == Purpose::Plan).then_some(options.drift);
    let looked = standby.look(primary.as_ref().map(|volume| volume.info().lineage), drift)?;
    let primary = match purpose {
        Purpose::Round => known::fence(primary, &looked, rights)?,
        Purpose::Plan => known::expect_follower(primary, &looked)?,
    };
    known::is_standby_of(&looked, source, primary.as_ref())?;
    if !options.new_standby {
        known::is_there(&looked, primary.as_ref())?;
    }
    looked.expect_reachable()?;
    looked.expect_vacant(options.adopt.is_some())?;
    name_can_be_given(primary.as_ref(), &looked, &options)?;
    if let Some(volume) = &primary {
        history_can_be_set(volume, &options, rights)?;
        if options.history.is_none_or(|history| volume.info().history == Some(history)) {
            commands::can_run(volume, &options)?;
        }
    }
    Ok(Agreement { primary, options, subset, looked })
}

/// Only who may delete older snapshots decides what is kept of them, where there are any.
pub(super) fn history_can_be_set(primary: &Volume, options: &Options, rights: Rights) -> Result<()> {
    let is_other = options.history.is_some_and(|history| primary.info().history != Some(history));
    if !is_other || rights.prunes {
        return Ok(());
    }
    Err(Error::refused(
        format!("what {} keeps of older snapshots is its administrator's", primary.path().display()),
        "leave out --history",
    ))
}

/// Checks a new name. The name of a snapshot whose delta is resumed may be taken.
fn name_can_be_given(primary: Option<&Volume>, looked: &StandbyInfo, options: &Options) -> Result<()> {
    let Some(name) = &options.name else { return Ok(()) };
    let mut taken = primary.map_or_else(|| Ok(Vec::new()), Volume::snapshots)?;
    taken.retain(|snapshot| looked.pending != Some(snapshot.id));
    name_is_free(name, &taken)
}

/// The standby's newest snapshot, which its tree holds; the primary must have it too. `lacks` is what a
/// standby that cannot go back advises.
pub(super) fn common(
    primary: &Volume,
    newest: &SnapshotInfo,
    target: &str,
    lacks: Option<String>,
) -> Result<SnapshotInfo> {
    primary.snapshot(newest.id)?.filter(|snapshot| !snapshot.aside).ok_or_else(|| {
        let source = primary.path().display();
        let advice = lacks.unwrap_or_else(|| {
            format!(
                "if they have an older one in common, `snapsync rejoin {target} {source}` goes back to it; \
                 without any only a new standby can follow: name an empty target"
            )
        });
        let name = &newest.name;
        Error::refused(format!("{source} does not have snapshot {name}, the newest of {target}"), advice)
    })
}

/// Refuses a snapshot that is there already and does not come after what the standby holds.
pub(super) fn can_go_on(base: Option<&SnapshotInfo>, snapshot: &SnapshotInfo, target: &str) -> Result<()> {
    if snapshot.aside || base.is_some_and(|base| base.sequence > snapshot.sequence) {
        return Err(Error::refused(
            format!("{target} cannot go on to snapshot {} from what it holds", snapshot.name),
            "name a newer one with --snap, or sync without it; `snapsync list` shows them",
        ));
    }
    Ok(())
}
