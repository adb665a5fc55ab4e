//! Handles names that move while a tree is walked.
//!
//! As long as the change time of a directory stays the same, its names do too. So after the walk, directories
//! whose change time differs are read again until there are none: then there was a moment at which all names
//! were as they were read. If that moment does not come, each moved inode is looked up at the places where it
//! was seen.

use crate::listing::{Listing, Recorder};
use rayon::prelude::*;
use snapsync_model::{Directories, Inode, Kind, Link, ROOT, RelPath, Result, locked};
use snapsync_sys::{DirEntry, Root, Stat, read_dir, stat_of};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often a moved inode is looked up again at the places where it was seen.
const TRIES: usize = 8;
/// How often changed directories are read again to find one moved inode.
const SEARCHES: u32 = 20;
/// The longest time that these searches take in one snapshot.
const LONGEST: Duration = Duration::from_secs(10);

/// For each directory, its change time before it was read, and the pass in which that was.
pub(crate) type Read = HashMap<u64, (i64, u32)>;

/// The directories whose change time differs from that before they were read.
pub(crate) fn changed(root: &Root, read: &Read, directories: &Directories) -> Vec<u64> {
    let is_changed = |(ino, (ctime, _)): &(&u64, &(i64, u32))| {
        let Ok(path) = path_of(directories, **ino) else { return false };
        // A missing one has moved to another directory, which has changed too.
        root.entry(&path)
            .and_then(|entry| entry.stat())
            .is_ok_and(|stat| is_numbered(&stat, **ino) && stat.ctime != *ctime)
    };
    let read: Vec<(&u64, &(i64, u32))> = read.iter().collect();
    read.into_par_iter().filter(is_changed).map(|(ino, _)| *ino).collect()
}

fn path_of(directories: &Directories, ino: u64) -> Result<RelPath> {
    if ino == ROOT { Ok(RelPath::root()) } else { directories.path_of(ino) }
}

fn is_numbered(stat: &Stat, ino: u64) -> bool {
    ino == ROOT || stat.ino == ino
}

/// Forgets the directories that this pass no longer found in the directories it read.
pub(crate) fn forget_lost(read: &mut Read, directories: &mut Directories, named: &HashSet<u64>, pass: u32) {
    let is_lost = |ino: &u64| {
        let parent = directories.link(*ino).and_then(|link| read.get(&link.parent));
        parent.is_some_and(|(_, at)| *at == pass) && !named.contains(ino)
    };
    let lost: Vec<u64> = read.keys().copied().filter(is_lost).collect();
    for ino in lost {
        read.remove(&ino);
        directories.remove(ino);
    }
}

/// The results of several passes. For a directory that was read again, the later pass counts.
pub(crate) struct Passes<'a> {
    pub(crate) root: &'a Root,
    pub(crate) read: &'a Read,
    pub(crate) listings: Vec<Listing>,
    /// Whether some directories had changed again after the last pass.
    pub(crate) is_restless: bool,
}

