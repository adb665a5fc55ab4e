//! Finds data that the receiver already has: in the base, under another name or at another offset, or in this
//! very delta.

use snapsync_model::{
    Address, Change, End, Error, Extent, Inode, Layout, Monitor, Op, Placed, Result, Segment, Side, Source,
    locked, read_still,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Shorter runs of new data are not remembered: many of them would take more memory than they save bytes.
const WORTH: u64 = 64 << 10;

/// The last run of each file is, though it may be shorter, up to so many: of more small files it would be too
/// much. What comes after them is still found among these.
const MOST_SHORT: usize = 1 << 20;

/// Finding the owners of a block takes the kernel a time that grows with the number of pieces that its extent
/// is in, which may be 100,000. So the pieces of extents in more than `FEW` are counted, and when a file or a
/// delta has used up its share, the rest of its shared data travels. The count does not depend on the speed
/// of the machine or the number of threads: equal input gives an equal manifest.
const FEW: u64 = 1_000;
const MOST_IN_FILE: u64 = 1 << 18;
const MOST_IN_DELTA: u64 = 1 << 22;

/// Runs of addresses that do not overlap: for each, its length, inode and offset in that inode.
#[derive(Debug, Default)]
struct Index(BTreeMap<Address, (u64, u64, u64)>);

#[derive(Clone, Copy)]
enum Run {
    Known { ino: u64, offset: u64, length: u64 },
    Unknown { length: u64 },
}

impl Index {
    fn of(ino: u64, layout: &Layout) -> Index {
        let mut index = Index::default();
        layout.placed().iter().for_each(|placed| index.add(ino, placed));
        index
    }

    /// What is known about `address`, and for how many bytes that holds.
    fn at(&self, address: Address) -> Run {
        if let Some((start, (length, ino, offset))) = self.0.range(..=address).next_back()
            && start.extent == address.extent
            && address.offset < start.offset + length
        {
            let skip = address.offset - start.offset;
            return Run::Known { ino: *ino, offset: offset + skip, length: length - skip };
        }
        let next = self.0.range(address..).next().filter(|(start, _)| start.extent == address.extent);
        Run::Unknown { length: next.map_or(u64::MAX, |(start, _)| start.offset - address.offset) }
    }

    /// Adds what is not known yet.
    fn add(&mut self, ino: u64, placed: &Placed) {
        let Some(address) = placed.address else { return };
        let mut done = 0;
        while done < placed.range.length {
            let left = placed.range.length - done;
            done += match self.at(address.plus(done)) {
                Run::Known { length, .. } => length.min(left),
                Run::Unknown { length } => {
                    let length = length.min(left);
                    self.0.insert(address.plus(done), (length, ino, placed.range.offset + done));
                    length
                }
            };
        }
    }
}

/// A part of a segment, and where the base has it.
pub(crate) struct Piece {
    pub(crate) length: u64,
    pub(crate) source: Option<Source>,
}

/// Looks up data in the base. The results do not depend on earlier lookups.
pub(crate) struct Shares<'a> {
    base: Option<&'a dyn Side>,
    /// Inodes that data is not taken from.
    but: BTreeSet<u64>,
    files: Mutex<HashMap<u64, Arc<Index>>>,
    /// The index of all files of the base, for a side that cannot tell the owners of an address.
    whole: OnceLock<Index>,
    /// The inodes of the base that clones come from.
    used: Mutex<BTreeSet<u64>>,
    /// The pieces of extents that lookups have counted.
    counted: AtomicU64,
    /// The pieces that a file of this chunk may count.
    allowed: AtomicU64,
}

/// What lookups for one file remember.
#[derive(Default)]
pub(crate) struct Last {
    /// Where the base has the previous piece: the next one is usually there too.
    index: RefCell<Option<Arc<Index>>>,
    /// The pieces of extents that they have counted.
    counted: Cell<u64>,
}

impl Last {
    fn at(&self, address: Address) -> Option<Run> {
        match self.index.borrow().as_ref()?.at(address) {
            Run::Unknown { .. } => None,
            known => Some(known),
        }
    }
}

