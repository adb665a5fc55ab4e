//! Which names go and which come: the manifest's links as paths.

use crate::access;
use snapsync_manifest::{Brief, ManifestReader};
use snapsync_model::{Change, Error, Kind, Link, RelPath, Result};
use snapsync_sys::Spot;
use std::collections::{HashMap, HashSet};

/// Where the directories of a manifest are in the base and in the target.
#[derive(Default)]
pub(crate) struct Places {
    old: HashMap<u64, RelPath>,
    new: HashMap<u64, RelPath>,
    /// New directories, with their names in the target.
    created: HashMap<u64, Link>,
    deleted: HashSet<u64>,
    moves: bool,
    opens: bool,
}

impl Places {
    pub(crate) fn read(manifest: &Spot) -> Result<Places> {
        let mut places = Places::default();
        for change in ManifestReader::open(manifest)?.only(|row| row.kind == Kind::Directory) {
            places.add(&change?);
        }
        Ok(places)
    }

    fn add(&mut self, change: &Change) {
        if change.kind != Kind::Directory {
            return;
        }
        if let Some(path) = &change.old_path {
            self.old.insert(change.ino, path.clone());
        }
        if let Some(path) = &change.path {
            self.new.insert(change.ino, path.clone());
        }
        // The root is always there, and has no name.
        if let (true, Some(link)) = (change.flags.created, change.links_added.first()) {
            self.created.insert(change.ino, link.clone());
        }
        if change.flags.deleted {
            self.deleted.insert(change.ino);
        }
        self.moves |=
            change.survives() && !(change.links_added.is_empty() && change.links_removed.is_empty());
        self.opens |= access::changes(change);
    }

    /// Some directory that lives on is elsewhere then, with all that is in it.
    pub(crate) fn moves(&self) -> bool {
        self.moves
    }

    /// Some directory lets in others than before.
    pub(crate) fn opens(&self) -> bool {
        self.opens
    }

    /// Its one name comes along with a new directory.
    pub(crate) fn comes_along(&self, row: &Brief) -> bool {
        row.flags.created && row.added == 1 && row.parent.is_some_and(|parent| self.is_created(parent))
    }

    pub(crate) fn is_created(&self, ino: u64) -> bool {
        self.created.contains_key(&ino)
    }

    /// The directory existed in the base and does not in the target, though its number may.
    pub(crate) fn is_deleted(&self, ino: u64) -> bool {
        self.deleted.contains(&ino)
    }

    /// Where a name was, and where one comes to be.
    pub(crate) fn old_path(&self, link: &Link) -> Result<RelPath> {
        self.old.get(&link.parent).ok_or_else(|| unanchored(link))?.join(&link.name)
    }

    pub(crate) fn new_path(&self, link: &Link) -> Result<RelPath> {
        self.new.get(&link.parent).ok_or_else(|| unanchored(link))?.join(&link.name)
    }

    /// Where the name number `at` of a new inode is staged, below `new/`: in its new directory, or under a name
    /// of its own where that directory is an old one. A stage in the image of the target would need stand-ins for
    /// old directories, and they would be in the way when those move.
    pub(crate) fn staged(&self, change: &Change, at: usize) -> Result<RelPath> {
        let Some(link) = change.links_added.get(at) else {
            return Err(Error::integrity(
                "a new inode has no name",
                "make the manifest again from its snapshots",
            ));
        };
        let mut names = vec![&*link.name];
        let (mut ino, mut parent) = (change.ino, link.parent);
        while let Some(above) = self.created.get(&parent) {
            names.push(&above.name);
            (ino, parent) = (parent, above.parent);
            if names.len() > self.created.len() + 1 {
                return Err(unanchored(link));
            }
        }
        let top = if names.len() == 1 { staged_top(ino, at) } else { staged_top(ino, 0) };
        names.pop();
        names.push(top.as_bytes());
        names.reverse();
        RelPath::new(&names.join(&b'/'))
    }

    /// Where a directory was in the base, if it was.
    pub(crate) fn old_directory(&self, ino: u64) -> Option<&RelPath> {
        self.old.get(&ino)
    }
}

fn unanchored(link: &Link) -> Error {
    Error::integrity(
        format!(
            "the manifest has no row for directory {}, which {:?} is in",
            link.parent,
            String::from_utf8_lossy(&link.name)
        ),
        "the manifest is damaged: make it again from its snapshots",
    )
}

/// The staged name of a new inode whose directory is an old one.
pub(crate) fn staged_top(ino: u64, at: usize) -> String {
    format!("{ino}-{at}")
}

