//! Opens the two sides of a comparison in the cheapest way, and determines what that proves.

use crate::accounts::leaving::Leaving;
use crate::delta::as_taken::AsTaken;
use crate::delta::copied::Copied;
use crate::delta::hidden::Hidden;
use crate::delta::noting::{Noting, Shown};
use crate::delta::pruned::Pruned;
use crate::delta::widened::Widened;
use crate::location::place::{Opened, Place};
use snapsync_compare::{Told, Trust, changes, lost};
use snapsync_manifest::{ManifestHeader, ManifestReader, ManifestWriter};
use snapsync_model::{
    Change, Context, Counts, End, Error, Inode, Monitor, Provider, RelPath, Restless, Result, Side,
    SnapshotInfo, Subset,
};
use snapsync_snapshot::Volume;
use snapsync_sys::{FileSystem, Named, Root, btrfs};
use snapsync_walk::{Flush, Tree, candidates, relabel_by_path};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A directory, and the subset of it that counts.
type Part = (Root, Subset);

pub(crate) struct Sides {
    base: Option<Box<dyn Side>>,
    pub(crate) target: Box<dyn Side>,
    trust: Trust,
    /// Whether the target lists all its inodes, not only those that may differ.
    pub(crate) target_is_whole: bool,
    /// Files that are sent whole, whether they differ or not.
    again: BTreeSet<u64>,
    /// What a standby has of files whose bytes the base has lost.
    told: BTreeMap<u64, Told>,
}

impl Sides {
    /// Two snapshots of one volume, or the whole of the first.
    pub(crate) fn of_volume(
        volume: &Volume,
        base: Option<&SnapshotInfo>,
        target: &SnapshotInfo,
        monitor: &Monitor,
    ) -> Result<Sides> {
        if let Some(base) = base.filter(|base| base.entries.is_some())
            && let Some(found) = Sides::searched_in(volume, base, target, monitor)?
        {
            return Ok(found);
        }
        Sides::walked(volume, base, target, monitor)
    }

    /// Two snapshots of one volume whose sizes nobody needs.
    pub(crate) fn between(
        volume: &Volume,
        base: &SnapshotInfo,
        target: &SnapshotInfo,
        monitor: &Monitor,
    ) -> Result<Sides> {
        match Sides::searched_in(volume, base, target, monitor)? {
            Some(found) => Ok(found),
            None => Sides::walked(volume, Some(base), target, monitor),
        }
    }

    fn searched_in(
        volume: &Volume,
        base: &SnapshotInfo,
        target: &SnapshotInfo,
        monitor: &Monitor,
    ) -> Result<Option<Sides>> {
        [base, target].into_iter().try_for_each(|snapshot| volume.expect_there(snapshot))?;
        if let Some((base, target)) = volume.differing(base, target)? {
            return Ok(Some(Sides {
                base: Some(Box::new(base)),
                target: Box::new(target),
                trust: Trust::Objects,
                target_is_whole: false,
                again: BTreeSet::new(),
                told: BTreeMap::new(),
            }));
        }
        let (Some(from), Some(to)) = (volume.tree_of(base), volume.tree_of(target)) else { return Ok(None) };
        let (from, to) = ((from.tree()?, base.subset.clone()), (to.tree()?, target.subset.clone()));
        Sides::searched(&from, &to, Flush::Done, monitor)
    }

    fn walked(
        volume: &Volume,
        base: Option<&SnapshotInfo>,
        target: &SnapshotInfo,
        monitor: &Monitor,
    ) -> Result<Sides> {
        Ok(Sides {
            base: base.map(|info| volume.open_snapshot(info, monitor)).transpose()?,
            target: volume.open_snapshot(target, monitor)?,
            trust: trust(volume, base)?,
            target_is_whole: true,
            again: BTreeSet::new(),
            told: BTreeMap::new(),
        })
    }

    /// The same, with files that are sent whole, whether they differ or not.
    pub(crate) fn with_all_of(self, again: &BTreeSet<u64>) -> Result<Sides> {
        let base = self.base.map(|base| Widened::by(base, again)).transpose()?;
        Ok(Sides { base, target: Widened::by(self.target, again)?, again: again.clone(), ..self })
    }