impl<'a> Shares<'a> {
    pub(crate) fn new(base: Option<&'a dyn Side>, target: &dyn Side, but: &BTreeSet<u64>) -> Shares<'a> {
        let base = base.filter(|base| base.space().is_some() && base.space() == target.space());
        Shares {
            base,
            but: but.clone(),
            files: Mutex::default(),
            whole: OnceLock::new(),
            used: Mutex::default(),
            counted: AtomicU64::new(0),
            allowed: AtomicU64::new(MOST_IN_FILE),
        }
    }

    /// Called before files are compared in parallel: what one of them may count must not depend on the
    /// others.
    pub(crate) fn start_chunk(&self) {
        let left = MOST_IN_DELTA.saturating_sub(self.counted.load(Ordering::Relaxed));
        self.allowed.store(left.min(MOST_IN_FILE), Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn none() -> Shares<'static> {
        Shares {
            base: None,
            but: BTreeSet::new(),
            files: Mutex::default(),
            whole: OnceLock::new(),
            used: Mutex::default(),
            counted: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
        }
    }

    pub(crate) fn used(&self) -> BTreeSet<u64> {
        locked(&self.used).clone()
    }

    /// Splits `from..to` of a segment by where the base has it. `own` is the same file in the base; `last`
    /// belongs to this file.
    pub(crate) fn split(
        &self,
        segment: &Segment,
        (from, to): (u64, u64),
        own: Option<&Own<'_>>,
        (last, monitor): (&Last, &Monitor),
    ) -> Result<Vec<Piece>> {
        let (Some(base), Some(_), true) = (self.base, segment.address, segment.shared) else {
            return Ok(vec![Piece { length: to - from, source: None }]);
        };
        let (mut pieces, mut at) = (Vec::new(), from);
        while let Some(address) = segment.address_at(at).filter(|_| at < to) {
            monitor.check()?;
            let run = match own.map_or(Run::Unknown { length: u64::MAX }, |own| own.index().at(address)) {
                Run::Unknown { length } => match last.at(address) {
                    Some(known) => shorten(known, length),
                    None => self.elsewhere(base, address, length, (last, monitor))?,
                },
                known => known,
            };
            let (length, source) = match run {
                Run::Known { ino, length, .. } if self.but.contains(&ino) => (length, None),
                Run::Known { ino, offset, length } => {
                    locked(&self.used).insert(ino);
                    (length, Some(Source { end: End::Base, ino, offset }))
                }
                Run::Unknown { length } => (length, None),
            };
            let length = length.min(to - at);
            pieces.push(Piece { length, source });
            at += length;
        }
        Ok(pieces)
    }

    fn elsewhere(
        &self,
        base: &dyn Side,
        address: Address,
        within: u64,
        (last, monitor): (&Last, &Monitor),
    ) -> Result<Run> {
        let mut unknown = within;
        if last.counted.get() >= self.allowed.load(Ordering::Relaxed) {
            monitor.note(
                "some shared data travels: it is in so many pieces that finding it would take too long",
            );
            return Ok(Run::Unknown { length: unknown });
        }
        let Some(owners) = base.owners(address)? else {
            return Ok(shorten(self.whole(base)?.at(address), within));
        };
        if owners.pieces > FEW {
            last.counted.update(|counted| counted + owners.pieces);
            self.counted.fetch_add(owners.pieces, Ordering::Relaxed);
        }
        for ino in owners.inos {
            let file = self.file(base, ino)?;
            match file.at(address) {
                known @ Run::Known { .. } => {
                    *last.index.borrow_mut() = Some(file);
                    return Ok(shorten(known, within));
                }
                Run::Unknown { length } => unknown = unknown.min(length),
            }
        }
        Ok(Run::Unknown { length: unknown })
    }

    fn file(&self, base: &dyn Side, ino: u64) -> Result<Arc<Index>> {
        if let Some(known) = locked(&self.files).get(&ino) {
            return Ok(known.clone());
        }
        let index = match base.pick(&BTreeSet::from([ino]))?.first() {
            Some(inode) => layout(base, inode)?.map_or_else(Index::default, |layout| Index::of(ino, &layout)),
            None => Index::default(),
        };
        Ok(locked(&self.files).entry(ino).or_insert(Arc::new(index)).clone())
    }

    fn whole(&self, base: &dyn Side) -> Result<&Index> {
        if let Some(index) = self.whole.get() {
            return Ok(index);
        }
        let mut index = Index::default();
        for inode in base.everything()? {
            let inode = inode?;
            if inode.object != 0 && inode.attributes.size >= WORTH {
                let placed = layout(base, &inode)?.map_or_else(Vec::new, |layout| layout.placed());
                placed.iter().for_each(|placed| index.add(inode.ino, placed));
            }
        }
        Ok(self.whole.get_or_init(|| index))
    }
}

/// Where the base has the data of a file; None where it has lost it, so that nothing is taken from there.
fn layout(base: &dyn Side, inode: &Inode) -> Result<Option<Layout>> {
    let found = base
        .open(inode)
        .and_then(|mut file| read_still(base, inode, &mut file, |file| base.layout(inode, file)));
    match found {
        Err(Error::Lost { .. }) => Ok(None),
        other => other.map(Some),
    }
}

fn shorten(run: Run, most: u64) -> Run {
    match run {
        Run::Known { ino, offset, length } => Run::Known { ino, offset, length: length.min(most) },
        Run::Unknown { length } => Run::Unknown { length: length.min(most) },
    }
}

/// A file of the base, indexed on first use.
pub(crate) struct Own<'a> {
    ino: u64,
    layout: &'a Layout,
    index: OnceLock<Index>,
    pub(crate) last: Last,
}

impl<'a> Own<'a> {
    pub(crate) fn new(ino: u64, layout: &'a Layout) -> Own<'a> {
        Own { ino, layout, index: OnceLock::new(), last: Last::default() }
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::of(self.ino, self.layout))
    }
}

/// The new data of a delta in the order of its rows. Data that appears a second time becomes a clone of the
/// first.
#[derive(Default)]
pub(crate) struct Fresh {
    index: Index,
    /// How many of its runs are shorter than is worth it.
    short: usize,
}

impl Fresh {
    /// `layout` is that of the row's file in the target.
    pub(crate) fn deduplicate(&mut self, change: &mut Change, layout: &Layout) {
        let extents = std::mem::take(&mut change.extents);
        for extent in extents {
            if extent.op == Op::Data {
                self.data(change.ino, extent, layout, &mut change.extents);
            } else {
                change.extents.push(extent);
            }
        }
    }

