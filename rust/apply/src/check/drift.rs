//! Checks before staging whether the tree is still the base.

use crate::attributes::PROTECTIVE;
use crate::check::rehearsal::names::real_name;
use crate::check::rehearsal::trial::Rehearsal;
use crate::check::space::Need;
use crate::check::unlisted::{is_absent, unlisted};
use crate::known::Recorder;
use crate::limits::Limits;
use crate::names::Places;
use rustix::fs::OFlags;
use snapsync_manifest::{Brief, ManifestReader};
use snapsync_model::{Attributes, Change, Context, Error, Kind, Link, ROOT, RelPath, Result};
use snapsync_sys::{Entry, NOCOW, Named, Root, Stat, Traits, flags_of, stat_of, traits_of};
use std::collections::{HashMap, HashSet};
use std::io;

/// The number of paths in one message.
const SHOWN: usize = 5;
/// A difference that the limits of a target may explain.
const OTHER_MODE: &str = "of another mode";
const OTHER_OWNER: &str = "of another owner";

/// The steps in which file systems keep times, in nanoseconds.
const GRAINS: [i128; 5] = [1, 100, 1_000, 1_000_000, 1_000_000_000];

/// Checks every path that a manifest touches.
pub(crate) struct Check<'a, 'r> {
    root: &'a Root,
    top: Stat,
    places: &'a Places,
    /// Everything that the target does not hold, in this round or an earlier one.
    limits: Limits,
    /// Whether directories must still have the times of the base.
    dated: bool,
    rehearsal: &'a mut Rehearsal<'r>,
    /// Directories of the base that do not accept every entry.
    special: HashMap<u64, (RelPath, Traits)>,
    /// Set if names fold: the store, which may then have other names as well.
    store: Option<Stat>,
    /// The space that the changes need.
    pub(crate) need: Need,
}

impl<'a, 'r> Check<'a, 'r> {
    pub(crate) fn new(
        root: &'a Root,
        places: &'a Places,
        limits: Limits,
        dated: bool,
        (rehearsal, need): (&'a mut Rehearsal<'r>, Need),
    ) -> Result<Check<'a, 'r>> {
        let top = stat_of(root.fd()).context("read the attributes of", root.path())?;
        let store = RelPath::root().join(b".snapsync")?;
        let store = traits_of(root.fd()).folds.then(|| root.entry(&store)?.stat()).transpose();
        let (store, special) = (store.ok().flatten(), HashMap::new());
        Ok(Check { root, top, places, limits, dated, rehearsal, special, store, need })
    }

    /// Refuses if a path differs from the base or cannot be changed. Notes in `touched` what is found there.
    /// With `rehearses` the rows are rehearsed as well.
    pub(crate) fn tree(
        &mut self,
        manifest: &dyn Named,
        mut touched: Option<&mut Recorder>,
        rehearses: bool,
    ) -> Result<()> {
        let mut drift = Drift::default();
        let mut removed: HashSet<Link> = HashSet::new();
        for change in ManifestReader::open(manifest)? {
            let change = change?;
            if rehearses {
                self.rehearsal.row(&change)?;
            }
            // The root exists even if its row is new.
            let top = (change.ino == ROOT).then(RelPath::root);
            let found = change.old_path.clone().or(top).map_or(Ok(None), |path| find(self.root, &path))?;
            if change.old_path.as_ref().is_some_and(|path| self.is_in_store(path)) {
                return Err(self.rehearsal.refuse(&change, "it is in the store, under another name"));
            }
            let stat = found.as_ref().map(|(_, stat)| stat);
            let was_there = stat.filter(|_| change.old_path.is_some());
            touched.as_mut().map_or(Ok(()), |touched| touched.row(&change, was_there))?;
            self.rehearsal.count_names(&change, stat);
            self.need.add(&change, was_there);
            if let Some((path, what)) = self.row(&change, found.as_ref())? {
                drift.add(&path, what);
            } else if let Some((entry, stat)) = &found {
                self.rehearsal.existing(&change, entry, stat)?;
                self.directory(&change, entry, stat)?;
            }
            removed.extend(change.links_removed);
        }
        let places = self.places;
        let may_meet = |row: &Brief<'_>| row.flags.deleted || (row.added > 0 && !places.comes_along(row));
        for change in ManifestReader::open(manifest)?.only(may_meet) {
            let change = change?;
            for path in unlisted(self.root, &change, &removed)? {
                drift.add(&path, "not in the snapshot");
            }
            for link in &change.links_added {
                if let Some(path) = self.name(&change, link, &removed)? {
                    drift.add(&path, "not in the snapshot");
                }
            }
        }
        self.rehearsal.links()?;
        drift.refuse(self.root)
    }

    fn is_in_store(&self, path: &RelPath) -> bool {
        let Some(store) = &self.store else { return false };
        let first = path.as_bytes().split(|byte| *byte == b'/').next().unwrap_or_default();
        let first = RelPath::new(first).ok();
        let found = first.and_then(|first| self.root.entry(&first).and_then(|entry| entry.stat()).ok());
        found.is_some_and(|stat| !path.is_root() && (stat.dev, stat.ino) == (store.dev, store.ino))
    }

