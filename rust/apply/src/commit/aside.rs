//! Entries that somebody put in the way of a commit after the check. They must not be destroyed, so they are
//! moved to `.snapsync/aside/ID/NUMBER/` under their names, and stay there when the stage is removed.

use crate::check::unlisted::is_absent;
use crate::known::Known;
use crate::names::Places;
use crate::stage::incoming::Incoming;
use snapsync_manifest::{Brief, ManifestReader};
use snapsync_model::{Change, Context, Error, Kind, Link, RelPath, Result};
use snapsync_sys::{Place, Root, read_dir, stat_at};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use uuid::Uuid;

const DIR: &str = ".snapsync/aside";

/// Moves an entry out of the way for good, and returns its new path; None if it disappeared by itself. `was`
/// is its old path.
pub fn set_aside(root: &Root, id: Uuid, from: &Place<'_>, was: &RelPath) -> Result<Option<RelPath>> {
    let (aside, own) = (RelPath::new(DIR.as_bytes())?, RelPath::new(format!("{DIR}/{id}").as_bytes())?);
    let (_, name) = was.split().ok_or_else(|| Error::failed("the root cannot be moved", ""))?;
    let show = root.show(was);
    let make = |dir: &RelPath| match root.create_dir(dir, 0o700) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    };
    [&aside, &own].iter().try_for_each(|dir| make(dir).map(drop)).context("keep aside", &show)?;
    let mut number = 1;
    let dir = loop {
        let dir = own.join(number.to_string().as_bytes())?;
        if make(&dir).context("keep aside", &show)? {
            break dir;
        }
        number += 1;
    };
    let kept = dir.join(name)?;
    let moved = root.place(&kept).and_then(|to| from.rename_to_new(&to));
    root.forget_ways_through(was);
    match moved {
        Ok(()) => Ok(Some(kept)),
        Err(e) => {
            let (above, name) = root.parent(&dir).context("keep aside", &show)?;
            let _ = rustix::fs::unlinkat(above, name, rustix::fs::AtFlags::REMOVEDIR);
            if is_absent(&e) { Ok(None) } else { Err(e).context("keep aside", show) }
        }
    }
}

/// A directory in the stage, and its place in the tree.
struct Swept {
    ino: u64,
    staged: RelPath,
    shown: RelPath,
}

impl Incoming<'_> {
    /// Keeps an entry that is not the commit's own, and reports it.
    pub(crate) fn keep_aside(&self, from: &Place<'_>, was: &RelPath) -> Result<()> {
        if let Some(kept) = set_aside(&self.root, self.journal.snapshot.id, from, was)? {
            self.monitor.note(format!(
                "{} appeared there while a delta was committed: it is kept as {}",
                self.root.show(was).display(),
                self.root.show(&kept).display()
            ));
        }
        Ok(())
    }

    /// Directories that are removed were moved to the stage with their whole content: unknown entries in them
    /// are kept.
    pub(crate) fn sweep_trash(&self, places: &Places) -> Result<()> {
        let is_gone = |row: &Brief<'_>| row.flags.deleted && row.kind == Kind::Directory;
        let mut gone = Vec::new();
        for change in self.manifest_reader()?.only_of_base(is_gone)? {
            let change = change?;
            gone.extend(
                change.old_path.zip(change.links_removed.into_iter().next()).map(|at| (change.ino, at)),
            );
        }
        gone.sort_by_key(|(_, (path, _))| path.depth());
        let mut staged: HashMap<u64, RelPath> = HashMap::new();
        let mut swept = Vec::new();
        for (ino, (shown, link)) in gone {
            let at = match staged.get(&link.parent).filter(|_| places.is_deleted(link.parent)) {
                Some(above) => above.join(&link.name)?,
                None => self.staged(&format!("trash/{ino}-0"))?,
            };
            staged.insert(ino, at.clone());
            swept.push(Swept { ino, staged: at, shown });
        }
        self.sweep(&swept, |change| (change.flags.deleted || change.survives(), &change.links_removed))
    }

    /// The same for new directories that were taken out of the tree again.
    pub(crate) fn sweep_new(&self, places: &Places) -> Result<()> {
        let is_new = |row: &Brief<'_>| row.flags.created && row.kind == Kind::Directory;
        let mut swept = Vec::new();
        for change in self.manifest_reader()?.only(is_new) {
            let change = change?;
            let Some(shown) = change.path.clone().filter(|path| !path.is_root()) else { continue };
            let below = places.staged(&change, 0)?;
            let staged = RelPath::new(&[self.staged("new")?.as_bytes(), b"/", below.as_bytes()].concat())?;
            swept.push(Swept { ino: change.ino, staged, shown });
        }
        self.sweep(&swept, |change| (change.flags.created, &change.links_added))
    }

    fn sweep(&self, all: &[Swept], names: impl Fn(&Change) -> (bool, &Vec<Link>)) -> Result<()> {
        if all.is_empty() {
            return Ok(());
        }
        let directories: HashSet<u64> = all.iter().map(|swept| swept.ino).collect();
        let mut known: HashMap<Link, u64> = HashMap::new();
        for row in ManifestReader::open(&self.manifest())?.only(|_| true).numbered() {
            let (row, change) = row?;
            let (true, links) = names(&change) else { continue };
            let inside = links.iter().filter(|link| directories.contains(&link.parent));
            known.extend(inside.map(|link| (link.clone(), row)));
        }
        all.iter().try_for_each(|swept| self.sweep_one(swept, &known))
    }

    fn sweep_one(&self, swept: &Swept, known: &HashMap<Link, u64>) -> Result<()> {
        let show = self.root.show(&swept.staged);
        let dir = match self.root.read(&swept.staged) {
            Err(e) if is_absent(&e) || e.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            other => other.context("open the directory", &show)?,
        };
        for entry in read_dir(&dir).context("read the directory", &show)? {
            let link = Link { parent: swept.ino, name: entry.name };
            let row = known.get(&link).map(|row| self.known(*row)).transpose()?;
            let name = OsStr::from_bytes(&link.name);
            if !row.is_some_and(|known| self.is_at(&dir, name, &known)) {
                let dir = dir.try_clone().context("open the directory", &show)?;
                self.keep_aside(&Place::new(dir.into(), name), &swept.shown.join(&link.name)?)?;
            }
        }
        Ok(())
    }

    fn is_at(&self, dir: &std::fs::File, name: &OsStr, known: &Known) -> bool {
        stat_at(dir, name).is_ok_and(|stat| self.is_known(known, &stat))
    }
}