    fn add(&mut self, ino: u64, (offset, length): (u64, u64), address: Address) {
        if length < WORTH && self.short == MOST_SHORT {
            return;
        }
        self.short += usize::from(length < WORTH);
        let range = snapsync_model::Range { offset, length };
        self.index.add(ino, &Placed { range, address: Some(address), shared: false });
    }

    fn data(&mut self, ino: u64, extent: Extent, layout: &Layout, out: &mut Vec<Extent>) {
        let end = extent.offset + extent.length;
        let segments = layout.segments();
        let first = segments.partition_point(|s| s.end() <= extent.offset);
        let mut at = extent.offset;
        for segment in segments[first..].iter().take_while(|s| s.offset < end) {
            let until = segment.end().min(end);
            let is_last = segments.last().is_some_and(|last| last.offset == segment.offset);
            while at < until {
                let (length, source) = match segment.address_at(at) {
                    Some(address) if until - at >= WORTH || is_last => match self.index.at(address) {
                        Run::Known { ino, offset, length } => {
                            (length, Some(Source { end: End::Target, ino, offset }))
                        }
                        Run::Unknown { length } => {
                            self.add(ino, (at, length.min(until - at)), address);
                            (length, None)
                        }
                    },
                    _ => (until - at, None),
                };
                let length = length.min(until - at);
                push(out, at, length, source);
                at += length;
            }
        }
        if at < end {
            push(out, at, end - at, None);
        }
    }
}

/// Appends data, or a clone if there is a source, and joins it with the last extent if it continues that.
pub(crate) fn push(out: &mut Vec<Extent>, offset: u64, length: u64, source: Option<Source>) {
    let op = if source.is_some() { Op::Clone } else { Op::Data };
    if let Some(last) = out.last_mut()
        && last.op == op
        && last.offset + last.length == offset
        && last.source.map(|s| Source { offset: s.offset + last.length, ..s }) == source
    {
        last.length += length;
        return;
    }
    out.push(Extent { offset, length, op, source, checksum: None });
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::{Content, Details, Inode, Inodes, Link, Owners, Range, RelPath, SegmentKind};

    fn placed(offset: u64, length: u64, start: u64) -> Placed {
        let address = Some(Address { extent: 0, offset: start });
        Placed { range: Range { offset, length }, address, shared: false }
    }

    fn at(index: &Index, start: u64) -> (Option<(u64, u64)>, u64) {
        match index.at(Address { extent: 0, offset: start }) {
            Run::Known { ino, offset, length } => (Some((ino, offset)), length),
            Run::Unknown { length } => (None, length),
        }
    }

    #[test]
    fn the_first_to_hold_an_address_keeps_it_and_others_get_the_rest() {
        let mut index = Index::default();
        index.add(1, &placed(0, 10, 100));
        index.add(2, &placed(50, 30, 95));
        assert_eq!(at(&index, 94), (None, 1));
        assert_eq!(at(&index, 95), (Some((2, 50)), 5));
        assert_eq!(at(&index, 103), (Some((1, 3)), 7));
        assert_eq!(at(&index, 110), (Some((2, 65)), 15));
        assert_eq!(at(&index, 125), (None, u64::MAX));
    }

    #[test]
    fn pieces_of_a_compressed_extent_are_not_pieces_of_another_at_the_same_offset() {
        let mut index = Index::default();
        index.add(1, &Placed { address: Some(Address { extent: 4097, offset: 0 }), ..placed(0, 100, 0) });
        assert!(matches!(index.at(Address { extent: 4097, offset: 50 }), Run::Known { length: 50, .. }));
        assert!(matches!(index.at(Address { extent: 8193, offset: 50 }), Run::Unknown { .. }));
        assert!(matches!(index.at(Address { extent: 0, offset: 50 }), Run::Unknown { .. }));
    }

    /// A base with extents in very many pieces, none of which is at the address that is looked up.
    #[derive(Default)]
    struct Shattered {
        lookups: AtomicU64,
    }

    impl Side for Shattered {
        fn inodes(&self) -> Result<Inodes<'_>> {
            Ok(Box::new(std::iter::empty()))
        }
        fn path_of(&self, _: &Link) -> Result<RelPath> {
            unreachable!()
        }
        fn details(&self, _: &Inode) -> Result<Details> {
            unreachable!()
        }
        fn open(&self, _: &Inode) -> Result<Content> {
            unreachable!()
        }
        fn holds_still(&self, _: &Inode, _: &Content) -> Result<()> {
            Ok(())
        }

        fn layout(&self, _: &Inode, _: &Content) -> Result<Layout> {
            unreachable!()
        }
        fn space(&self) -> Option<u128> {
            Some(1)
        }
        fn owners(&self, _: Address) -> Result<Option<Owners>> {
            self.lookups.fetch_add(1, Ordering::Relaxed);
            Ok(Some(Owners { inos: vec![7], pieces: 1 << 16 }))
        }
    }

