//! Tells what changed, round by round, or what became of one path.

use crate::log::past::Past;
use crate::log::window::Window;
use crate::report::history::{
    Lived, Logged, LoggedEvent, LoggedPath, LoggedRound, PastSnapshot, RestorableFrom, ShownPath,
};
use snapsync_history::{Step, life};
use snapsync_model::{Change, Error, Monitor, RelPath, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The paths of one round that are shown.
const SHOWN: usize = 100;

/// The rounds of a volume or a log in a window of time, newest first, and no more than `most` of them. With
/// `stat` each has some of the paths that changed in it.
pub fn log(
    place: &Path,
    window: &Window,
    most: Option<usize>,
    stat: bool,
    monitor: &Monitor,
) -> Result<Logged> {
    Past::ask(place, monitor, |past| rounds_of(past, window, most, stat, monitor))
}

fn rounds_of(
    past: Past,
    window: &Window,
    most: Option<usize>,
    stat: bool,
    monitor: &Monitor,
) -> Result<Logged> {
    let steps = window.steps(&past)?;
    let mut rounds = Vec::new();
    for at in steps.clone().rev().take(most.unwrap_or(usize::MAX)) {
        monitor.check()?;
        let step = &past.steps()[at as usize];
        let (paths, more) = if stat { paths(step, monitor)? } else { (Vec::new(), 0) };
        rounds.push(LoggedRound {
            snapshot: PastSnapshot::of(step, past.snapshot(at).is_some()),
            first: step.header.base.is_empty(),
            after_gap: step.after_gap,
            changes: step.counts,
            data_bytes: step.counts.data_bytes,
            paths,
            more,
        });
    }
    let searched = steps.len();
    Ok(Logged { verb: "log", volume: past.volume, rounds, searched, notes: monitor.take_notes() })
}

fn paths(step: &Step, monitor: &Monitor) -> Result<(Vec<LoggedPath>, u64)> {
    let (mut paths, mut more) = (Vec::new(), 0);
    let rows = step.read().map(|reader| reader.only(|row| row.flags.any()));
    let read = rows.and_then(|mut rows| {
        rows.try_for_each(|change| {
            let change = change?;
            if paths.len() < SHOWN {
                paths.push(shown(&change));
            } else {
                more += 1;
            }
            Ok(())
        })
    });
    match read {
        Err(error @ Error::Integrity { .. }) => monitor.note(error.sentence()),
        other => other?,
    }
    Ok((paths, more))
}

fn shown(change: &Change) -> LoggedPath {
    let flags = change.flags;
    let what = match flags {
        flags if flags.created => "created",
        flags if flags.deleted => "deleted",
        flags if flags.renamed => "renamed",
        flags if flags.data => "changed",
        flags if flags.links => "linked",
        _ => "touched",
    };
    let root = RelPath::root();
    let path = change.path.as_ref().or(change.old_path.as_ref()).unwrap_or(&root);
    LoggedPath {
        what,
        kind: change.kind.name(),
        path: path.into(),
        old_path: change.old_path.as_ref().filter(|old| *old != path).map(ShownPath::from),
        size: change.new.map(|new| new.size),
        old_size: change.old.map(|old| old.size),
    }
}

/// What became of whatever had a path of the volume at any time, under all its names.
pub fn log_of(place: &Path, path: &Path, window: &Window, monitor: &Monitor) -> Result<Lived> {
    let path = inside(place, path)?;
    Past::ask(place, monitor, |past| life_in(past, &path, window, monitor))
}

fn life_in(past: Past, path: &RelPath, window: &Window, monitor: &Monitor) -> Result<Lived> {
    let life = life(past.steps(), path, monitor)?;
    if life.events.is_empty() {
        let (show, volume) = (path.display(), past.volume.path.display());
        let searched = past.steps().len();
        let name = path.as_path().file_name().unwrap_or_default().display();
        return Err(Error::usage(
            format!("nothing ever was at {show} in {volume}, as far as {searched} snapshots tell"),
            format!(
                "its directory may have had another name: `snapsync find {volume} '{name}'` looks for it \
                 everywhere"
            ),
        ));
    }
    let shown = window.steps(&past)?;
    let events = life.events.iter().rev().filter(|event| shown.contains(&event.step));
    let moment = |step: u32| PastSnapshot::of(&past.steps()[step as usize], past.snapshot(step).is_some());
    let events = events.map(|event| LoggedEvent::of(event, moment(event.step))).collect();
    let last = life.last.as_ref();
    let exists = last
        .is_some_and(|(path, stretches)| past.is_there(path, stretches.last().map_or(0, |(_, last)| *last)));
    let restore = last.filter(|_| !exists).and_then(|(path, stretches)| {
        let snapshot = past.newest_of(stretches)?;
        let step = past.steps().iter().find(|step| step.header.target == snapshot.id.to_string())?;
        Some(RestorableFrom { snapshot: PastSnapshot::of(step, true), path: path.into() })
    });
    Ok(Lived {
        verb: "log",
        path: path.into(),
        events,
        exists,
        restore,
        searched: past.steps().len(),
        volume: past.volume,
        notes: monitor.take_notes(),
    })
}

/// A path that was given beneath the volume, or from its root.
fn inside(place: &Path, path: &Path) -> Result<RelPath> {
    let absolute = std::path::absolute(path).ok();
    let volume = std::path::absolute(place).ok();
    let beneath = absolute.zip(volume).and_then(|(path, volume)| {
        let resolved = volume.canonicalize().ok();
        let from = |root: &Path| path.strip_prefix(root).ok().map(Path::to_path_buf);
        from(&volume).or_else(|| resolved.and_then(|root| from(&root)))
    });
    let path = match beneath {
        Some(beneath) if path.is_absolute() || path.exists() => beneath,
        _ => path.strip_prefix("./").unwrap_or(path).to_path_buf(),
    };
    let text = path.as_os_str().as_bytes();
    let text = text.strip_suffix(b"/").unwrap_or(text);
    RelPath::new(text).map_err(|_| {
        Error::usage(
            format!("{} is no path in {}", path.display(), place.display()),
            "name it from the root of the volume, as in docs/letter.odt",
        )
    })
}
