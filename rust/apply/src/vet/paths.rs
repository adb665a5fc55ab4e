//! Checks whether the names of a manifest form a tree.

use crate::vet::claim::{Attempt, Memory};
use snapsync_model::{Change, Counts, Kind, Link, ROOT, RelPath};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

/// Checks the order of rows.
#[derive(Default)]
pub(super) struct Order {
    /// The number of the last row, and whether it is deleted.
    last: Option<(u64, bool)>,
    /// Whether nothing existed before, so that the root is new.
    is_full: bool,
    counts: Counts,
    /// An upper bound for the number of names in all rows.
    pub(super) names: u64,
}

impl Order {
    pub(super) fn next(&mut self, change: &Change) -> Attempt {
        let again = (change.ino, true);
        let follows = match self.last {
            None => true,
            Some(last) => last.0 < change.ino || (last == again && !change.flags.deleted),
        };
        if !follows {
            return Err("its number is not greater than the one of the row before");
        }
        self.last = Some((change.ino, change.flags.deleted));
        self.is_full |= change.ino == ROOT && change.flags.created;
        if self.is_full && !change.flags.created {
            return Err("it was there before the root was");
        }
        self.counts.data_bytes.checked_add(change.data_bytes()).ok_or("there cannot be that much data")?;
        self.counts.add(change);
        self.names += 2 + (change.links_added.len() + change.links_removed.len()) as u64;
        Ok(())
    }

    pub(super) fn are(&self, told: &Counts) -> bool {
        let numbers = |c: &Counts| (c.rows, c.created, c.changed, c.renamed, c.deleted, c.data_bytes);
        numbers(&self.counts) == numbers(told)
    }
}

/// A keyed hash that stands for the path of a directory, because deep trees have long paths. Nobody outside
/// knows the keys.
type Mark = u128;

struct Marks([RandomState; 2]);

impl Marks {
    fn of(&self, path: &[u8]) -> Mark {
        let [a, b] = self.0.each_ref().map(|keys| keys.hash_one(path));
        u128::from(a) << 64 | u128::from(b)
    }
}

/// The paths, in base and target, of the directories that have a row.
pub(super) struct Directories {
    marks: Marks,
    old: HashMap<u64, Mark>,
    new: HashMap<u64, Mark>,
    /// The new path of the directory at a path of the base; None if it is removed.
    becomes: HashMap<Mark, Option<Mark>>,
    created: HashSet<u64>,
}

impl Directories {
    pub(super) fn new() -> Directories {
        Directories {
            marks: Marks([RandomState::new(), RandomState::new()]),
            old: HashMap::new(),
            new: HashMap::new(),
            becomes: HashMap::new(),
            created: HashSet::new(),
        }
    }

    pub(super) fn add(&mut self, change: &Change, memory: &mut Memory) -> Attempt {
        if change.kind != Kind::Directory {
            return Ok(());
        }
        let mark = |path: &Option<RelPath>| path.as_ref().map(|path| self.marks.of(path.as_bytes()));
        let (old, new) = (mark(&change.old_path), mark(&change.path));
        if let Some(old) = old {
            memory.take(2 * size_of::<Mark>())?;
            self.old.insert(change.ino, old);
            if self.becomes.insert(old, new).is_some() {
                return Err("another directory was at its path");
            }
        }
        if let Some(new) = new {
            memory.take(2 * size_of::<Mark>())?;
            self.new.insert(change.ino, new);
        }
        if change.flags.created {
            self.created.insert(change.ino);
        }
        Ok(())
    }

    /// Checks that a directory's paths match its names. The commit keeps the paths of added and removed names
    /// in memory.
    pub(super) fn place(&self, change: &Change, memory: &mut Memory) -> Attempt {
        let length = |path: &Option<RelPath>| path.as_ref().map_or(0, |path| path.as_bytes().len());
        for link in &change.links_removed {
            self.old_parent(link)?;
            memory.take(length(&change.old_path))?;
        }
        for link in change.links_added.iter().filter(|link| !self.created.contains(&link.parent)) {
            self.new_parent(link)?;
            memory.take(length(&change.path))?;
        }
        let agrees = match &change.old_path {
            Some(old) if keeps_a_name(change) => match &change.path {
                Some(new) => self.is_moved(old, new)?,
                None => false,
            },
            _ => {
                self.is_of(&change.old_path, &change.links_removed, Self::old_parent)?
                    && self.is_of(&change.path, &change.links_added, Self::new_parent)?
            }
        };
        if agrees || change.ino == ROOT { Ok(()) } else { Err("its path is not the one of its name") }
    }