    #[test]
    fn how_long_shared_data_is_looked_for_is_a_matter_of_counted_pieces_and_of_no_clock() {
        let base = Shattered::default();
        let (shares, monitor) = (Shares::new(Some(&base), &base, &BTreeSet::new()), Monitor::default());
        let look_up_a_file = || {
            let (before, last) = (base.lookups.load(Ordering::Relaxed), Last::default());
            for offset in (0..100).map(|block| block * 8192) {
                let address = Some(Address { extent: 0, offset });
                let segment =
                    Segment { offset, length: 4096, kind: SegmentKind::Data, address, shared: true };
                shares.split(&segment, (offset, offset + 4096), None, (&last, &monitor)).unwrap();
            }
            base.lookups.load(Ordering::Relaxed) - before
        };
        shares.start_chunk();
        assert_eq!((0..10).map(|_| look_up_a_file()).collect::<Vec<_>>(), [4; 10]);
        assert_eq!(monitor.take_notes().len(), 1);
        shares.start_chunk();
        assert_eq!((0..7).map(|_| look_up_a_file()).collect::<Vec<_>>(), [4; 7]);
        shares.start_chunk();
        assert_eq!(look_up_a_file(), 0);
    }

    #[test]
    fn clones_are_joined_only_where_their_source_goes_on() {
        let source = |offset| Some(Source { end: End::Base, ino: 7, offset });
        let mut out = Vec::new();
        push(&mut out, 0, 10, source(100));
        push(&mut out, 10, 10, source(110));
        push(&mut out, 20, 10, source(100));
        push(&mut out, 30, 10, None);
        let found: Vec<_> = out.iter().map(|e| (e.offset, e.length)).collect();
        assert_eq!(found, [(0, 20), (20, 10), (30, 10)]);
    }
}
