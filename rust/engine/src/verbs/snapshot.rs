//! Takes a single snapshot.

use crate::location::directory::open_directory;
use crate::location::target;
use crate::options::Hooks;
use crate::process::hooks as commands;
use crate::report::snapshots::Taken;
use crate::volume::made::tell_what_it_lies_in;
use crate::volume::recovery;
use snapsync_model::{Monitor, Result, Role, Stage};
use snapsync_snapshot::{Request, Volume, name_is_free};
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

/// Takes a snapshot, with `hooks` around it; a directory without a store becomes a primary. `keep_going`
/// passes over what cannot be read.
pub fn snapshot(
    path: &Path,
    name: Option<String>,
    hooks: &Hooks,
    keep_going: bool,
    monitor: &Monitor,
) -> Result<Taken> {
    let started = Instant::now();
    let root = open_directory(path)?;
    let found = Volume::find_in(root.again()?)?;
    let taken = found.as_ref().map_or_else(|| Ok(Vec::new()), Volume::snapshots)?;
    name.iter().try_for_each(|name| name_is_free(name, &taken))?;
    let volume = match found {
        Some(volume) => volume,
        None => {
            target::source(&root)?;
            tell_what_it_lies_in(&root, monitor);
            Volume::init_in(root, Role::Primary, Uuid::new_v4(), 1)?
        }
    };
    let (mut volume, _) = recovery::lock(&volume, monitor)?;
    volume.expect_primary("take a snapshot of")?;
    monitor.start(Stage::Snapshot, 0);
    commands::can_be_around(&volume, hooks)?;
    if let Some(done) = commands::end_what_was_cut(&volume, hooks, monitor)? {
        monitor.note(done);
    }
    let around = commands::around(&volume, hooks, monitor)?;
    let request = Request::New { name, subset: None };
    let snapshot = monitor.passing_over(keep_going, || volume.take_around(request, &around, monitor))?;
    Ok(Taken {
        verb: "snapshot",
        volume: volume.info(),
        snapshot,
        skipped: monitor.take_skipped(),
        notes: monitor.take_notes(),
        seconds: started.elapsed().as_secs_f64(),
    })
}