    /// The large files that may differ, and whose bytes the base has lost.
    pub(crate) fn lost(&self) -> Result<impl Iterator<Item = Result<(Inode, Inode)>> + '_> {
        let found = self.base.as_deref().map(|base| lost(base, &*self.target, self.trust, &self.again));
        Ok(found.transpose()?.into_iter().flatten())
    }

    /// The path of an inode of the base.
    pub(crate) fn old_path(&self, inode: &Inode) -> Result<RelPath> {
        self.base.as_ref().map_or_else(|| Ok(RelPath::root()), |base| base.path(inode))
    }

    /// The same, with what a standby has of such files.
    pub(crate) fn with_told(self, told: BTreeMap<u64, Told>) -> Sides {
        Sides { told, ..self }
    }

    /// The same as if one of them did not have some files. Their directories are listed, as names come to
    /// them or go.
    pub(crate) fn without(self, end: End, rows: &[Inode]) -> Result<Sides> {
        if rows.is_empty() {
            return Ok(self);
        }
        let Some(base) = self.base else { return Ok(self) };
        let target = self.target;
        let inos: BTreeSet<u64> = rows.iter().map(|row| row.ino).collect();
        let others = if end == End::Base { target.pick(&inos)? } else { base.pick(&inos)? };
        let links = rows.iter().chain(&others).flat_map(|row| &row.links);
        let listed = &inos | &links.map(|link| link.parent).collect();
        let (base, target) = (Widened::by(base, &listed)?, Widened::by(target, &listed)?);
        let (base, target): (Box<dyn Side>, Box<dyn Side>) = match end {
            End::Base => (Box::new(Hidden { side: base, inos }), target),
            End::Target => (base, Box::new(Hidden { side: target, inos })),
        };
        Ok(Sides { base: Some(base), target, ..self })
    }

    /// The same of some paths and the directories above them.
    pub(crate) fn pruned(self, paths: &[RelPath]) -> Sides {
        let base: Option<Box<dyn Side>> = match self.base {
            Some(base) => Some(Box::new(Pruned::new(base, paths))),
            None => None,
        };
        Sides { base, target: Box::new(Pruned::new(self.target, paths)), target_is_whole: false, ..self }
    }

    /// The same with another target that lists the same inodes.
    pub(crate) fn with_target(self, make: impl FnOnce(Box<dyn Side>) -> Box<dyn Side>) -> Sides {
        Sides { target: make(self.target), ..self }
    }

    /// The target is a tree as it is, and counts as a snapshot of it would. `packed` is the size up to which
    /// files of that would lie in packs.
    pub(crate) fn like_taken(self, tree: &Root, packed: Option<u64>) -> Result<Sides> {
        let filesystem =
            snapsync_sys::filesystem(tree.fd()).context("read the file system of", tree.path())?;
        let is_on_btrfs = filesystem.magic == FileSystem::BTRFS;
        let space = self.base.as_ref().and_then(|base| base.space());
        Ok(self.with_target(|side| Box::new(AsTaken { side, space, packed, is_on_btrfs })))
    }

    /// Opens the sides that the user named.
    pub(crate) fn of_places(old: &Place, new: &Place, monitor: &Monitor) -> Result<Sides> {
        let sides = Sides::found_at(old, new, monitor)?;
        let space = sides.base.as_ref().and_then(|base| base.space());
        let comparable = space.is_some() && space == sides.target.space();
        if sides.target_is_whole && sides.trust == Trust::Nothing && !comparable {
            monitor.note("every file is read on both sides: they are not snapshots that share blocks");
        }
        Ok(sides)
    }

    /// The same without a note of what it costs.
    pub(crate) fn found_at(old: &Place, new: &Place, monitor: &Monitor) -> Result<Sides> {
        if let (Place::Snapshot(base), Place::Snapshot(target)) = (old, new)
            && old.pool().is_some_and(|pool| Some(pool) == new.pool())
            && let Some(found) = Sides::searched_in(&base.0, &base.1, &target.1, monitor)?
        {
            return Ok(found);
        }
        let flush = match (old, new) {
            (Place::Snapshot(_), Place::Snapshot(_)) => Flush::Done,
            _ => Flush::Due,
        };
        if let (Some(from), Some(to)) = (old.tree(monitor)?, new.tree(monitor)?)
            && let Some(found) = Sides::searched(&from, &to, flush, monitor)?
        {
            return Ok(found);
        }
        let beside;
        let new = match (old, new) {
            (Place::Log(base), Place::Log(target)) if base.log.id() == target.log.id() => {
                beside = Place::Log(Box::new(target.beside(base)));
                &beside
            }
            _ => new,
        };
        let mut opened = (old.open(monitor)?, new.open(monitor)?);
        let trust = identify(old, new, &mut opened)?;
        let (base, target) = (opened.0.into_side(), opened.1.into_side());
        Ok(Sides {
            base: Some(base),
            target,
            trust,
            target_is_whole: true,
            again: BTreeSet::new(),
            told: BTreeMap::new(),
        })
    }

    /// A snapshot, and what a standby holds instead of its own first one.
    pub(crate) fn of_copy(copy: Copied, target: Box<dyn Side>) -> Sides {
        Sides { base: Some(Box::new(copy)), trust: Trust::Copy, ..Sides::of_side(target) }
    }

    /// The whole of one side, compared with nothing.
    pub(crate) fn whole(place: &Place, monitor: &Monitor) -> Result<Sides> {
        let target = place.open(monitor)?.into_side();
        Ok(Sides::of_side(target))
    }

    /// Two sides in which equal numbers mean one inode; bytes are read where addresses prove nothing.
    pub(crate) fn between_sides(base: Box<dyn Side>, target: Box<dyn Side>) -> Sides {
        Sides { base: Some(base), ..Sides::of_side(target) }
    }

    pub(crate) fn of_side(target: Box<dyn Side>) -> Sides {
        Sides {
            base: None,
            target,
            trust: Trust::Nothing,
            target_is_whole: true,
            again: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    /// Everything that is found may differ, so nothing is trusted.
    fn searched(from: &Part, to: &Part, flush: Flush, monitor: &Monitor) -> Result<Option<Sides>> {
        if from.1 != to.1 {
            monitor.note("both snapshots are walked whole: their patterns differ");
            return Ok(None);
        }
        let found = candidates(&from.0, &to.0, flush, &to.1, monitor)?;
        Ok(found.map(|(old, new)| Sides {
            base: Some(Box::new(old)),
            target: Box::new(new),
            trust: Trust::Nothing,
            target_is_whole: false,
            again: BTreeSet::new(),
            told: BTreeMap::new(),
        }))
    }

    pub(crate) fn write_manifest(
        &self,
        manifest: &dyn Named,
        header: &ManifestHeader,
        monitor: &Monitor,
    ) -> Result<Counts> {
        self.write_changes(&*self.target, manifest, header, &mut as_it_is, monitor)
    }

    /// The same in the numbers of the lineage. Where others write to the target, files that change meanwhile
    /// are noted as restless, and their rows are of no use.
    pub(crate) fn write_delta(
        &self,
        restless: Option<&Restless>,
        manifest: &dyn Named,
        header: &ManifestHeader,
        leaving: &mut Leaving,
        monitor: &Monitor,
    ) -> Result<Counts> {
        let leave = &mut |change: &mut Change| leaving.row(change, monitor);
        let Some(restless) = restless else {
            return self.write_changes(&*self.target, manifest, header, leave, monitor);
        };
        let target = Noting { side: &*self.target, restless, shown: Shown::Empty };
        self.write_changes(&target, manifest, header, leave, monitor)
    }

    /// The same where only what changed counts, and not with which bytes: all of a file counts whose bytes
    /// the target has lost.
    pub(crate) fn write_what_is_known(
        &self,
        manifest: &dyn Named,
        header: &ManifestHeader,
        monitor: &Monitor,
    ) -> Result<Counts> {
        let restless = &Restless::default();
        let target = Noting { side: &*self.target, restless, shown: Shown::Whole };
        self.write_changes(&target, manifest, header, &mut as_it_is, monitor)
    }

    fn write_changes(
        &self,
        target: &dyn Side,
        manifest: &dyn Named,
        header: &ManifestHeader,
        show: &mut dyn FnMut(&mut Change) -> Result<()>,
        monitor: &Monitor,
    ) -> Result<Counts> {
        let mut writer = ManifestWriter::create(manifest, header)?;
        let write = &mut |mut change: Change| {
            show(&mut change)?;
            writer.write(&change)
        };
        let mut references =
            changes(self.base.as_deref(), target, self.trust, &self.again, &self.told, monitor, write)?;
        let counts = writer.finish()?;
        references.iter_mut().try_for_each(show)?;
        if references.is_empty() { Ok(counts) } else { insert(manifest, header, references) }
    }
}

/// Shows a row as its volume has it.
fn as_it_is(_: &mut Change) -> Result<()> {
    Ok(())
}

/// Inserts the rows that other rows refer to unless they are present. The old file is still read while the
/// new one already has its name.
fn insert(manifest: &dyn Named, header: &ManifestHeader, references: Vec<Change>) -> Result<Counts> {
    let rows = ManifestReader::open(manifest)?;
    let mut writer = ManifestWriter::create(manifest, header)?;
    let mut references = references.into_iter().peekable();
    for change in rows {
        let change = change?;
        while let Some(row) = references.next_if(|row| row.ino < change.ino) {
            writer.write(&row)?;
        }
        references.next_if(|row| row.ino == change.ino);
        writer.write(&change)?;
    }
    references.try_for_each(|row| writer.write(&row))?;
    writer.finish()
}

/// What proves that an inode is equal in two snapshots of a volume that are listed whole.
fn trust(volume: &Volume, base: Option<&SnapshotInfo>) -> Result<Trust> {
    let Some(base) = base else { return Ok(Trust::Nothing) };
    Ok(match volume.info().provider {
        Provider::Pool => Trust::Objects,
        Provider::Btrfs => Trust::Times { before: taken(base)? },
    })
}

/// When the snapshot began to be taken, in ns since 1970.
fn taken(snapshot: &SnapshotInfo) -> Result<i64> {
    let time: jiff::Timestamp = snapshot.created.parse().map_err(|e| {
        Error::integrity(
            format!("snapshot {} has no proper time: {e}", snapshot.name),
            "delete that snapshot",
        )
    })?;
    Ok(time.as_nanosecond() as i64)
}

/// Decides how inodes are identified on both sides, and what proves them unchanged.
fn identify(old: &Place, new: &Place, opened: &mut (Opened, Opened)) -> Result<Trust> {
    if let (Place::Snapshot(base), Place::Snapshot(target)) = (old, new)
        && base.0.info().id == target.0.info().id
    {
        return trust(&base.0, Some(&base.1));
    }
    if let (Place::Log(base), Place::Log(target)) = (old, new)
        && base.log.id() == target.log.id()
        && base.numbers() == target.numbers()
    {
        return Ok(Trust::Nothing);
    }
    let live = |volume: &Path, directory: &Path| directory.canonicalize().ok() == volume.canonicalize().ok();
    match (old, new) {
        (Place::Snapshot(named), Place::Directory(dir)) | (Place::Directory(dir), Place::Snapshot(named))
            if live(named.0.path(), dir.path()) =>
        {
            return Ok(Trust::Nothing);
        }
        _ => {}
    }
    match opened {
        (Opened::Tree(a), Opened::Tree(b)) if a.shares_numbers_with(b) => Ok(subvolume_trust(a, b)),
        (reference, Opened::Tree(tree)) => relabel_by_path(reference.side(), tree).map(|()| Trust::Nothing),
        (Opened::Tree(tree), reference) => relabel_by_path(reference.side(), tree).map(|()| Trust::Nothing),
        _ => Err(Error::usage(
            "snapshots of two volumes have no inode numbers in common",
            "compare them with `snapsync verify`, or name directories",
        )),
    }
}

/// Two read-only snapshots of one subvolume keep times and numbers; everything else is read.
fn subvolume_trust(a: &Tree, b: &Tree) -> Trust {
    let info = |tree: &Tree| btrfs::subvolume(tree.root().fd()).ok();
    match (info(a), info(b)) {
        (Some(a), Some(b))
            if a.read_only && b.read_only && a.parent_uuid == b.parent_uuid && a.parent_uuid != [0; 16] =>
        {
            Trust::Times { before: a.created_at.min(b.created_at) }
        }
        _ => Trust::Nothing,
    }
}