    /// Checks an existing directory: whether it can go, and what may be put into it.
    fn directory(&mut self, change: &Change, entry: &Entry, stat: &Stat) -> Result<()> {
        if change.kind != Kind::Directory {
            return Ok(());
        }
        if stat.dev != self.top.dev {
            return Err(self.rehearsal.refuse(change, "it is on another file system, or another subvolume"));
        }
        let path = change.old_path.clone().unwrap_or_default();
        let traits = entry.open(OFlags::RDONLY).map(traits_of).unwrap_or_default();
        if traits.any() {
            self.special.insert(change.ino, (path.clone(), traits));
        }
        let goes = |link: &Link| change.survives() || !self.places.is_deleted(link.parent);
        if change.links_removed.iter().any(goes) { self.rehearsal.moves(change, &path) } else { Ok(()) }
    }

    /// Checks a new name: what is in its way.
    fn name(&mut self, change: &Change, link: &Link, removed: &HashSet<Link>) -> Result<Option<RelPath>> {
        if self.places.is_created(link.parent) {
            return Ok(None);
        }
        if let Some(to) = self.special.get(&link.parent) {
            self.rehearsal.comes_to(change, link, to)?;
        }
        self.in_the_way(change, link, removed)
    }

    /// The differences between a row and what is found, made by hand.
    fn row(
        &mut self,
        change: &Change,
        found: Option<&(Entry, Stat)>,
    ) -> Result<Option<(RelPath, &'static str)>> {
        let stat = found.map(|(_, stat)| stat);
        if let Some(path) = of_another(self.root, change, stat, self.places)? {
            return Ok(Some((path, "another file")));
        }
        let protected = is_protected_otherwise(self.root, change, stat, &self.limits)?;
        let mut what = self.drifted(stat, change)?;
        if let (Some(OTHER_OWNER | OTHER_MODE), Some(old)) = (what, &change.old) {
            let lost = self.rehearsal.went_without(change.kind, old)?;
            self.limits = lost.and(std::mem::take(&mut self.limits));
            what = self.drifted(stat, change)?;
        }
        let what = what.or(protected).or_else(|| self.has_another_name(change, stat?));
        let path = change.old_path.clone().unwrap_or_default();
        let what = what.map(|what| if is_mount(self.root, &path) { "under a mount point" } else { what });
        Ok(what.map(|what| (path, what)))
    }

    /// Whether a file has a name that no snapshot has, and would be changed in place under it as well. Its
    /// link gave it another change time, so that nothing proves its bytes and none of them would be kept.
    fn has_another_name(&self, change: &Change, stat: &Stat) -> Option<&'static str> {
        let is_changed = change.kind == Kind::File && change.survives() && change.flags.data;
        let has_one = self.need.displaces && stat.nlink > change.nlink_old;
        (is_changed && has_one).then_some("with a name that is not in the snapshot")
    }

    /// Whether something already has a name that will be added.
    fn in_the_way(&self, change: &Change, link: &Link, removed: &HashSet<Link>) -> Result<Option<RelPath>> {
        if removed.contains(link) {
            return Ok(None);
        }
        let Some(directory) = self.places.old_directory(link.parent) else { return Ok(None) };
        let path = directory.join(&link.name)?;
        if is_lost_and_found(self.root, &path)
            || (find(self.root, &path)?.is_none() && !is_mount(self.root, &path))
        {
            return Ok(None);
        }
        let listed = self.root.directory(directory).ok().and_then(|dir| real_name(dir, &link.name));
        match listed.filter(|name| *name != link.name) {
            Some(name) if removed.contains(&Link { parent: link.parent, name: name.clone() }) => Ok(None),
            Some(name) => Err(self.rehearsal.taken_for(change, &name)),
            None => Ok(Some(path)),
        }
    }

    fn drifted(&self, stat: Option<&Stat>, change: &Change) -> Result<Option<&'static str>> {
        let Some(old) = change.old else { return Ok(None) };
        let Some(Stat { kind, attributes: now, .. }) = stat else { return Ok(Some("missing")) };
        let (limits, has_time) = (&self.limits, self.dated || change.kind != Kind::Directory);
        let what = if *kind != change.kind {
            Some("of another kind")
        } else if *kind == Kind::File && now.size != old.size {
            Some("of another size")
        } else if has_time && !self.is_time(now, &old)? {
            Some("modified")
        } else if change.kind != Kind::Symlink && has_other_mode(now.mode, old.mode, limits) {
            Some(OTHER_MODE)
        } else if !limits.owner && (now.uid, now.gid) != (old.uid, old.gid) {
            Some(OTHER_OWNER)
        } else {
            None
        };
        Ok(what)
    }

    /// Whether the time is the old one, or the old one as the target rounds it, or one that a coarser source
    /// rounded to the old one.
    fn is_time(&self, now: &Attributes, old: &Attributes) -> Result<bool> {
        let (now, then) = (now.time(), old.time());
        Ok(is_cut_to(now, then) || self.rehearsal.kept_time(old)?.is_none_or(|kept| kept == now))
    }
}

