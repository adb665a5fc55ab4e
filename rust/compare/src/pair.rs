//! Compares one inode between both sides.

use crate::data::{self, Bytes};
use crate::share::{self, Last, Own, Shares};
use crate::told::Told;
use crate::trust::{TICK, Trust};
use snapsync_model::{
    Attributes, BLOCK, Change, ChangeFlags, Counters, Details, Error, Extent, Inode, Inodes, Kind, Layout,
    Link, Monitor, Op, ROOT, RelPath, Result, SegmentKind, Side, locked, read_still,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::iter::Peekable;
use std::sync::Mutex;

/// The error of a disk that cannot read a block.
const EIO: i32 = 5;
/// A commit may save elsewhere what is being read in the tree: then it is there the second time.
const ATTEMPTS: usize = 2;
/// `FS_NOCOW_FL`.
const NOCOW: u32 = 0x0080_0000;

pub(crate) struct Pair {
    pub(crate) base: Option<Inode>,
    pub(crate) target: Option<Inode>,
}

impl Pair {
    pub(crate) fn ino(&self) -> u64 {
        self.base.as_ref().or(self.target.as_ref()).map_or(ROOT, |i| i.ino)
    }

    /// Whether the number was freed and reused for another inode.
    pub(crate) fn is_replaced(&self) -> bool {
        match (&self.base, &self.target) {
            (Some(b), Some(t)) => {
                b.ino != ROOT
                    && (b.kind != t.kind
                        || b.generation != t.generation
                        || b.attributes.rdev != t.attributes.rdev)
            }
            _ => false,
        }
    }

    /// Whether it is a directory on both sides.
    pub(crate) fn is_directory(&self) -> bool {
        let is = |inode: &Option<Inode>| inode.as_ref().is_some_and(|i| i.kind == Kind::Directory);
        is(&self.base) && is(&self.target)
    }

    /// The names removed and added. A name in a replaced directory counts as both.
    pub(crate) fn link_changes(&self, replaced: &HashSet<u64>) -> (Vec<Link>, Vec<Link>) {
        let old = self.base.as_ref().map_or(&[][..], |i| &i.links);
        let new = self.target.as_ref().map_or(&[][..], |i| &i.links);
        if self.is_replaced() {
            return (old.to_vec(), new.to_vec());
        }
        let without = |links: &[Link], other: &[Link]| -> Vec<Link> {
            let stays = |link: &Link| !replaced.contains(&link.parent) && other.binary_search(link).is_ok();
            links.iter().filter(|link| !stays(link)).cloned().collect()
        };
        (without(old, new), without(new, old))
    }
}

/// Merges both sides by inode number.
pub(crate) struct Pairs<'a> {
    base: Peekable<Inodes<'a>>,
    target: Peekable<Inodes<'a>>,
}

impl<'a> Pairs<'a> {
    pub(crate) fn new(base: Option<&'a dyn Side>, target: &'a dyn Side) -> Result<Self> {
        let base: Inodes<'a> = match base {
            Some(side) => side.inodes()?,
            None => Box::new(std::iter::empty()),
        };
        Ok(Pairs { base: base.peekable(), target: target.inodes()?.peekable() })
    }
}

impl Iterator for Pairs<'_> {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Result<Pair>> {
        let number = |item: &Result<Inode>| item.as_ref().map_or(ROOT, |i| i.ino);
        let (base, target) = (self.base.peek().map(number), self.target.peek().map(number));
        let (take_base, take_target) = match (base, target) {
            (None, None) => return None,
            (b, None) => (b.is_some(), false),
            (None, _) => (false, true),
            (Some(b), Some(t)) => (b <= t, t <= b),
        };
        let base = take_base.then(|| self.base.next()).flatten().transpose();
        let target = take_target.then(|| self.target.next()).flatten().transpose();
        Some(base.and_then(|base| Ok(Pair { base, target: target? })))
    }
}

/// Compares pairs.
pub(crate) struct Look<'a> {
    pub(crate) base: Option<&'a dyn Side>,
    pub(crate) target: &'a dyn Side,
    pub(crate) trust: Trust,
    /// Files that count as changed as a whole.
    pub(crate) again: &'a BTreeSet<u64>,
    /// Files whose bytes the base has lost, as the receiver has them.
    pub(crate) told: &'a BTreeMap<u64, Told>,
    pub(crate) shares: Shares<'a>,
    pub(crate) replaced: &'a HashSet<u64>,
    /// Directories that must have a row, as found while other rows were made.
    pub(crate) places: Mutex<BTreeSet<u64>>,
    pub(crate) monitor: &'a Monitor,
}

