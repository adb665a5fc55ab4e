//! Checks whether the sources of a manifest's clones exist.

use crate::vet::claim::{Attempt, Memory};
use snapsync_model::{Change, End, Kind, Op, Source};
use std::collections::{BTreeMap, BTreeSet};

/// The data that clones take their bytes from.
#[derive(Default)]
pub(super) struct Sources {
    base_asked: BTreeSet<u64>,
    target_asked: BTreeSet<u64>,
    /// The sizes of files in the base.
    base: BTreeMap<u64, u64>,
    /// Data that travels, as starts and ends.
    target: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl Sources {
    pub(super) fn ask(&mut self, change: &Change) {
        for source in change.extents.iter().filter_map(|extent| extent.source) {
            match source.end {
                End::Base => self.base_asked.insert(source.ino),
                End::Target => self.target_asked.insert(source.ino),
            };
        }
    }

    pub(super) fn are_asked_for(&self) -> bool {
        !self.base_asked.is_empty() || !self.target_asked.is_empty()
    }

    pub(super) fn answer(&mut self, change: &Change, memory: &mut Memory) -> Attempt {
        if change.kind != Kind::File {
            return Ok(());
        }
        if let Some(old) = change.old.filter(|_| self.base_asked.contains(&change.ino)) {
            self.base.insert(change.ino, old.size);
        }
        if change.flags.deleted || !self.target_asked.contains(&change.ino) {
            return Ok(());
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for extent in change.extents.iter().filter(|extent| extent.op == Op::Data) {
            match ranges.last_mut() {
                Some(last) if last.1 == extent.offset => last.1 += extent.length,
                _ => ranges.push((extent.offset, extent.offset + extent.length)),
            }
        }
        memory.take(ranges.len() * size_of::<(u64, u64)>())?;
        self.target.insert(change.ino, ranges);
        Ok(())
    }

    pub(super) fn check(&self, change: &Change) -> Attempt {
        let sources = change.extents.iter().filter_map(|extent| Some((extent.source?, extent.length)));
        for (source, length) in sources {
            if !self.holds(source, source.offset.saturating_add(length)) {
                return Err("it clones what is not there");
            }
        }
        Ok(())
    }

    fn holds(&self, source: Source, end: u64) -> bool {
        if source.end == End::Base {
            return self.base.get(&source.ino).is_some_and(|size| end <= *size);
        }
        let ranges = self.target.get(&source.ino).map_or(&[][..], |ranges| ranges);
        let at = ranges.partition_point(|range| range.1 <= source.offset);
        ranges.get(at).is_some_and(|range| range.0 <= source.offset && end <= range.1)
    }
}
