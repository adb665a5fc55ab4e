//! The names that are removed and added: the manifest's links as paths.

use crate::access;
use snapsync_manifest::{Brief, ManifestReader};
use snapsync_model::{Change, Error, Kind, Link, RelPath, Result};
use snapsync_sys::{Named, Spot};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The paths of a manifest's directories in the base and in the target.
#[derive(Default)]
pub(crate) struct Places {
    old: HashMap<u64, Directory>,
    new: HashMap<u64, Directory>,
    /// New directories, with their names in the target.
    created: HashMap<u64, Link>,
    deleted: HashSet<u64>,
    moves: bool,
    opens: bool,
    /// What other rows have.
    has_clones: bool,
    has_further_names: bool,
}

/// A directory, and its row.
pub(crate) struct Directory {
    pub(crate) path: RelPath,
    pub(crate) row: u64,
}

impl Places {
    pub(crate) fn read(manifest: &Spot) -> Result<Places> {
        Places::read_with(manifest, |_| Ok(()))
    }

    /// The same, and calls `check` for each directory before it is believed.
    pub(crate) fn read_with(
        manifest: &dyn Named,
        mut check: impl FnMut(&Change) -> Result<()>,
    ) -> Result<Places> {
        let (has_clones, has_further_names) = (AtomicBool::new(false), AtomicBool::new(false));
        let is_directory = |row: &Brief<'_>| {
            has_clones.fetch_or(row.has_clones, Relaxed);
            has_further_names.fetch_or(row.flags.created && row.added > 1, Relaxed);
            row.kind == Kind::Directory
        };
        let mut places = Places::default();
        for row in ManifestReader::open(manifest)?.only(is_directory).numbered() {
            let (row, change) = row?;
            check(&change)?;
            places.add(row, &change);
        }
        (places.has_clones, places.has_further_names) =
            (has_clones.into_inner(), has_further_names.into_inner());
        Ok(places)
    }

    fn add(&mut self, row: u64, change: &Change) {
        if change.kind != Kind::Directory {
            return;
        }
        if let Some(path) = &change.old_path {
            self.old.insert(change.ino, Directory { path: path.clone(), row });
        }
        if let Some(path) = &change.path {
            self.new.insert(change.ino, Directory { path: path.clone(), row });
        }
        // The root always exists and has no name.
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

    /// Whether a directory that survives is moved with its content.
    pub(crate) fn moves(&self) -> bool {
        self.moves
    }

    /// Whether the rights to a directory change.
    pub(crate) fn opens(&self) -> bool {
        self.opens
    }

    /// Whether a row takes data from another.
    pub(crate) fn has_clones(&self) -> bool {
        self.has_clones
    }

    /// Whether a new inode has more than one name.
    pub(crate) fn has_further_names(&self) -> bool {
        self.has_further_names
    }

    /// Whether its only name is in a new directory and is staged with it.
    pub(crate) fn comes_along(&self, row: &Brief<'_>) -> bool {
        row.flags.created && row.added == 1 && row.parent.is_some_and(|parent| self.is_created(parent))
    }

    pub(crate) fn is_created(&self, ino: u64) -> bool {
        self.created.contains_key(&ino)
    }

    /// Whether the directory existed in the base but not in the target. Its number may exist again.
    pub(crate) fn is_deleted(&self, ino: u64) -> bool {
        self.deleted.contains(&ino)
    }

    /// The old path of a removed name, and the new path of an added one.
    pub(crate) fn old_path(&self, link: &Link) -> Result<RelPath> {
        self.old.get(&link.parent).ok_or_else(|| unanchored(link))?.path.join(&link.name)
    }

    fn old_place(&self, link: &Link) -> Result<Name> {
        Name::of(self.old.get(&link.parent), link)
    }

    fn new_place(&self, link: &Link) -> Result<Name> {
        Name::of(self.new.get(&link.parent), link)
    }

    /// The path below `new/` where name number `at` of a new inode is staged: in its new directory, or under
    /// a name of its own if the directory is an old one. A stage in the image of the target would need
    /// stand-ins for old directories, which would be in the way when those move.
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

    /// The path of a directory in the base, if it existed there.
    pub(crate) fn old_directory(&self, ino: u64) -> Option<&RelPath> {
        self.old.get(&ino).map(|directory| &directory.path)
    }
}

