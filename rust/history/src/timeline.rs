//! Plays the steps of a history.

use crate::directories::{Directories, Node, STILL, Stay, TOP};
use crate::looks::{Latest, Looks, SeenAs};
use crate::step::Step;
use rayon::prelude::*;
use snapsync_manifest::Brief;
use snapsync_model::{Attributes, Change, ChangeFlags, Kind, Monitor, ROOT, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// So many steps are read at once: their rows are in memory then.
const AT_ONCE: usize = 4;

/// An inode, through all its steps: a directory, or any other by its number in this history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Directory(Node),
    File(u32),
}

/// A name of something that is no directory.
pub(crate) struct Entry {
    pub(crate) file: u32,
    pub(crate) stay: Stay,
}

/// A row of a step, about an inode of the timeline.
pub(crate) struct Told {
    pub(crate) step: u32,
    pub(crate) who: Who,
    pub(crate) flags: ChangeFlags,
    pub(crate) added: bool,
    pub(crate) removed: bool,
    pub(crate) old: Option<Attributes>,
    pub(crate) new: Option<Attributes>,
    pub(crate) data_bytes: u64,
}

/// All directories, and of everything else the names that were asked for with all names of their inodes.
pub struct Timeline {
    pub(crate) directories: Directories,
    looks: Looks,
    /// The last look of each directory, by its number.
    seen: HashMap<Node, Latest>,
    pub(crate) entries: Vec<Entry>,
    /// The last look of each file.
    files: Vec<Latest>,
    /// Those of symbolic links, by the numbers of their files.
    targets: HashMap<u32, Box<[u8]>>,
    /// The entries that are there now, by directory and name.
    now: HashMap<(Node, Box<[u8]>), usize>,
    /// Rows, where they were asked for.
    pub(crate) told: Option<Vec<Told>>,
    pub(crate) steps: u32,
}

/// A row about a file, and which one it is if the base has it.
struct Row {
    change: Change,
    file: Option<u32>,
}

fn name_of(path: &[u8]) -> Option<&[u8]> {
    path.rsplit(|byte| *byte == b'/').next()
}

/// The directories of a step by their inode numbers, before and after it.
#[derive(Default)]
struct Anchors {
    old: HashMap<u64, Node>,
    new: HashMap<u64, Node>,
}

impl Timeline {
    /// Plays the steps. `wanted` tells which names count.
    pub fn play(
        steps: &[Step],
        wanted: impl Fn(&[u8]) -> bool + Sync,
        monitor: &Monitor,
    ) -> Result<Timeline> {
        Timeline::new().played(steps, wanted, monitor)
    }

    /// The same, and keeps what each row says.
    pub(crate) fn play_and_tell(
        steps: &[Step],
        wanted: impl Fn(&[u8]) -> bool + Sync,
        monitor: &Monitor,
    ) -> Result<Timeline> {
        Timeline { told: Some(Vec::new()), ..Timeline::new() }.played(steps, wanted, monitor)
    }

    fn new() -> Timeline {
        Timeline {
            directories: Directories::new(),
            looks: Looks::default(),
            seen: HashMap::new(),
            entries: Vec::new(),
            files: Vec::new(),
            targets: HashMap::new(),
            now: HashMap::new(),
            told: None,
            steps: 0,
        }
    }

