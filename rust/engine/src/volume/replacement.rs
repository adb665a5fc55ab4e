//! Replaces paths of a primary: the new entries are made first, and then put into the directories that were
//! checked. Nothing that appeared since the snapshot before is removed with what they replace.

use crate::location::inside::above;
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};
use snapsync_apply::set_aside;
use snapsync_model::{Attributes, Context, Error, Kind, Monitor, RelPath, Result, SnapshotInfo};
use snapsync_snapshot::{LockedVolume, Volume};
use snapsync_sys::{Entry, Place, Root, Spot, Stat, fault, read_dir, sync_filesystem};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// How often an entry that appears in the place of a path is exchanged with it.
const TRIES: usize = 100;

/// A path to be replaced, as it was after the snapshot that keeps it.
pub(crate) struct Checked {
    path: RelPath,
    found: Option<Stat>,
    /// The existing directories above it.
    above: Vec<(RelPath, Stat)>,
    /// The time before the snapshot, by the clock of the file system.
    at: i64,
}

/// The time by the clock of file systems, in ns since 1970.
pub(crate) fn clock() -> i64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

impl Checked {
    /// `at` is the time before the snapshot that keeps it was taken.
    pub(crate) fn of(root: &Root, path: &RelPath, at: i64) -> io::Result<Checked> {
        let look = |path: &RelPath| match root.entry(path).and_then(|entry| entry.stat()) {
            Err(e) if leads_elsewhere(&e) => Ok(None),
            other => other.map(Some),
        };
        let mut dirs = Vec::new();
        for dir in above(path) {
            dirs.extend(look(&dir)?.map(|stat| (dir, stat)));
        }
        Ok(Checked { path: path.clone(), found: look(path)?, above: dirs, at })
    }

    fn has_parent(&self, dir: &RelPath, now: &Stat) -> bool {
        self.above.iter().any(|(path, was)| path == dir && was.is_same_inode(now))
    }
}

/// Where a snapshot finds its bytes in the tree, those that go with what is replaced are kept first.
pub(crate) fn keep_in_place(
    volume: &LockedVolume,
    before: &SnapshotInfo,
    inos: &dyn Fn() -> Result<BTreeSet<u64>>,
    monitor: &Monitor,
) -> Result<()> {
    if !volume.is_partly_in_tree() || !volume.has_table(before.id) {
        return Ok(());
    }
    if volume.keep_bytes_of(before, &inos()?, monitor)?.lost == 0 {
        return Ok(());
    }
    Err(Error::refused(
        format!("files of {} that would be replaced were changed meanwhile", volume.path().display()),
        "end what writes to them, and run this again; nothing was replaced",
    ))
}

pub(crate) struct Replacement {
    pub(crate) root: Root,
    below: RelPath,
}

impl Replacement {
    /// Makes it in a place that the next command clears.
    pub(crate) fn make(volume: &Volume) -> Result<Replacement> {
        let below = RelPath::new(snapsync_snapshot::REPLACEMENT.as_bytes())?;
        let spot = Spot::new(volume.root().clone(), below.clone());
        for dir in spot.above().iter().chain([&spot]) {
            dir.ensure_dir().context("create the directory", dir.show())?;
        }
        Ok(Replacement { root: spot.tree()?, below })
    }

    fn staged(&self, path: &RelPath) -> Result<RelPath> {
        RelPath::new(&[self.below.as_bytes(), b"/", path.as_bytes()].concat())
    }

