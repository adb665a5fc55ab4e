//! The life of one path: of whatever had it, under all its names.

use crate::directories::{Lay, STILL, TOP};
use crate::places::{Stretch, joined};
use crate::step::Step;
use crate::timeline::{Timeline, Told, Who};
use snapsync_manifest::Brief;
use snapsync_model::{Attributes, Counts, Kind, Monitor, RelPath, Result};
use std::collections::{BTreeMap, BTreeSet};

/// What a step did to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Created,
    Changed,
    /// Only its attributes, or what is beneath it.
    Touched,
    Renamed,
    /// A directory above it was renamed.
    Moved,
    /// It got another name, or lost one of several.
    Linked,
    Deleted,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            What::Created => "created",
            What::Changed => "changed",
            What::Touched => "touched",
            What::Renamed => "renamed",
            What::Moved => "moved",
            What::Linked => "linked",
            What::Deleted => "deleted",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Event {
    pub step: u32,
    pub what: What,
    pub kind: Kind,
    /// Its names after the step and before it.
    pub paths: Vec<RelPath>,
    pub old_paths: Vec<RelPath>,
    pub old: Option<Attributes>,
    pub new: Option<Attributes>,
    pub data_bytes: u64,
    /// What changed beneath a directory.
    pub beneath: Option<Counts>,
}

#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Oldest first.
    pub events: Vec<Event>,
    /// The last path of what had the path last, and the snapshots that have it there.
    pub last: Option<(RelPath, Vec<Stretch>)>,
}

/// Rows of something and those beneath it, by their steps.
type Beneath = BTreeMap<u32, Counts>;

/// What became of whatever had `path` at any time. Nothing ever did if there is no event.
pub fn life(steps: &[Step], path: &RelPath, monitor: &Monitor) -> Result<Life> {
    let Some((_, name)) = path.split() else { return Ok(Life::default()) };
    let mut names: BTreeSet<Box<[u8]>> = BTreeSet::from([name.into()]);
    loop {
        let timeline = Timeline::play_and_tell(steps, |name| names.contains(name), monitor)?;
        let who = timeline.who_had(path)?;
        let all = who.keys().copied().collect();
        let further: Vec<_> = timeline.names_of(&all).filter(|name| !names.contains(name)).collect();
        if further.is_empty() {
            return timeline.life_of(&who, steps, monitor);
        }
        names.extend(further);
    }
}

impl Timeline {
    /// All that had a path at any time, and since when.
    fn who_had(&self, path: &RelPath) -> Result<BTreeMap<Who, u32>> {
        let mut found = BTreeMap::new();
        let last = path.split().map(|(_, name)| name);
        let mut add = |who: Who, lays: Vec<Lay>| {
            for lay in lays.iter().filter(|lay| lay.path == *path) {
                let from = found.entry(who).or_insert(lay.from);
                *from = lay.from.max(*from);
            }
        };
        for node in TOP + 1..self.directories.len() {
            for stay in self.directories.stays(node).iter().filter(|stay| Some(&*stay.name) == last) {
                add(Who::Directory(node), self.directories.lays_of(stay, 0, STILL)?);
            }
        }
        for entry in self.entries.iter().filter(|entry| Some(&*entry.stay.name) == last) {
            add(Who::File(entry.file), self.directories.lays_of(&entry.stay, 0, STILL)?);
        }
        Ok(found)
    }

    fn lays_of_who(&self, who: Who) -> Result<Vec<Lay>> {
        match who {
            Who::Directory(node) => self.directories.lays(node, 0, STILL),
            Who::File(file) => {
                let mut lays = Vec::new();
                for entry in self.entries.iter().filter(|entry| entry.file == file) {
                    lays.extend(self.directories.lays_of(&entry.stay, 0, STILL)?);
                }
                Ok(lays)
            }
        }
    }

    fn life_of(&self, who: &BTreeMap<Who, u32>, steps: &[Step], monitor: &Monitor) -> Result<Life> {
        let mut life = Life::default();
        let mut newest = None;
        for (who, since) in who {
            let lays = self.lays_of_who(*who)?;
            let beneath = match who {
                Who::Directory(_) => beneath(&lays, steps, monitor)?,
                Who::File(_) => Beneath::new(),
            };
            life.events.extend(self.events_of(*who, &lays, beneath));
            if newest.is_none_or(|newest| newest < *since) {
                newest = Some(*since);
                life.last = last_of(&lays, self.steps);
            }
        }
        life.events.sort_by_key(|event| event.step);
        Ok(life)
    }