/// A change, and the target's layout of the file if addresses are comparable.
pub(crate) struct Row {
    pub(crate) change: Change,
    pub(crate) layout: Option<Layout>,
}

impl Look<'_> {
    /// Whether the pair is proven equal without opening anything.
    pub(crate) fn is_plainly_same(&self, pair: &Pair) -> bool {
        let (Some(base), Some(target)) = (&pair.base, &pair.target) else { return false };
        match self.trust {
            Trust::Nothing | Trust::Copy => false,
            Trust::Times { before } => {
                base == target && base.ctime < before.saturating_sub(TICK) && is_empty(base)
            }
            Trust::Objects => {
                // The change time and the number of blocks depend on the file system only.
                let same = |i: &Inode| (i.generation, i.kind, i.attributes, i.object);
                same(base) == same(target) && base.links == target.links && base.details == target.details
            }
        }
    }

    /// The changes of a pair: none, one, or, if a number was reused, two with the deleted one first. An
    /// anchor always has one.
    pub(crate) fn changes(&self, pair: &Pair, anchor: bool) -> Result<Vec<Row>> {
        self.monitor.check()?;
        let bare = |change| Row { change, layout: None };
        match (&pair.base, &pair.target, self.base) {
            (Some(base), None, Some(side)) => Ok(vec![bare(deleted(side, base)?)]),
            (None, Some(target), _) => Ok(vec![self.created(target)?]),
            (Some(base), Some(target), Some(side)) => {
                self.monitor.count(Counters { inodes_compared: 1, ..Counters::default() });
                let (old, new) = (side.details(base)?, self.target.details(target)?);
                let is_replaced = pair.is_replaced();
                if is_replaced || cannot_become(base.kind, &old, &new) {
                    if !is_replaced {
                        // Its names seemed unchanged, so their directories may have no row.
                        let parents = base.links.iter().chain(&target.links).map(|link| link.parent);
                        locked(&self.places).extend(parents);
                    }
                    return Ok(vec![bare(deleted(side, base)?), self.created(target)?]);
                }
                let row = self.survivor(side, pair, (base, old), (target, new))?;
                Ok(if anchor || row.change.flags.any() { vec![row] } else { Vec::new() })
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The row of an inode that other rows refer to.
    pub(crate) fn reference(&self, pair: &Pair) -> Result<Option<Change>> {
        let (Some(base), Some(target), Some(side)) = (&pair.base, &pair.target, self.base) else {
            return Ok(None);
        };
        let (old, new) = (side.details(base)?, self.target.details(target)?);
        let nothing = (Vec::new(), None);
        self.survivor_with(side, pair, (base, old), (target, new), nothing).map(|row| Some(row.change))
    }

    fn created(&self, inode: &Inode) -> Result<Row> {
        let details = self.target.details(inode)?;
        let (extents, layout) =
            if inode.kind == Kind::File { self.whole(inode)? } else { (Vec::new(), None) };
        let change = Change {
            ino: inode.ino,
            generation: inode.generation,
            kind: inode.kind,
            flags: ChangeFlags { created: true, ..ChangeFlags::default() },
            path: Some(self.target.path(inode)?),
            old_path: None,
            links_added: inode.links.clone(),
            links_removed: Vec::new(),
            nlink: inode.links.len() as u32,
            nlink_old: 0,
            new: Some(attributes(inode, &details)),
            old: None,
            symlink_target: details.symlink_target,
            xattrs: Some(details.xattrs),
            extents,
        };
        Ok(Row { change, layout })
    }

    fn is_again(&self, inode: &Inode) -> bool {
        inode.kind == Kind::File && self.again.contains(&inode.ino)
    }

    /// All of a file that the receiver has but whose copy cannot be trusted; `old` is what it was.
    fn all(&self, inode: &Inode, old: &Details) -> Result<(Vec<Extent>, Option<Layout>)> {
        let layout = self.layout(inode)?;
        let op = |kind| match kind {
            SegmentKind::Data => Op::Data,
            SegmentKind::Hole => Op::Hole,
            SegmentKind::Unwritten => Op::Unwritten,
        };
        let mut extents: Vec<Extent> = Vec::new();
        for segment in layout.segments() {
            match extents.last_mut() {
                Some(last) if last.op == op(segment.kind) && last.offset + last.length == segment.offset => {
                    last.length += segment.length;
                }
                _ => extents.push(data::extent(segment.offset, segment.length, op(segment.kind))),
            }
        }
        // What was preallocated beyond that is not any more.
        let end = extents.last().map_or(0, Extent::end).max(inode.attributes.size.next_multiple_of(BLOCK));
        if let Some(lost) = old.unwritten.iter().map(|range| range.end()).max().filter(|lost| *lost > end) {
            extents.push(data::extent(end, lost - end, Op::Hole));
        }
        Ok((extents, self.with_addresses(layout)))
    }

    /// All of a new file except its holes.
    fn whole(&self, inode: &Inode) -> Result<(Vec<Extent>, Option<Layout>)> {
        if inode.attributes.size == 0 && inode.blocks == 0 {
            return Ok((Vec::new(), None));
        }
        let layout = match self.target.known_layout(inode)? {
            Some(layout) => layout,
            None => self.layout(inode)?,
        };
        let (mut extents, last) = (Vec::new(), Last::default());
        for segment in layout.segments() {
            let mut at = segment.offset;
            match segment.kind {
                SegmentKind::Hole => {}
                SegmentKind::Unwritten => {
                    extents.push(data::extent(segment.offset, segment.length, Op::Unwritten));
                }
                SegmentKind::Data => {
                    for piece in self.shares.split(
                        segment,
                        (segment.offset, segment.end()),
                        None,
                        (&last, self.monitor),
                    )? {
                        share::push(&mut extents, at, piece.length, piece.source);
                        at += piece.length;
                    }
                }
            }
        }
        Ok((extents, self.with_addresses(layout)))
    }

    /// Where the target has the data of a file.
    fn layout(&self, inode: &Inode) -> Result<Layout> {
        let mut file = self.target.open(inode)?;
        read_still(self.target, inode, &mut file, |file| self.target.layout(inode, file))
    }

    fn with_addresses(&self, layout: Layout) -> Option<Layout> {
        self.target.space().is_some().then_some(layout)
    }

    fn survivor(
        &self,
        side: &dyn Side,
        pair: &Pair,
        (base, old): (&Inode, Details),
        (target, new): (&Inode, Details),
    ) -> Result<Row> {
        let data = if base.kind == Kind::File {
            self.data(side, base, target, &old, &new)?
        } else {
            (Vec::new(), None)
        };
        self.survivor_with(side, pair, (base, old), (target, new), data)
    }

    fn survivor_with(
        &self,
        side: &dyn Side,
        pair: &Pair,
        (base, old): (&Inode, Details),
        (target, new): (&Inode, Details),
        (extents, layout): (Vec<Extent>, Option<Layout>),
    ) -> Result<Row> {
        let (links_removed, links_added) = pair.link_changes(self.replaced);
        let (was, is) = (attributes(base, &old), attributes(target, &new));
        let sizeless = |a: Attributes| Attributes { size: 0, ..a };
        let xattrs_changed = old.xattrs != new.xattrs;
        let (from, to) = kept_name(base, target, &links_removed);
        let change = Change {
            ino: target.ino,
            generation: target.generation,
            kind: target.kind,
            flags: ChangeFlags {
                created: false,
                deleted: false,
                renamed: !links_added.is_empty() && !links_removed.is_empty(),
                data: !extents.is_empty() || (base.kind == Kind::File && was.size != is.size),
                attributes: sizeless(was) != sizeless(is),
                xattrs: xattrs_changed,
                links: links_added.len() != links_removed.len(),
            },
            path: Some(from_name(self.target, to)?),
            old_path: Some(from_name(side, from)?),
            links_added,
            links_removed,
            nlink: target.links.len() as u32,
            nlink_old: base.links.len() as u32,
            new: Some(is),
            old: Some(was),
            symlink_target: new.symlink_target,
            // They are sent even if they did not change: writing to a file or changing its owner removes its
            // capabilities, its mode and access list depend on each other, and a target reports each time
            // what it cannot hold.
            xattrs: (xattrs_changed || !new.xattrs.is_empty()).then_some(new.xattrs),
            extents,
        };
        Ok(Row { change, layout })
    }

    fn data(
        &self,
        side: &dyn Side,
        base: &Inode,
        target: &Inode,
        old: &Details,
        new: &Details,
    ) -> Result<(Vec<Extent>, Option<Layout>)> {
        if self.is_again(target) {
            return self.all(target, old);
        }
        let is_laid_alike = old.unwritten == new.unwritten || self.trust == Trust::Copy;
        if self.trust.proves_data(base, target) && is_laid_alike {
            return Ok((Vec::new(), None));
        }
        if is_empty(base) && is_empty(target) {
            return Ok((Vec::new(), None));
        }
        for _ in 0..ATTEMPTS {
            match self.differences(side, base, target) {
                Err(Error::Lost { .. }) => {}
                // One side's data cannot be read, or was cut meanwhile. If it is the target's, its later read
                // tells.
                Err(e) if e.errno() == Some(EIO) || e.is_short() => break,
                other => return other,
            }
        }
        // What the base had is lost, and the receiver has not told: whatever it has is overwritten. If the
        // target's is lost, this says so.
        self.all(target, old)
    }

    fn differences(
        &self,
        side: &dyn Side,
        base: &Inode,
        target: &Inode,
    ) -> Result<(Vec<Extent>, Option<Layout>)> {
        let from = match self.told.get(&base.ino) {
            Some(told) => Bytes::Told(told),
            None => Bytes::File(side.open(base)?),
        };
        let from_layout = match &from {
            Bytes::Told(told) => told.layout.clone(),
            Bytes::File(file) => side.layout(base, file)?,
        };
        let to = self.target.open(target)?;
        let to_layout = self.target.layout(target, &to)?;
        let show = self.target.path(target)?;
        let extents = data::Both {
            from: &from,
            to: &to,
            base: data::Laid { layout: &from_layout, size: base.attributes.size },
            target: data::Laid { layout: &to_layout, size: target.attributes.size },
            comparable: side.space().is_some() && side.space() == self.target.space(),
            shares: &self.shares,
            own: Own::new(base.ino, &from_layout),
            monitor: self.monitor,
        }
        .differences(show.as_path());
        // First, as what is no more there could not be read either.
        if let Bytes::File(file) = &from {
            side.holds_still(base, file)?;
        }
        self.target.holds_still(target, &to)?;
        let extents = extents?;
        Ok((extents, self.with_addresses(to_layout)))
    }
}

/// Whether it has no data: it is not a file, or nothing is allocated for it.
fn is_empty(inode: &Inode) -> bool {
    inode.kind != Kind::File || (inode.attributes.size == 0 && inode.blocks == 0)
}

/// Whether a standby can only make the inode anew: a link's target cannot change, and a file's copy-on-write
/// mode and extent size can only be set while it is empty.
fn cannot_become(kind: Kind, old: &Details, new: &Details) -> bool {
    let placed = |details: &Details| (details.flags & NOCOW, details.rare.extent_size);
    old.symlink_target != new.symlink_target || (kind == Kind::File && placed(old) != placed(new))
}

fn deleted(side: &dyn Side, inode: &Inode) -> Result<Change> {
    let Attributes { flags, rare, .. } = inode.attributes;
    let none = Details { flags, rare, ..Details::default() };
    let details = inode.details.as_deref().unwrap_or(&none);
    Ok(Change {
        ino: inode.ino,
        generation: inode.generation,
        kind: inode.kind,
        flags: ChangeFlags { deleted: true, ..ChangeFlags::default() },
        path: None,
        old_path: Some(side.path(inode)?),
        links_added: Vec::new(),
        links_removed: inode.links.clone(),
        nlink: 0,
        nlink_old: inode.links.len() as u32,
        new: None,
        old: Some(attributes(inode, details)),
        symlink_target: None,
        xattrs: None,
        extents: Vec::new(),
    })
}

fn attributes(inode: &Inode, details: &Details) -> Attributes {
    let size = if inode.kind == Kind::File { inode.attributes.size } else { 0 };
    Attributes { size, ..inode.attributes.with(details) }
}

/// The name on each side; one that stayed, if there is one.
fn kept_name<'a>(
    base: &'a Inode,
    target: &'a Inode,
    removed: &[Link],
) -> (Option<&'a Link>, Option<&'a Link>) {
    match base.links.iter().find(|link| !removed.contains(link)) {
        Some(link) => (Some(link), Some(link)),
        None => (base.links.first(), target.links.first()),
    }
}

fn from_name(side: &dyn Side, link: Option<&Link>) -> Result<RelPath> {
    link.map_or_else(|| Ok(RelPath::root()), |link| side.path_of(link))
}