/// Whether `then` is `now` rounded to coarser times: a primary that took over on a file system with coarse
/// times knows less of them than its old primary still has.
pub(crate) fn is_cut_to(now: i128, then: i128) -> bool {
    let whole = GRAINS.into_iter().rev().find(|grain| then.rem_euclid(*grain) == 0).unwrap_or(1);
    now - now.rem_euclid(whole) == then
}

/// Whether the mode differs. A file without its access list may have a narrower mode.
fn has_other_mode(now: u32, old: u32, limits: &Limits) -> bool {
    let narrowed = if limits.access_lists { old & !now & 0o077 } else { 0 };
    (now ^ old) & mode_bits(limits) & !narrowed != 0
}

/// Paths that differ from the base.
#[derive(Default)]
pub(crate) struct Drift {
    shown: Vec<String>,
    count: usize,
}

impl Drift {
    pub(crate) fn add(&mut self, path: &RelPath, what: &str) {
        self.count += 1;
        if self.count <= SHOWN {
            self.shown.push(format!("{} ({what})", path.display()));
        }
    }

    pub(crate) fn refuse(&self, root: &Root) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let more = self.count - self.shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Error::refused(
            format!(
                "{} was changed by hand since its newest snapshot: {}{more}",
                root.path().display(),
                self.shown.join(", ")
            ),
            "sync with --discard-drift keeps the changes as a snapshot and goes back first; if that does not \
             help, the snapshot has them, as it was taken while they came: `snapsync verify --repair PRIMARY \
             STANDBY` mends it. In a primary that is restored, move them away first",
        ))
    }
}

fn find(root: &Root, path: &RelPath) -> Result<Option<(Entry, Stat)>> {
    match root.entry(path).and_then(|entry| entry.stat().map(|stat| (entry, stat))) {
        Err(e) if is_absent(&e) => Ok(None),
        other => other.map(Some).context("read the attributes of", root.show(path)),
    }
}

/// Whether a name that will be removed exists but belongs to another inode: removing it could fail too late,
/// or destroy something else.
fn of_another(root: &Root, change: &Change, stat: Option<&Stat>, places: &Places) -> Result<Option<RelPath>> {
    let Some(stat) = stat else { return Ok(None) };
    for link in &change.links_removed {
        let path = places.old_path(link)?;
        if change.old_path.as_ref() == Some(&path) {
            continue;
        }
        let found = find(root, &path)?;
        if found.is_none_or(|(_, found)| (found.dev, found.ino) != (stat.dev, stat.ino)) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Whether something is protected that the base does not protect, which could not be removed or changed; or
/// whether its copy-on-write mode differs, which cannot be changed either.
fn is_protected_otherwise(
    root: &Root,
    change: &Change,
    stat: Option<&Stat>,
    limits: &Limits,
) -> Result<Option<&'static str>> {
    let (Some(stat), Some(old), Some(path)) = (stat, change.old, &change.old_path) else { return Ok(None) };
    if change.only_lends() || stat.kind != change.kind {
        return Ok(None);
    }
    if stat.attributes.flags & !old.flags & PROTECTIVE != 0 {
        return Ok(Some("protected by inode flags"));
    }
    // The commit sets flags only if there are any; otherwise the file need not be opened.
    let has_flags = (old.flags | change.new.map_or(0, |new| new.flags)) & !limits.flags != 0;
    if change.kind != Kind::File || !change.survives() || !has_flags || limits.flags & NOCOW != 0 {
        return Ok(None);
    }
    let now = root.entry(path).and_then(|entry| entry.open(OFlags::RDONLY)).and_then(flags_of);
    let now = now.context("read the inode flags of", root.show(path))?;
    Ok(((now ^ old.flags) & NOCOW != 0).then_some("copied on write otherwise"))
}

/// Only the owner can always set the set-id bits.
fn mode_bits(limits: &Limits) -> u32 {
    (if limits.owner { 0o777 } else { 0o7777 }) & !limits.mode
}

/// Whether something is mounted at a path, or on the way to it.
fn is_mount(root: &Root, path: &RelPath) -> bool {
    root.entry(path).is_err_and(|e| e.kind() == io::ErrorKind::CrossesDevices)
}

/// A new ext4 has this directory. While it is empty it may be replaced.
pub(crate) fn is_lost_and_found(root: &Root, path: &RelPath) -> bool {
    path.as_bytes() == b"lost+found"
        && root
            .open_at(
                path,
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
                rustix::fs::Mode::empty(),
            )
            .and_then(snapsync_sys::read_dir)
            .is_ok_and(|entries| entries.is_empty())
}
