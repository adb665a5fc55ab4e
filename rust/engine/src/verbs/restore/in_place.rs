//! Restores a volume's tree to one of its snapshots, in place.

use crate::delta::sides::Sides;
use crate::location::place::Place;
use crate::options::{Supply, Terms};
use crate::remote::supply;
use crate::report::snapshots::Restored;
use crate::volume::replacement::keep_in_place;
use crate::volume::rewind::{Rewind, rewind_between};
use crate::volume::{recovery, standing};
use snapsync_model::{Error, Monitor, Result, Stage};
use snapsync_snapshot::{Request, clear_replacement, name_is_free};
use std::path::Path;
use std::time::Instant;

/// Makes the tree of a primary equal to `VOLUME@SNAP`; only differences are written. The state before is kept
/// as a snapshot, and the new state is one too.
pub fn restore(
    address: &Path,
    name: Option<String>,
    terms: Terms,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<Restored> {
    let started = Instant::now();
    let Place::Snapshot(named) = Place::parse(address)? else {
        return Err(Error::usage(format!("{} names no snapshot", address.display()), "write VOLUME@SNAP"));
    };
    let (volume, from) = *named;
    let (mut volume, recovered) = recovery::lock(&volume, monitor)?;
    standing::expect_restorable(&volume)?;
    let from = volume.find_snapshot(&from.id.to_string())?;
    if from.subset != *volume.subset() {
        return Err(Error::refused(
            format!(
                "snapshot {} was taken with other patterns than {} has now",
                from.name,
                volume.path().display()
            ),
            "what it does not hold would be deleted: restore it elsewhere with --to DIR",
        ));
    }
    name.iter().try_for_each(|name| volume.snapshots().and_then(|taken| name_is_free(name, &taken)))?;
    monitor.start(Stage::Snapshot, 0);
    let kept = volume.unused_name("before-restore-")?;
    let before = volume.take(Request::New { name: Some(kept), subset: None }, monitor)?;
    keep_in_place(&volume, &before, &|| volume.unsettled_in(&before), monitor)?;
    let result = volume.describe(Request::New { name, subset: None })?;
    monitor.start(Stage::Compare, 0);
    let turn = Rewind { base: &before, to: &from, result: &result, terms };
    let rewound = Sides::between(&volume, &before, &from, monitor)
        .and_then(|sides| supply::complete(sides, &volume, &from, supply, monitor))
        .and_then(|sides| rewind_between(&mut volume, &sides, &turn, monitor));
    let cleared = clear_replacement(volume.root());
    let rewound = rewound?;
    cleared?;
    Ok(Restored {
        verb: "restore",
        volume: volume.info(),
        source: from,
        before,
        snapshot: rewound.snapshot,
        changes: rewound.counts,
        data_bytes: rewound.counts.data_bytes,
        losses: rewound.losses,
        recovered,
        notes: monitor.take_notes(),
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}
