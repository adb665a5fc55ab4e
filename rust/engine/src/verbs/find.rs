//! Looks for paths in all snapshots of a volume or a log, also in those that are gone.

use crate::log::past::Past;
use crate::log::window::Window;
use crate::report::history::{FoundPath, PastSnapshot, Sought};
use snapsync_history::{SeenAs, Timeline, places};
use snapsync_model::{Monitor, RelPath, Result, Selection, Stage};
use snapsync_sys::Root;
use std::path::Path;
use std::time::Instant;

/// The selected paths that any snapshot of the window has, each once. With `deleted` only those that are not
/// in the tree any more.
pub fn find(
    place: &Path,
    selection: &Selection,
    deleted: bool,
    window: &Window,
    monitor: &Monitor,
) -> Result<Sought> {
    let started = Instant::now();
    monitor.start(Stage::Compare, 0);
    let found = Past::ask(place, monitor, |past| find_in(past, selection, deleted, window, monitor))?;
    Ok(Sought { seconds: started.elapsed().as_secs_f64(), ..found })
}

/// The same of a volume that is open.
pub(crate) fn find_at(
    root: &Root,
    selection: &Selection,
    deleted: bool,
    window: &Window,
    monitor: &Monitor,
) -> Result<Sought> {
    let started = Instant::now();
    let found = Past::ask_in(root, monitor, |past| find_in(past, selection, deleted, window, monitor))?;
    Ok(Sought { seconds: started.elapsed().as_secs_f64(), ..found })
}

fn find_in(
    past: Past,
    selection: &Selection,
    deleted: bool,
    window: &Window,
    monitor: &Monitor,
) -> Result<Sought> {
    let window = window.steps(&past)?;
    let names = |name: &[u8]| selection.may_match_name(name);
    let timeline = Timeline::play(past.steps(), names, monitor)?;
    let is_wanted = |path: &RelPath, seen: &SeenAs| selection.matches(path, seen.kind, &seen.attributes);
    let mut found = Vec::new();
    for place in places(&timeline, &names, &is_wanted)? {
        let overlaps = |(first, last): &(u32, u32)| *first < window.end && *last >= window.start;
        if !place.stretches.iter().any(overlaps) {
            continue;
        }
        let is_deleted = !past.is_there(&place.path, place.last());
        if deleted && !is_deleted {
            continue;
        }
        let moment =
            |step: u32| PastSnapshot::of(&past.steps()[step as usize], past.snapshot(step).is_some());
        let sequence = |step: u32| past.steps()[step as usize].header.sequence.unwrap_or_default();
        found.push(FoundPath {
            path: (&place.path).into(),
            kind: place.seen.kind.name(),
            size: place.seen.attributes.size,
            mtime: place.seen.attributes.mtime,
            first: moment(place.first()),
            last: moment(place.last()),
            stretches: place.stretches.iter().map(|(a, b)| (sequence(*a), sequence(*b))).collect(),
            deleted: is_deleted,
            restorable: past.newest_of(&place.stretches).map(|snapshot| snapshot.name.clone()),
        });
    }
    Ok(Sought {
        verb: "find",
        patterns: selection.patterns.iter().map(|pattern| pattern.text.clone()).collect(),
        found,
        searched: window.len(),
        volume: past.volume,
        notes: monitor.take_notes(),
        seconds: 0.0,
    })
}