    fn events_of(&self, who: Who, lays: &[Lay], mut beneath: Beneath) -> Vec<Event> {
        let rows = self.told.iter().flatten().filter(|told| told.who == who);
        let rows: BTreeMap<u32, &Told> = rows.map(|told| (told.step, told)).collect();
        let ends = lays.iter().map(|lay| lay.until).filter(|until| *until < self.steps);
        let at: BTreeSet<u32> = rows
            .keys()
            .copied()
            .chain(lays.iter().map(|lay| lay.from))
            .chain(ends)
            .chain(beneath.keys().copied())
            .collect();
        let kind = match who {
            Who::Directory(_) => Kind::Directory,
            Who::File(file) => self.kind_of(file),
        };
        let mut event = |step: u32| {
            let told = rows.get(&step).copied();
            let paths = paths_at(lays, step);
            let old_paths = if step == 0 { Vec::new() } else { paths_at(lays, step - 1) };
            Event {
                step,
                what: what(told, &paths, &old_paths),
                kind,
                paths,
                old_paths,
                old: told.and_then(|told| told.old),
                new: told.and_then(|told| told.new),
                data_bytes: told.map_or(0, |told| told.data_bytes),
                beneath: beneath.remove(&step).filter(|counts| counts.rows > 0),
            }
        };
        let is_something = |event: &Event| event.what != What::Touched || event.says_something();
        at.into_iter().map(&mut event).filter(is_something).collect()
    }
}

impl Event {
    /// A row of a directory may only anchor the names of others.
    fn says_something(&self) -> bool {
        let but_time =
            |side: Option<Attributes>| side.map(|a| Attributes { mtime: 0, far_second: 0, size: 0, ..a });
        let is_directory = self.kind == Kind::Directory;
        self.beneath.is_some() || !is_directory || but_time(self.old) != but_time(self.new)
    }
}

fn paths_at(lays: &[Lay], step: u32) -> Vec<RelPath> {
    let mut paths: Vec<RelPath> =
        lays.iter().filter(|lay| (lay.from..lay.until).contains(&step)).map(|lay| lay.path.clone()).collect();
    paths.sort();
    paths
}

fn what(told: Option<&Told>, paths: &[RelPath], old_paths: &[RelPath]) -> What {
    let (added, removed) = told.map_or((false, false), |told| (told.added, told.removed));
    match (old_paths.is_empty(), paths.is_empty()) {
        (true, _) => What::Created,
        (false, true) => What::Deleted,
        _ if added && removed => What::Renamed,
        _ if added || removed => What::Linked,
        _ if paths != old_paths => What::Moved,
        _ if told.is_some_and(|told| told.flags.data) => What::Changed,
        _ => What::Touched,
    }
}

fn last_of(lays: &[Lay], steps: u32) -> Option<(RelPath, Vec<Stretch>)> {
    let last = lays.iter().max_by_key(|lay| (lay.until, lay.from))?;
    let mut same: Vec<Stretch> = lays
        .iter()
        .filter(|lay| lay.path == last.path)
        .map(|lay| (lay.from, lay.until.min(steps) - 1))
        .collect();
    same.sort_unstable();
    Some((last.path.clone(), joined(same.into_iter())))
}

/// Counts what changed beneath a directory, wherever it lay.
fn beneath(lays: &[Lay], steps: &[Step], monitor: &Monitor) -> Result<Beneath> {
    let mut found = Beneath::new();
    for (at, step) in (0..).zip(steps) {
        monitor.check()?;
        let (new, old) = (paths_at(lays, at), if at == 0 { Vec::new() } else { paths_at(lays, at - 1) });
        if new.is_empty() && old.is_empty() {
            continue;
        }
        let is_in = |path: Option<&[u8]>, above: &[RelPath]| {
            path.is_some_and(|path| above.iter().any(|above| is_beneath(path, above.as_bytes())))
        };
        let counts = found.entry(at).or_default();
        let wanted = |row: &Brief<'_>| is_in(row.path, &new) || is_in(row.old_path, &old);
        for change in step.read()?.only(wanted) {
            let change = change?;
            if change.flags.any() {
                counts.add(&change);
            }
        }
    }
    Ok(found)
}

fn is_beneath(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&b'/'))
}
