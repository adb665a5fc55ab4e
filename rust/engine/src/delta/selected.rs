//! The paths of a snapshot that a request selects.

use crate::delta::pruned::Pruned;
use crate::location::inside::{above, outermost};
use serde::{Deserialize, Serialize};
use snapsync_manifest::ManifestReader;
use snapsync_model::{
    Attributes, Directories, Error, Kind, Link, Monitor, ROOT, RelPath, Result, Selection, SnapshotInfo,
};
use snapsync_snapshot::{Moment, Volume};
use std::collections::BTreeSet;
use std::path::Path;

/// What a request selects, in the words of its options. Nothing at all means that it does not select.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Select {
    pub r#match: Vec<String>,
    pub r#type: Option<String>,
    pub larger: Option<u64>,
    /// A date or a time; of a date its beginning counts.
    pub newer: Option<String>,
}

impl Select {
    pub fn selection(&self) -> Result<Selection> {
        let mut selection = Selection::new(&self.r#match)?;
        selection.kind = self.r#type.as_deref().map(Kind::from_type).transpose()?;
        selection.larger = self.larger;
        selection.newer = self.newer.as_deref().map(time_of).transpose()?;
        Ok(selection)
    }

    /// None if it selects everything.
    pub(crate) fn asked(&self) -> Result<Option<Selection>> {
        Ok(Some(self.selection()?).filter(|selection| !selection.is_everything()))
    }
}

/// The first instant of a date or time, in ns since 1970.
fn time_of(text: &str) -> Result<i64> {
    let moment = Moment::named(text)?;
    let ns = moment.first.as_nanosecond();
    Ok(i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX }))
}

/// The paths that a request is about: those that it names, or what it selects of them.
pub(crate) struct Chosen {
    pub(crate) paths: Vec<RelPath>,
    /// The number of entries that were looked at to select some.
    pub(crate) searched: Option<u64>,
}

impl Chosen {
    pub(crate) fn named(paths: Vec<RelPath>) -> Chosen {
        Chosen { paths, searched: None }
    }

    /// Those of a snapshot of a volume. Fails for a path that is named and that the snapshot does not have.
    pub(crate) fn of(
        (volume, snapshot): (&Volume, &SnapshotInfo),
        named: Vec<RelPath>,
        selection: Option<&Selection>,
        monitor: &Monitor,
    ) -> Result<Chosen> {
        let Some(selection) = selection else { return Ok(Chosen::named(named)) };
        let mut choosing = Choosing::new(&named, selection, monitor);
        let mut side = volume.open_snapshot(snapshot, monitor)?;
        if !choosing.within.is_empty() {
            let pruned = Pruned::new(side, &named);
            if let Some(path) = pruned.missing()? {
                return Err(no_such_path(snapshot, volume, &path));
            }
            side = Box::new(pruned);
        }
        for inode in side.inodes()? {
            let inode = inode?;
            let found = (inode.kind, &inode.attributes);
            choosing.look(found, &inode.links, &|link| side.path_of(link))?;
        }
        Ok(choosing.chosen())
    }

    /// Those of a manifest in which everything is new, and that holds only what is named.
    pub(crate) fn of_manifest(
        manifest: &Path,
        named: &[RelPath],
        selection: &Selection,
        monitor: &Monitor,
    ) -> Result<Chosen> {
        let mut directories = Directories::default();
        for row in ManifestReader::open(manifest)? {
            let row = row?;
            if let (Kind::Directory, Some(link)) = (row.kind, row.links_added.first()) {
                directories.insert(row.ino, link.clone());
            }
        }
        let mut choosing = Choosing::new(named, selection, monitor);
        for row in ManifestReader::open(manifest)? {
            let row = row?;
            if let Some(attributes) = row.new.as_ref().filter(|_| row.ino != ROOT) {
                choosing.look((row.kind, attributes), &row.links_added, &|link| directories.path(link))?;
            }
        }
        Ok(choosing.chosen())
    }

    /// Whether something was to be selected, and nothing was.
    pub(crate) fn is_nothing(&self) -> bool {
        self.searched.is_some() && self.paths.is_empty()
    }
}

struct Choosing<'a> {
    /// Empty for everything.
    within: BTreeSet<RelPath>,
    selection: &'a Selection,
    monitor: &'a Monitor,
    searched: u64,
    found: Vec<RelPath>,
}

impl<'a> Choosing<'a> {
    fn new(named: &[RelPath], selection: &'a Selection, monitor: &'a Monitor) -> Choosing<'a> {
        let is_all = named.iter().any(RelPath::is_root);
        let within = named.iter().filter(|_| !is_all).cloned().collect();
        Choosing { within, selection, monitor, searched: 0, found: Vec::new() }
    }

    fn look(
        &mut self,
        (kind, attributes): (Kind, &Attributes),
        links: &[Link],
        path_of: &dyn Fn(&Link) -> Result<RelPath>,
    ) -> Result<()> {
        self.monitor.check()?;
        for link in links {
            // A path takes longer than a look at the name.
            let may_match = self.selection.may_match_name(&link.name);
            let path = if may_match || !self.within.is_empty() { Some(path_of(link)?) } else { None };
            if path.as_ref().is_some_and(|path| !self.is_within(path)) {
                continue;
            }
            self.searched += 1;
            self.found.extend(path.filter(|path| self.selection.matches(path, kind, attributes)));
        }
        Ok(())
    }

    fn is_within(&self, path: &RelPath) -> bool {
        self.within.is_empty()
            || self.within.contains(path)
            || above(path).any(|above| self.within.contains(&above))
    }

    fn chosen(mut self) -> Chosen {
        self.found.sort_unstable();
        Chosen { paths: outermost(&self.found), searched: Some(self.searched) }
    }
}

/// A path that a snapshot was asked for and does not have.
pub(crate) fn no_such_path(snapshot: &SnapshotInfo, volume: &Volume, path: &RelPath) -> Error {
    Error::usage(
        format!("snapshot {} of {} has no {}", snapshot.name, volume.path().display(), path.display()),
        "name paths as they were in that snapshot; `snapsync versions FILE` shows which have a file",
    )
}