    /// Puts each path in its place, together with missing directories above it, and takes away what is to be
    /// gone. Directories get the times that they are to have.
    pub(crate) fn put(
        &self,
        root: &Arc<Root>,
        (paths, gone): (&[Checked], &[Checked]),
        dated: &BTreeMap<RelPath, Attributes>,
        (id, monitor): (Uuid, &Monitor),
    ) -> Result<()> {
        let settled = |path: &RelPath| {
            let above = path.split().and_then(|(dir, _)| dated.get_key_value(&dir));
            above.map_or(Ok(()), |above| set_time(root, above))?;
            fault::point("restore.put");
            Ok(())
        };
        for (at, checked) in gone.iter().enumerate() {
            self.take_away(root, checked, at, (id, monitor))?;
            settled(&checked.path)?;
        }
        for checked in paths {
            let path = &checked.path;
            let is_there = |dir: &RelPath| root.entry(dir).is_ok();
            let missing = above(path).filter(|dir| !dir.is_root()).take_while(|dir| !is_there(dir)).last();
            let top = missing.unwrap_or_else(|| path.clone());
            self.replace(root, &top, checked, (id, monitor))?;
            settled(path)?;
        }
        dated.iter().try_for_each(|dir| set_time(root, dir))
    }

    /// Once everything is in its place.
    pub(crate) fn finish(self, root: &Arc<Root>) -> Result<()> {
        sync_filesystem(root.fd()).context("sync the file system of", root.path())?;
        snapsync_snapshot::clear_replacement(root).map(drop)
    }

    /// Moves it into a directory whose name no entry of a volume has.
    fn take_away(
        &self,
        root: &Arc<Root>,
        checked: &Checked,
        at: usize,
        aside: (Uuid, &Monitor),
    ) -> Result<()> {
        let (path, show) = (&checked.path, root.show(&checked.path));
        let dir = Spot::new(root.clone(), self.staged(&RelPath::new(b".snapsync")?)?);
        dir.ensure_dir().context("create the directory", dir.show())?;
        let staged = self.staged(&RelPath::new(format!(".snapsync/{at}").as_bytes())?)?;
        let place = place_in(root, path, checked)?;
        let to = root.place(&staged).context("remove", &show)?;
        let moved = place.entry().and_then(|entry| {
            if checked.found.is_some_and(|found| entry.stat().is_ok_and(|now| now.is_same_inode(&found))) {
                loosen(&entry)?;
            }
            place.rename_to_new(&to)
        });
        match moved {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).context("remove", show),
            Ok(()) => self.keep_changes(root, (path, &staged), &to, checked, aside),
        }
    }

    fn replace(&self, root: &Root, path: &RelPath, checked: &Checked, aside: (Uuid, &Monitor)) -> Result<()> {
        let (show, staged) = (root.show(path), self.staged(path)?);
        let entry = match root.entry(&staged) {
            // A missing directory above it came with it already.
            Err(e) if e.kind() == io::ErrorKind::NotFound && root.entry(path).is_ok() => return Ok(()),
            other => other.context("restore", &show)?,
        };
        let flags = loosen(&entry).context("restore", &show)?;
        let dated = entry.stat().context("restore", &show)?.attributes;
        let from = root.place(&staged).context("restore", &show)?;
        let place = place_in(root, path, checked)?;
        if self.take_place(&from, &place, path, checked).context("restore", &show)? {
            self.keep_changes(root, (path, &staged), &from, checked, aside)?;
        }
        // Moving a directory to another parent may change its time.
        entry.set_time(&dated).context("restore", &show)?;
        let protect = flags.map_or(Ok(()), |flags| snapsync_sys::set_flags_of(open(&entry)?, flags));
        protect.context("restore", show)
    }

    /// Returns whether something was there.
    fn take_place(
        &self,
        from: &Place<'_>,
        place: &Place<'_>,
        path: &RelPath,
        checked: &Checked,
    ) -> io::Result<bool> {
        let is_taken = |e: &io::Error| e.kind() == io::ErrorKind::AlreadyExists;
        let mut failed = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..TRIES {
            match from.rename_to_new(place) {
                Err(e) if is_taken(&e) => {}
                other => return other.map(|()| false),
            }
            let known = checked.found.filter(|_| *path == checked.path);
            let there = place.entry().and_then(|entry| Ok((entry.stat()?, entry)));
            if let (Ok((stat, entry)), Some(known)) = (there, known)
                && stat.is_same_inode(&known)
            {
                loosen(&entry)?;
            }
            match from.exchange(place) {
                // It was removed just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound => failed = e,
                other => return other.map(|()| true),
            }
        }
        Err(failed)
    }

    /// An entry that was replaced goes with the stage if the snapshot holds all of it.
    fn keep_changes(
        &self,
        root: &Root,
        (path, staged): (&RelPath, &RelPath),
        from: &Place<'_>,
        checked: &Checked,
        (id, monitor): (Uuid, &Monitor),
    ) -> Result<()> {
        let now = from.entry().and_then(|entry| entry.stat()).context("look at", root.show(staged))?;
        let known = checked.found.filter(|known| *path == checked.path && known.is_same_inode(&now));
        let is_kept = match known {
            None => false,
            Some(_) if now.kind == Kind::Directory => !has_newer(root, staged, checked.at)?,
            Some(known) => {
                let of = |stat: &Stat| (stat.attributes.size, stat.attributes.time());
                of(&known) == of(&now) && known.ctime < checked.at
            }
        };
        if is_kept {
            return Ok(());
        }
        if let Some(kept) = set_aside(root, id, from, path)? {
            monitor.note(format!(
                "{} was changed while it was restored: what was there is kept as {}",
                root.show(path).display(),
                root.show(&kept).display()
            ));
        }
        Ok(())
    }
}