impl Passes<'_> {
    /// Joins all passes to one listing.
    pub(crate) fn joined(mut self, directories: &mut Directories) -> Result<(Listing, Places)> {
        let mut moved = self.moved()?;
        let mut used: HashSet<Link> = HashSet::new();
        let mut order: Vec<&mut Seen> = moved.values_mut().collect();
        // Directories come first, because the paths of other inodes lead through them.
        order.sort_by_key(|seen| (seen.inode.kind != Kind::Directory, seen.inode.ino));
        for seen in &mut order {
            seen.inode.links = self.valid(seen);
            seen.inode.links.retain(|link| used.insert(link.clone()));
        }
        if self.is_restless {
            for seen in order {
                self.settle(seen, &mut used, directories);
            }
        }
        let recorder = Recorder::default();
        let reachable = self.reachable(directories, &moved);
        let is_there = |link: &Link| reachable.contains(&link.parent);
        for inode in self.listings[0].iter() {
            let mut inode = inode?;
            if !moved.contains_key(&inode.ino) {
                inode.links.retain(is_there);
                put(&recorder, inode)?;
            }
        }
        let mut places = Places::default();
        for (ino, mut seen) in moved {
            seen.inode.links.retain(is_there);
            seen.inode.links.sort_unstable();
            places.insert(ino, seen.places);
            put(&recorder, seen.inode)?;
        }
        self.listings.clear();
        Ok((recorder.finish()?, if self.is_restless { places } else { Places::default() }))
    }

    /// Everything seen in a directory that was read more than once, or only in a later pass.
    fn moved(&self) -> Result<HashMap<u64, Seen>> {
        let mut moved: HashMap<u64, Seen> = HashMap::new();
        for (pass, listing) in self.listings.iter().enumerate() {
            for inode in listing.iter() {
                let mut inode = inode?;
                let is_read_again =
                    |link: &Link| self.read.get(&link.parent).is_none_or(|(_, at)| *at > 0) || pass > 0;
                if !inode.links.iter().any(is_read_again) {
                    continue;
                }
                let links = std::mem::take(&mut inode.links);
                let seen = moved.entry(inode.ino).or_insert_with(|| Seen::new(inode.clone()));
                seen.at.extend(links.iter().map(|link| (pass as u32, link.clone())));
                seen.places.extend(links);
                // The last look at the inode counts.
                seen.inode = inode;
            }
        }
        // Its names in directories that were read only once count too.
        for inode in self.listings[0].iter() {
            let inode = inode?;
            if let Some(seen) = moved.get_mut(&inode.ino) {
                let others: Vec<Link> =
                    inode.links.into_iter().filter(|link| !seen.places.contains(link)).collect();
                seen.at.extend(others.into_iter().map(|link| (0, link)));
            }
        }
        for seen in moved.values_mut() {
            seen.places.sort_unstable();
            seen.places.dedup();
        }
        Ok(moved)
    }

    /// The names that the last reading of their directories showed.
    fn valid(&self, seen: &Seen) -> Vec<Link> {
        let is_last =
            |(pass, link): &&(u32, Link)| self.read.get(&link.parent).is_some_and(|(_, at)| at == pass);
        let mut links: Vec<Link> = seen.at.iter().filter(is_last).map(|(_, link)| link.clone()).collect();
        links.sort_unstable();
        links.dedup();
        links
    }

    /// Looks up an inode that moves: where it is now, under as many names as it has.
    fn settle(&self, seen: &mut Seen, used: &mut HashSet<Link>, directories: &mut Directories) {
        let is_directory = seen.inode.kind == Kind::Directory;
        if seen.inode.links.len() == 1 {
            return;
        }
        let had = std::mem::take(&mut seen.inode.links);
        for link in &had {
            used.remove(link);
        }
        let candidates = if had.is_empty() { &seen.places } else { &had };
        let mut links: Vec<Link> = Vec::new();
        for _ in 0..TRIES {
            let mut most = 1;
            for link in candidates.iter().filter(|link| !used.contains(link)) {
                if let Some(stat) = look(self.root, directories, link).filter(|stat| is_it(stat, &seen.inode))
                {
                    most = if is_directory { 1 } else { stat.nlink as usize };
                    if !links.contains(link) {
                        links.push(link.clone());
                    }
                }
            }
            links.truncate(most);
            if !links.is_empty() {
                break;
            }
        }
        // It was there, and perhaps still is, but no look came at the right moment.
        if links.is_empty() {
            links.extend(candidates.iter().rev().find(|link| !used.contains(link)).cloned());
        }
        if let (true, Some(link)) = (is_directory, links.first()) {
            directories.insert(seen.inode.ino, link.clone());
        }
        used.extend(links.iter().cloned());
        seen.inode.links = links;
    }

    /// The directories that can be reached from the root.
    fn reachable(&self, directories: &Directories, moved: &HashMap<u64, Seen>) -> HashSet<u64> {
        let mut known: HashMap<u64, bool> = HashMap::from([(ROOT, true)]);
        let all = self.read.keys().chain(moved.keys());
        for ino in all {
            let (mut way, mut at) = (Vec::new(), *ino);
            let mut seen = HashSet::new();
            let is_there = loop {
                if let Some(is_there) = known.get(&at) {
                    break *is_there;
                }
                way.push(at);
                match directories.link(at) {
                    Some(link) if seen.insert(at) => at = link.parent,
                    _ => break false,
                }
            };
            known.extend(way.into_iter().map(|at| (at, is_there)));
        }
        known.into_iter().filter(|(_, is_there)| *is_there).map(|(ino, _)| ino).collect()
    }
}