    fn played(
        mut self,
        steps: &[Step],
        wanted: impl Fn(&[u8]) -> bool + Sync,
        monitor: &Monitor,
    ) -> Result<Timeline> {
        let is_wanted = |row: &Brief<'_>| {
            let has = |path: Option<&[u8]>| path.and_then(name_of).is_some_and(&wanted);
            row.kind == Kind::Directory || row.has_links || has(row.path) || has(row.old_path)
        };
        let read = |step: &Step| -> Result<(Vec<Change>, Vec<Change>)> {
            let rows = step.read()?.only(is_wanted).collect::<Result<Vec<_>>>()?;
            Ok(rows.into_iter().partition(|row| row.kind == Kind::Directory))
        };
        for some in steps.chunks(AT_ONCE) {
            monitor.check()?;
            for (directories, others) in some.par_iter().map(read).collect::<Result<Vec<_>>>()? {
                self.step(&directories, others);
            }
        }
        Ok(self)
    }

    fn step(&mut self, directories: &[Change], others: Vec<Change>) {
        let at = self.steps;
        self.steps += 1;
        let before = at.saturating_sub(1);
        let mut anchors = Anchors::default();
        for row in directories {
            if let Some(path) = &row.old_path {
                anchors.old.insert(row.ino, self.directories.resolve(path, before));
            }
        }
        let rows: Vec<Row> = others.into_iter().map(|change| self.known(change, before)).collect();
        self.move_directories(directories, &mut anchors, at);
        for row in &rows {
            self.remove_names(row, &anchors, at);
        }
        for row in rows {
            self.add_names(row, &anchors, at);
        }
    }

    /// Finds out, before anything moves, which file a row is about.
    fn known(&mut self, change: Change, before: u32) -> Row {
        let (Some(path), Some(attributes)) = (&change.old_path, change.old) else {
            return Row { change, file: None };
        };
        let Some((above, name)) = path.split() else { return Row { change, file: None } };
        let parent = self.directories.resolve(&above, before);
        if let Some(entry) = self.now.get(&(parent, name.into())) {
            let file = self.entries[*entry].file;
            return Row { change, file: Some(file) };
        }
        // Nobody asked for its name before, or the manifest that has brought it is missing.
        let file = self.file(SeenAs { kind: change.kind, attributes }, before);
        self.open(file, parent, name, before);
        Row { change, file: Some(file) }
    }

    fn move_directories(&mut self, rows: &[Change], anchors: &mut Anchors, at: u32) {
        for row in rows {
            let was = anchors.old.get(&row.ino).copied().filter(|_| row.old_path.is_some());
            let node = match was {
                _ if row.ino == ROOT && row.path.is_some() => TOP,
                Some(node) if row.survives() => node,
                _ if row.path.is_some() => self.directories.create(),
                _ => was.unwrap_or(TOP),
            };
            if row.path.is_some() {
                anchors.new.insert(row.ino, node);
            }
            if let Some(was) = was.filter(|_| row.flags.deleted || !row.links_removed.is_empty()) {
                self.directories.leave(was, at);
            }
            if let Some(attributes) = row.new.or(row.old) {
                let seen = SeenAs { kind: Kind::Directory, attributes };
                let latest = self.looks.add(self.seen.get(&node).copied(), seen, at);
                self.seen.insert(node, latest);
            }
            self.tell(row, Who::Directory(node), at);
        }
        for row in rows {
            for link in &row.links_added {
                if let (Some(node), Some(parent)) = (anchors.new.get(&row.ino), anchors.new.get(&link.parent))
                {
                    self.directories.enter(*node, *parent, &link.name, at);
                }
            }
        }
    }

    fn remove_names(&mut self, row: &Row, anchors: &Anchors, at: u32) {
        let Some(file) = row.file else { return };
        for link in &row.change.links_removed {
            let Some(parent) = anchors.old.get(&link.parent) else { continue };
            let known = self.now.get(&(*parent, link.name.clone())).copied();
            let entry = known.unwrap_or_else(|| self.open(file, *parent, &link.name, at.saturating_sub(1)));
            self.now.remove(&(*parent, link.name.clone()));
            self.close(entry, at);
        }
    }

    fn add_names(&mut self, Row { change, file }: Row, anchors: &Anchors, at: u32) {
        let Some(attributes) = change.new.or(change.old) else { return };
        let seen = SeenAs { kind: change.kind, attributes };
        let file = file.unwrap_or_else(|| self.file(seen, at));
        self.files[file as usize] = self.looks.add(Some(self.files[file as usize]), seen, at);
        self.targets.extend(change.symlink_target.clone().map(|target| (file, target)));
        for link in &change.links_added {
            if let Some(parent) = anchors.new.get(&link.parent) {
                self.open(file, *parent, &link.name, at);
            }
        }
        self.tell(&change, Who::File(file), at);
    }

    fn file(&mut self, seen: SeenAs, from: u32) -> u32 {
        self.files.push(self.looks.add(None, seen, from));
        self.files.len() as u32 - 1
    }

    fn open(&mut self, file: u32, parent: Node, name: &[u8], from: u32) -> usize {
        let stay = Stay { parent, name: name.into(), from, until: STILL };
        self.entries.push(Entry { file, stay });
        self.now.insert((parent, name.into()), self.entries.len() - 1);
        self.entries.len() - 1
    }

    fn close(&mut self, entry: usize, at: u32) {
        self.entries[entry].stay.until = at;
    }

    fn tell(&mut self, change: &Change, who: Who, step: u32) {
        let Some(told) = &mut self.told else { return };
        let (added, removed) = (!change.links_added.is_empty(), !change.links_removed.is_empty());
        let (old, new) = (change.old, change.new);
        let data_bytes = change.data_bytes();
        told.push(Told { step, who, flags: change.flags, added, removed, old, new, data_bytes });
    }

    /// What a file was in the last snapshot before that of a step.
    pub(crate) fn file_before(&self, file: u32, until: u32) -> SeenAs {
        self.looks.before(self.files[file as usize], until)
    }

    /// All names that some files ever had.
    pub(crate) fn names_of<'a>(&'a self, who: &'a BTreeSet<Who>) -> impl Iterator<Item = Box<[u8]>> + 'a {
        let theirs = self.entries.iter().filter(|entry| who.contains(&Who::File(entry.file)));
        theirs.map(|entry| entry.stay.name.clone())
    }

    pub(crate) fn file_seen(&self, file: u32) -> SeenAs {
        self.looks.now(self.files[file as usize])
    }

    pub(crate) fn target_of(&self, file: u32) -> Option<Box<[u8]>> {
        self.targets.get(&file).cloned()
    }

    /// The names that files have after the last step.
    pub(crate) fn entries_now(&self) -> BTreeMap<u32, Vec<&Entry>> {
        let mut found: BTreeMap<u32, Vec<&Entry>> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.stay.until == STILL) {
            found.entry(entry.file).or_default().push(entry);
        }
        found
    }

    pub(crate) fn kind_of(&self, file: u32) -> Kind {
        self.file_seen(file).kind
    }

    pub(crate) fn directory_seen(&self, node: Node) -> Option<SeenAs> {
        self.seen.get(&node).map(|latest| self.looks.now(*latest))
    }

    /// What a directory was in the last snapshot before that of a step.
    pub(crate) fn directory_before(&self, node: Node, until: u32) -> Option<SeenAs> {
        self.seen.get(&node).map(|latest| self.looks.before(*latest, until))
    }
}