/// A name of the base or the target as a path, and the row of its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) path: RelPath,
    pub(crate) parent: u64,
}

impl Name {
    fn of(directory: Option<&Directory>, link: &Link) -> Result<Name> {
        let Directory { path, row } = directory.ok_or_else(|| unanchored(link))?;
        Ok(Name { path: path.join(&link.name)?, parent: *row })
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

/// A removed name of a row's inode. Nothing is deleted before the tree is the new one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Detach {
    pub(crate) from: Name,
    pub(crate) row: u64,
    pub(crate) ino: u64,
    pub(crate) to: Goes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goes {
    /// Name number `at` of an inode that gets as many new ones is moved to `held/`.
    Hold { at: usize },
    /// An inode loses no name and gets some: a link in `held/` is their source.
    Anchor,
    /// Name number `at` of a deleted inode, or of one that keeps another name, is moved to `trash/` with its
    /// content.
    Trash { at: usize },
}

impl Detach {
    pub(crate) fn path(&self) -> &RelPath {
        &self.from.path
    }
}

/// An added name of a row's inode.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attach {
    pub(crate) to: Name,
    pub(crate) row: u64,
    pub(crate) ino: u64,
    pub(crate) from: Comes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comes {
    /// It is staged under `new/` with its content.
    New { at: usize },
    /// It is name number `at` of the inode in `held/`.
    Move { at: usize },
    /// It is a further name of the inode in `held/`.
    Link,
}

impl Attach {
    pub(crate) fn path(&self) -> &RelPath {
        &self.to.path
    }
}

/// Name number `at` of an inode in `held/`.
pub(crate) fn held(ino: u64, at: usize) -> String {
    if at == 0 { format!("held/{ino}") } else { format!("held/{ino}-{at}") }
}

/// All removed names, deepest first: when one is detached, everything above it is still in its old place.
pub(crate) fn detaches(manifest: &Spot, places: &Places) -> Result<Vec<Detach>> {
    let mut all = Vec::new();
    let loses_names = |row: &Brief<'_>| row.removed > 0 || row.added > 0;
    for row in ManifestReader::open(manifest)?.only_of_base(loses_names)?.numbered() {
        let (row, change) = row?;
        detach_row(row, &change, places, &mut all)?;
    }
    all.sort_by_key(|d| std::cmp::Reverse(d.path().depth()));
    Ok(all)
}

fn detach_row(row: u64, change: &Change, places: &Places, all: &mut Vec<Detach>) -> Result<()> {
    let ino = change.ino;
    // As many names are moved as are added, so that an inode never has more than before or after.
    let moved = if change.survives() { change.links_added.len() } else { 0 };
    if moved > 0 && change.links_removed.is_empty() {
        // It is only looked up and loses nothing, so its directory does not matter.
        let from = Name { path: change.old_path.clone().unwrap_or_default(), parent: row };
        all.push(Detach { from, row, ino, to: Goes::Anchor });
    }
    let (inside, outside): (Vec<&Link>, Vec<&Link>) =
        change.links_removed.iter().partition(|link| places.is_deleted(link.parent));
    let apart = outside.len();
    for (at, link) in outside.into_iter().chain(inside).enumerate() {
        let from = places.old_place(link)?;
        if at < moved {
            all.push(Detach { from, row, ino, to: Goes::Hold { at } });
        } else if at < apart {
            all.push(Detach { from, row, ino, to: Goes::Trash { at } });
        }
        // All others go with their directories.
    }
    Ok(())
}

/// All added names, parents first.
pub(crate) fn attaches(manifest: &Spot, places: &Places) -> Result<Vec<Attach>> {
    let mut all = Vec::new();
    let comes = |row: &Brief<'_>| row.added > 0 && !places.comes_along(row);
    for row in ManifestReader::open(manifest)?.only(comes).numbered() {
        let (row, change) = row?;
        attach_row(row, &change, places, &mut all)?;
    }
    all.sort_by_key(|a| a.path().depth());
    Ok(all)
}

fn attach_row(row: u64, change: &Change, places: &Places, all: &mut Vec<Attach>) -> Result<()> {
    let (ino, mut names) = (change.ino, Vec::new());
    for (at, link) in change.links_added.iter().enumerate() {
        // A name inside a new directory is staged with it.
        if !(change.flags.created && places.is_created(link.parent)) {
            names.push((at, places.new_place(link)?));
        }
    }
    if change.flags.created {
        all.extend(names.into_iter().map(|(at, to)| Attach { to, row, ino, from: Comes::New { at } }));
        return Ok(());
    }
    // The first held name is attached last, because it is the deepest; links are made from it until then.
    names.sort_by_key(|(_, to)| to.path.depth());
    let moved = change.links_removed.len().max(1);
    for (at, (_, to)) in (0..names.len()).rev().zip(names) {
        let from = if at < moved { Comes::Move { at } } else { Comes::Link };
        all.push(Attach { to, row, ino, from });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::Attributes;
    use snapsync_model::ChangeFlags;
    use snapsync_model::ROOT;

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
        rows.iter().zip(0..).for_each(|(change, row)| places.add(row, change));
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
        let rows = [(1, &gone), (2, &inside), (3, &moved)];
        rows.into_iter().for_each(|(row, change)| detach_row(row, change, &places, &mut all).unwrap());
        let name = |p: &str, parent| Name { path: RelPath::new(p.as_bytes()).unwrap(), parent };
        assert_eq!(
            all,
            [
                Detach { from: name("d", 0), row: 1, ino: 7, to: Goes::Trash { at: 0 } },
                Detach { from: name("d/m", 1), row: 3, ino: 9, to: Goes::Hold { at: 0 } }
            ]
        );
    }

    /// An inode never has more names than before or after.
    #[test]
    fn names_move_where_others_come_and_the_deepest_ends_what_is_held() {
        let names = |names: &[&str]| names.iter().map(|name| link(ROOT, name)).collect::<Vec<_>>();
        let root = row(ROOT, Kind::Directory, Some("."), Some("."));
        let places = places(&[&root]);
        let plan = |removed: &[&str], added: &[&str]| {
            let mut change = row(9, Kind::File, Some("kept"), Some("kept"));
            (change.links_removed, change.links_added) = (names(removed), names(added));
            let (mut going, mut coming) = (Vec::new(), Vec::new());
            detach_row(1, &change, &places, &mut going).unwrap();
            attach_row(1, &change, &places, &mut coming).unwrap();
            let show = |name: &Name| name.path.display().into_owned();
            let going: Vec<_> = going.iter().map(|d| (show(&d.from), d.to)).collect();
            let coming: Vec<_> = coming.iter().map(|a| (show(&a.to), a.from)).collect();
            (going, coming)
        };
        let (a, b, kept, x, y) = ("a".into(), "b".into(), "kept".into(), "x".into(), "y".into());
        let two =
            |x: &String, y: &String, first| vec![(x.clone(), first), (y.clone(), Comes::Move { at: 0 })];
        assert_eq!(plan(&[], &["x", "y"]), (vec![(kept, Goes::Anchor)], two(&x, &y, Comes::Link)));
        let hold = |name: &String, at| (name.clone(), Goes::Hold { at });
        let one = vec![(x.clone(), Comes::Move { at: 0 })];
        let trash: (String, Goes) = (b, Goes::Trash { at: 1 });
        assert_eq!(plan(&["a", "b"], &["x"]), (vec![hold(&a, 0), trash.clone()], one));
        let both = two(&x, &y, Comes::Move { at: 1 });
        assert_eq!(plan(&["a", "b"], &["x", "y"]), (vec![hold(&a, 0), hold(&trash.0, 1)], both));
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