    fn old_parent(&self, link: &Link) -> Attempt<Mark> {
        self.old.get(&link.parent).copied().ok_or("a name goes from what is no directory of the base")
    }

    fn new_parent(&self, link: &Link) -> Attempt<Mark> {
        self.new.get(&link.parent).copied().ok_or("a name comes to what is no directory of the target")
    }

    /// Whether a path belongs to the first of these names.
    fn is_of(
        &self,
        path: &Option<RelPath>,
        links: &[Link],
        parent: fn(&Self, &Link) -> Attempt<Mark>,
    ) -> Attempt<bool> {
        let split = path.as_ref().map(|path| path.split());
        Ok(match (split, links.first()) {
            (None, None) => true,
            (Some(Some((above, name))), Some(link)) => {
                *name == *link.name && self.marks.of(above.as_bytes()) == parent(self, link)?
            }
            _ => false,
        })
    }

    /// Whether something that keeps its name at a path of the base is at the right path in the target: every
    /// moved directory above it has a row.
    fn is_moved(&self, old: &RelPath, new: &RelPath) -> Attempt<bool> {
        let (old, new) = (old.as_bytes(), new.as_bytes());
        let mut end = old.len();
        while end > 0 {
            end = old[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            let Some(becomes) = self.becomes.get(&self.marks.of(&old[..end])) else { continue };
            let becomes = becomes.ok_or("it stays in a directory that goes")?;
            let rest = old[end..].strip_prefix(b"/").unwrap_or(&old[end..]);
            let Some(above) = new.strip_suffix(rest) else { return Ok(false) };
            // The root is stored without a slash.
            let above = if above.is_empty() { Some(above) } else { above.strip_suffix(b"/") };
            return Ok(above.is_some_and(|above| self.marks.of(above) == becomes));
        }
        Ok(old == new)
    }
}

/// Whether a surviving inode has a name that is neither added nor removed: the path that it is found by.
fn keeps_a_name(change: &Change) -> bool {
    change.survives() && change.nlink_old as usize > change.links_removed.len()
}

/// Checks that no name is removed twice, added twice, or removed by one row and kept by another: those of one
/// part of all names, to limit memory.
pub(super) struct Names {
    part: u64,
    parts: u64,
    keys: [RandomState; 2],
    seen: HashSet<u128>,
}

impl Names {
    pub(super) fn part(part: u64, parts: u64) -> Names {
        Names { part, parts, keys: [RandomState::new(), RandomState::new()], seen: HashSet::new() }
    }

    pub(super) fn add(&mut self, change: &Change, directories: &Directories) -> Attempt {
        for link in &change.links_removed {
            self.name(false, directories.old_parent(link)?, &link.name)?;
        }
        for link in &change.links_added {
            self.name(true, directories.new_parent(link)?, &link.name)?;
        }
        if keeps_a_name(change) {
            for (is_new, path) in [(false, &change.old_path), (true, &change.path)] {
                if let Some((above, name)) = path.as_ref().and_then(RelPath::split) {
                    self.name(is_new, directories.marks.of(above.as_bytes()), name)?;
                }
            }
        }
        Ok(())
    }

    fn name(&mut self, is_new: bool, above: Mark, name: &[u8]) -> Attempt {
        let [a, b] = self.keys.each_ref().map(|keys| keys.hash_one((is_new, above, name)));
        let is_of_others = a % self.parts != self.part;
        if is_of_others || self.seen.insert(u128::from(a) << 64 | u128::from(b)) {
            Ok(())
        } else {
            Err("one of its names is another's as well")
        }
    }
}
