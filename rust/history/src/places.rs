//! The paths of a history that were asked for, each once.

use crate::directories::{Lay, STILL};
use crate::looks::SeenAs;
use crate::timeline::Timeline;
use snapsync_model::{RelPath, Result};
use std::collections::BTreeMap;

/// Successive snapshots, by the numbers of their steps: the first and the last.
pub type Stretch = (u32, u32);

/// A path, and the snapshots that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastPlace {
    pub path: RelPath,
    /// What the last snapshot that has it holds there.
    pub seen: SeenAs,
    /// In order, and apart.
    pub stretches: Vec<Stretch>,
}

impl PastPlace {
    pub fn first(&self) -> u32 {
        self.stretches.first().map_or(0, |(first, _)| *first)
    }

    pub fn last(&self) -> u32 {
        self.stretches.last().map_or(0, |(_, last)| *last)
    }

    /// Whether the snapshot of a step has it.
    pub fn is_in(&self, step: u32) -> bool {
        self.stretches.iter().any(|(first, last)| (*first..=*last).contains(&step))
    }
}

/// All paths that are wanted, in their order; `names` tells which names may be the last of one.
pub fn places(
    timeline: &Timeline,
    names: &dyn Fn(&[u8]) -> bool,
    wanted: &dyn Fn(&RelPath, &SeenAs) -> bool,
) -> Result<Vec<PastPlace>> {
    let mut found = Found { steps: timeline.steps, of: BTreeMap::new() };
    for node in 1..timeline.directories.len() {
        for stay in timeline.directories.stays(node).iter().filter(|stay| names(&stay.name)) {
            for lay in timeline.directories.lays_of(stay, 0, STILL)? {
                let Some(seen) = timeline.directory_before(node, lay.until) else { continue };
                if wanted(&lay.path, &seen) {
                    found.add(lay, seen);
                }
            }
        }
    }
    for entry in timeline.entries.iter().filter(|entry| names(&entry.stay.name)) {
        for lay in timeline.directories.lays_of(&entry.stay, 0, STILL)? {
            let seen = timeline.file_before(entry.file, lay.until);
            if wanted(&lay.path, &seen) {
                found.add(lay, seen);
            }
        }
    }
    Ok(found.finish())
}

struct Found {
    steps: u32,
    of: BTreeMap<RelPath, Vec<(Stretch, SeenAs)>>,
}

impl Found {
    fn add(&mut self, lay: Lay, seen: SeenAs) {
        let stretch = (lay.from, lay.until.min(self.steps) - 1);
        self.of.entry(lay.path).or_default().push((stretch, seen));
    }

    fn finish(self) -> Vec<PastPlace> {
        let place = |(path, mut all): (RelPath, Vec<(Stretch, SeenAs)>)| {
            all.sort_by_key(|(stretch, _)| *stretch);
            let seen = all.last().map(|(_, seen)| *seen)?;
            Some(PastPlace { path, seen, stretches: joined(all.into_iter().map(|(stretch, _)| stretch)) })
        };
        self.of.into_iter().filter_map(place).collect()
    }
}

/// Those that follow each other without a snapshot between them are one.
pub(crate) fn joined(stretches: impl Iterator<Item = Stretch>) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for (first, last) in stretches {
        match all.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => all.push((first, last)),
        }
    }
    all
}