/// An inode with the names under which it was seen: all of them with their passes, and those in directories
/// that kept changing.
struct Seen {
    inode: Inode,
    at: Vec<(u32, Link)>,
    places: Vec<Link>,
}

impl Seen {
    fn new(inode: Inode) -> Seen {
        Seen { inode, at: Vec::new(), places: Vec::new() }
    }
}

/// For each moving inode, the names under which it was seen.
pub(crate) type Places = HashMap<u64, Vec<Link>>;

fn put(recorder: &Recorder, inode: Inode) -> Result<()> {
    if inode.links.is_empty() && inode.ino != ROOT {
        return Ok(());
    }
    recorder.add(&[inode])
}

fn look(root: &Root, directories: &Directories, link: &Link) -> Option<Stat> {
    let path = directories.path(link).ok()?;
    root.entry(&path).and_then(|entry| entry.stat()).ok()
}

fn is_it(stat: &Stat, inode: &Inode) -> bool {
    (stat.ino, stat.generation, stat.kind) == (inode.ino, inode.generation, inode.kind)
}

/// Finds inodes that are not where the walk found them.
#[derive(Debug)]
pub struct Moves {
    state: Mutex<State>,
    is_restless: bool,
}

#[derive(Debug)]
struct State {
    read: Read,
    directories: Arc<Directories>,
    places: Places,
    /// The time spent on searches.
    spent: Duration,
}

impl Moves {
    pub(crate) fn new(read: Read, directories: Arc<Directories>, places: Places, is_restless: bool) -> Moves {
        Moves { state: Mutex::new(State { read, directories, places, spent: Duration::ZERO }), is_restless }
    }

    /// Whether names were still moving when the walk ended.
    pub fn is_restless(&self) -> bool {
        self.is_restless
    }

    /// Where an inode of the walk is now; None if it cannot be found.
    pub fn find(&self, root: &Root, inode: &Inode) -> Option<RelPath> {
        let mut state = locked(&self.state);
        for _ in 0..SEARCHES {
            if let Some(path) = state.seen(root, inode) {
                return Some(path);
            }
            let started = Instant::now();
            let is_changed = state.spent < LONGEST && state.search(root);
            state.spent += started.elapsed();
            if !is_changed {
                return None;
            }
        }
        state.seen(root, inode)
    }
}

impl State {
    fn seen(&self, root: &Root, inode: &Inode) -> Option<RelPath> {
        // An inode that did not move itself may have moved with a directory above it.
        let places = self.places.get(&inode.ino).into_iter().flatten().chain(&inode.links);
        let is_there =
            |link: &&Link| look(root, &self.directories, link).is_some_and(|stat| is_it(&stat, inode));
        let link = places.rev().find(is_there)?;
        self.directories.path(link).ok()
    }

    /// Reads the directories that have changed again; false if there are none.
    fn search(&mut self, root: &Root) -> bool {
        let mut waiting = changed(root, &self.read, &self.directories);
        let is_changed = !waiting.is_empty();
        while let Some(ino) = waiting.pop() {
            let Some((stat, entries)) = self.entries(root, ino) else { continue };
            self.read.insert(ino, (stat.ctime, 0));
            for DirEntry { name, ino: child, is_dir } in entries {
                let link = Link { parent: ino, name };
                if is_dir == Some(true) {
                    Arc::make_mut(&mut self.directories).insert(child, link.clone());
                    waiting.extend((!self.read.contains_key(&child)).then_some(child));
                }
                let places = self.places.entry(child).or_default();
                places.retain(|place| *place != link);
                places.push(link);
            }
        }
        is_changed
    }

    fn entries(&self, root: &Root, ino: u64) -> Option<(Stat, Vec<DirEntry>)> {
        let path = path_of(&self.directories, ino).ok()?;
        let dir = root.read(&path).ok()?;
        let stat = stat_of(&dir).ok().filter(|stat| is_numbered(stat, ino))?;
        Some((stat, read_dir(&dir).ok()?))
    }
}