/// A name that goes. Nothing is removed before the tree is the new one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Detach {
    /// Name number `at` of an inode that gets as many new ones: it is moved to `held/`.
    Hold { from: RelPath, ino: u64, at: usize },
    /// An inode that loses no name and gets some: a link in `held/` is where they come from.
    Anchor { from: RelPath, ino: u64 },
    /// Name number `at` of what goes, or of what has another one: it is moved to `trash/`, with all that is in it.
    Trash { from: RelPath, ino: u64, at: usize },
}

impl Detach {
    pub(crate) fn path(&self) -> &RelPath {
        match self {
            Detach::Hold { from, .. } | Detach::Anchor { from, .. } | Detach::Trash { from, .. } => from,
        }
    }
}

/// A name that comes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// Staged under `new/`, with all that is in it.
    New { ino: u64, at: usize, to: RelPath },
    /// Name number `at` of what is in `held/`.
    Move { ino: u64, at: usize, to: RelPath },
    /// One more name of what is in `held/`.
    Link { ino: u64, to: RelPath },
}

impl Attach {
    pub(crate) fn path(&self) -> &RelPath {
        match self {
            Attach::New { to, .. } | Attach::Move { to, .. } | Attach::Link { to, .. } => to,
        }
    }
}

/// The name number `at` of an inode in `held/`.
pub(crate) fn held(ino: u64, at: usize) -> String {
    if at == 0 { format!("held/{ino}") } else { format!("held/{ino}-{at}") }
}

/// All names that go, deepest first: while one is detached, everything above it is still in its old place.
pub(crate) fn detaches(manifest: &Spot, places: &Places) -> Result<Vec<Detach>> {
    let mut all = Vec::new();
    let loses_names = |row: &Brief| row.removed > 0 || (row.added > 0 && !row.flags.created);
    for change in ManifestReader::open(manifest)?.only(loses_names) {
        detach_row(&change?, places, &mut all)?;
    }
    all.sort_by_key(|d| std::cmp::Reverse(d.path().depth()));
    Ok(all)
}

fn detach_row(change: &Change, places: &Places, all: &mut Vec<Detach>) -> Result<()> {
    let ino = change.ino;
    // As many names as come are moved, so that an inode never has more than before or after.
    let moved = if change.survives() { change.links_added.len() } else { 0 };
    if moved > 0 && change.links_removed.is_empty() {
        all.push(Detach::Anchor { from: change.old_path.clone().unwrap_or_default(), ino });
    }
    let (inside, outside): (Vec<&Link>, Vec<&Link>) =
        change.links_removed.iter().partition(|link| places.is_deleted(link.parent));
    let apart = outside.len();
    for (at, link) in outside.into_iter().chain(inside).enumerate() {
        let from = places.old_path(link)?;
        if at < moved {
            all.push(Detach::Hold { from, ino, at });
        } else if at < apart {
            all.push(Detach::Trash { from, ino, at });
        }
        // Any other goes with its directory.
    }
    Ok(())
}

/// All names that come, parents first.
pub(crate) fn attaches(manifest: &Spot, places: &Places) -> Result<Vec<Attach>> {
    let mut all = Vec::new();
    for change in ManifestReader::open(manifest)?.only(|row| row.added > 0 && !places.comes_along(row)) {
        attach_row(&change?, places, &mut all)?;
    }
    all.sort_by_key(|a| a.path().depth());
    Ok(all)
}

