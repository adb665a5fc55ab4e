//! Where a file lay at each step, under whichever names.

use crate::directories::{Lay, STILL, TOP};
use crate::step::Step;
use crate::timeline::{Timeline, Who};
use snapsync_model::{Monitor, RelPath, Result};
use std::collections::BTreeSet;

/// For each step the path that what is called `path` had in its snapshot. A path that stays is followed by
/// itself, whichever inode has it: many programs replace a file to change it. Where it comes or goes, its
/// inode is followed to the other path.
pub fn trace(steps: &[Step], path: &RelPath, monitor: &Monitor) -> Result<Vec<RelPath>> {
    let Some((_, name)) = path.split() else { return Ok(vec![path.clone(); steps.len()]) };
    let mut names: BTreeSet<Box<[u8]>> = BTreeSet::from([name.into()]);
    loop {
        let timeline = Timeline::play(steps, |name| names.contains(name), monitor)?;
        let lays = Lays::of(&timeline)?;
        let (traced, met) = lays.traced(path, timeline.steps);
        let further = traced.iter().filter_map(|path| path.split().map(|(_, name)| name.into()));
        let further: Vec<Box<[u8]>> =
            further.chain(timeline.names_of(&met)).filter(|name| !names.contains(name)).collect();
        if further.is_empty() {
            return Ok(traced);
        }
        names.extend(further);
    }
}

/// Everything of a timeline that may be asked for, and where it lay.
struct Lays(Vec<(Who, Lay)>);

impl Lays {
    fn of(timeline: &Timeline) -> Result<Lays> {
        let mut all = Vec::new();
        for node in TOP + 1..timeline.directories.len() {
            let lays = timeline.directories.lays(node, 0, STILL)?;
            all.extend(lays.into_iter().map(|lay| (Who::Directory(node), lay)));
        }
        for entry in &timeline.entries {
            let lays = timeline.directories.lays_of(&entry.stay, 0, STILL)?;
            all.extend(lays.into_iter().map(|lay| (Who::File(entry.file), lay)));
        }
        all.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
        Ok(Lays(all))
    }

    /// What had a path in the snapshot of a step.
    fn who(&self, path: &RelPath, step: u32) -> Option<Who> {
        let first = self.0.partition_point(|(_, lay)| lay.path < *path);
        let same = self.0[first..].iter().take_while(|(_, lay)| lay.path == *path);
        same.filter(|(_, lay)| (lay.from..lay.until).contains(&step)).map(|(who, _)| *who).next()
    }

    fn path_of(&self, who: Who, step: u32) -> Option<&RelPath> {
        let mut theirs = self.0.iter().filter(|(found, _)| *found == who);
        theirs.find(|(_, lay)| (lay.from..lay.until).contains(&step)).map(|(_, lay)| &lay.path)
    }

    /// The paths, and all that was followed.
    fn traced(&self, path: &RelPath, steps: u32) -> (Vec<RelPath>, BTreeSet<Who>) {
        let mut traced = vec![path.clone(); steps as usize];
        let mut met = BTreeSet::new();
        let Some(known) = (0..steps).rev().find(|step| self.who(path, *step).is_some()) else {
            return (traced, met);
        };
        let mut follow = |from: u32, to: u32, current: RelPath| {
            let who = self.who(&current, from);
            met.extend(who);
            if self.who(&current, to).is_some() {
                return current;
            }
            who.and_then(|who| self.path_of(who, to)).cloned().unwrap_or(current)
        };
        let mut current = path.clone();
        for step in (0..known).rev() {
            current = follow(step + 1, step, current);
            traced[step as usize] = current.clone();
        }
        current = path.clone();
        for step in known + 1..steps {
            current = follow(step - 1, step, current);
            traced[step as usize] = current.clone();
        }
        (traced, met)
    }
}