fn set_time(root: &Root, (path, attributes): (&RelPath, &Attributes)) -> Result<()> {
    let set = root.entry(path).and_then(|entry| entry.set_time(attributes));
    set.map(drop).context_at("set the time of", || root.show(path))
}

/// The name in exactly the directory that was checked.
fn place_in<'p>(root: &Root, path: &'p RelPath, checked: &Checked) -> Result<Place<'p>> {
    let show = root.show(path);
    let above = path.split().map_or_else(RelPath::root, |(above, _)| above);
    let exchanged = || {
        Error::refused(
            format!("{} was exchanged while paths in it were restored", root.show(&above).display()),
            "look what is there now, then run the command again",
        )
    };
    let (dir, name) = match root.parent(path) {
        // Something else has its name (a file, a link, a mount), or it is gone.
        Err(e) if leads_elsewhere(&e) => return Err(exchanged()),
        other => other.context("restore", &show)?,
    };
    let stat = snapsync_sys::stat_of(&dir).context("restore", &show)?;
    if above.is_root() || checked.has_parent(&above, &stat) {
        return Ok(Place::new(dir, name));
    }
    Err(exchanged())
}

fn leads_elsewhere(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let elsewhere = [Errno::NOTDIR, Errno::NOENT, Errno::LOOP, Errno::XDEV];
    Errno::from_io_error(error).is_some_and(|errno| elsewhere.contains(&errno))
}

/// Whether anything below a directory changed since then.
fn has_newer(root: &Root, dir: &RelPath, then: i64) -> Result<bool> {
    let mut dirs = vec![dir.clone()];
    while let Some(dir) = dirs.pop() {
        let show = root.show(&dir);
        let file = root.read(&dir).context("open the directory", &show)?;
        for entry in read_dir(&file).context("read the directory", &show)? {
            let path = dir.join(&entry.name)?;
            let stat = match root.entry(&path).and_then(|entry| entry.stat()) {
                // Somebody has it open and continues to change it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
                other => other.context("look at", &show)?,
            };
            if stat.ctime >= then {
                return Ok(true);
            }
            if stat.kind == Kind::Directory {
                dirs.push(path);
            }
        }
    }
    Ok(false)
}

/// Clears flags that keep an entry from being renamed, and returns them.
fn loosen(entry: &Entry) -> io::Result<Option<u32>> {
    if !matches!(entry.stat()?.kind, Kind::File | Kind::Directory) {
        return Ok(None);
    }
    let file = open(entry)?;
    let flags = snapsync_sys::flags_of(&file)?;
    if flags & snapsync_sys::PROTECTIVE == 0 {
        return Ok(None);
    }
    snapsync_sys::set_flags_of(&file, flags & !snapsync_sys::PROTECTIVE)?;
    Ok(Some(flags))
}

fn open(entry: &Entry) -> io::Result<std::fs::File> {
    entry.open(OFlags::RDONLY)
}