fn attach_row(change: &Change, places: &Places, all: &mut Vec<Attach>) -> Result<()> {
    let mut names = Vec::new();
    for (at, link) in change.links_added.iter().enumerate() {
        // Inside a new directory it comes along with it.
        if !(change.flags.created && places.is_created(link.parent)) {
            names.push((at, places.new_path(link)?));
        }
    }
    if change.flags.created {
        all.extend(names.into_iter().map(|(at, to)| Attach::New { ino: change.ino, at, to }));
        return Ok(());
    }
    // The first that is held comes last, deepest as it is: until then links are made from it.
    names.sort_by_key(|(_, to)| to.depth());
    let moved = change.links_removed.len().max(1);
    for (left, (_, to)) in (0..names.len()).rev().zip(names) {
        let (ino, at) = (change.ino, left);
        all.push(if at < moved { Attach::Move { ino, at, to } } else { Attach::Link { ino, to } });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::{Attributes, ChangeFlags, ROOT};

    fn link(parent: u64, name: &str) -> Link {
        Link { parent, name: name.as_bytes().into() }
    }

    fn row(ino: u64, kind: Kind, old_path: Option<&str>, path: Option<&str>) -> Change {
        let path_of = |path: Option<&str>| path.map(|p| RelPath::new(p.as_bytes()).unwrap());
        Change {
            ino,
            generation: 0,
            kind,
            flags: ChangeFlags {
                created: old_path.is_none(),
                deleted: path.is_none(),
                ..ChangeFlags::default()
            },
            path: path_of(path),
            old_path: path_of(old_path),
            links_added: Vec::new(),
            links_removed: Vec::new(),
            nlink: 1,
            nlink_old: 1,
            new: path.map(|_| Attributes::default()),
            old: old_path.map(|_| Attributes::default()),
            symlink_target: None,
            xattrs: None,
            extents: Vec::new(),
        }
    }

    fn places(rows: &[&Change]) -> Places {
        let mut places = Places::default();
        rows.iter().for_each(|row| places.add(row));
        places
    }

    #[test]
    fn what_is_in_a_deleted_directory_goes_with_it_unless_it_lives_on() {
        let mut gone = row(7, Kind::Directory, Some("d"), None);
        gone.links_removed = vec![link(ROOT, "d")];
        let mut inside = row(8, Kind::File, Some("d/f"), None);
        inside.links_removed = vec![link(7, "f")];
        let mut moved = row(9, Kind::File, Some("d/m"), Some("m"));
        (moved.links_removed, moved.links_added) = (vec![link(7, "m")], vec![link(ROOT, "m")]);
        let root = row(ROOT, Kind::Directory, Some("."), Some("."));
        let places = places(&[&root, &gone]);
        let mut all = Vec::new();
        [&gone, &inside, &moved].iter().for_each(|row| detach_row(row, &places, &mut all).unwrap());
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        assert_eq!(
            all,
            [
                Detach::Trash { from: path("d"), ino: 7, at: 0 },
                Detach::Hold { from: path("d/m"), ino: 9, at: 0 }
            ]
        );
    }

    /// At no moment has the inode more names than before or after.
    #[test]
    fn names_move_where_others_come_and_the_deepest_ends_what_is_held() {
        let names = |names: &[&str]| names.iter().map(|name| link(ROOT, name)).collect::<Vec<_>>();
        let root = row(ROOT, Kind::Directory, Some("."), Some("."));
        let places = places(&[&root]);
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        let plan = |removed: &[&str], added: &[&str]| {
            let mut change = row(9, Kind::File, Some("kept"), Some("kept"));
            (change.links_removed, change.links_added) = (names(removed), names(added));
            let (mut going, mut coming) = (Vec::new(), Vec::new());
            detach_row(&change, &places, &mut going).unwrap();
            attach_row(&change, &places, &mut coming).unwrap();
            (going, coming)
        };
        let anchor = Detach::Anchor { from: path("kept"), ino: 9 };
        let last = |to: &str| Attach::Move { ino: 9, at: 0, to: path(to) };
        assert_eq!(
            plan(&[], &["x", "y"]),
            (vec![anchor], vec![Attach::Link { ino: 9, to: path("x") }, last("y")])
        );
        let hold = |from: &str, at| Detach::Hold { from: path(from), ino: 9, at };
        let trash = Detach::Trash { from: path("b"), ino: 9, at: 1 };
        assert_eq!(plan(&["a", "b"], &["x"]), (vec![hold("a", 0), trash], vec![last("x")]));
        let first = Attach::Move { ino: 9, at: 1, to: path("x") };
        assert_eq!(
            plan(&["a", "b"], &["x", "y"]),
            (vec![hold("a", 0), hold("b", 1)], vec![first, last("y")])
        );
    }

    #[test]
    fn a_new_entry_is_staged_in_its_new_directory_or_under_a_name_of_its_own() {
        let root = row(ROOT, Kind::Directory, Some("."), Some("."));
        let mut top = row(7, Kind::Directory, None, Some("a"));
        top.links_added = vec![link(ROOT, "a")];
        let mut below = row(8, Kind::Directory, None, Some("a/b"));
        below.links_added = vec![link(7, "b")];
        let mut file = row(9, Kind::File, None, Some("a/b/f"));
        file.links_added = vec![link(8, "f"), link(ROOT, "g")];
        let places = places(&[&root, &top, &below]);
        let staged = |row: &Change, at: usize| places.staged(row, at).unwrap().display().into_owned();
        assert_eq!(staged(&below, 0), "7-0/b");
        assert_eq!((staged(&file, 0), staged(&file, 1)), ("7-0/b/f".into(), "9-1".into()));
    }

    #[test]
    fn new_directories_that_contain_each_other_are_refused() {
        let mut a = row(7, Kind::Directory, None, Some("a"));
        a.links_added = vec![link(8, "a")];
        let mut b = row(8, Kind::Directory, None, Some("b"));
        b.links_added = vec![link(7, "b")];
        assert!(places(&[&a, &b]).staged(&a, 0).is_err());
    }
}
