//! Compares the data of one file on both sides.

use crate::share::{self, Own, Shares};
use crate::told::Told;
use snapsync_model::{
    Address, BLOCK, Content, Context, Counters, Extent, LARGEST_BLOCK, Layout, Monitor, Op, Result, Segment,
    SegmentKind,
};
use std::io;
use std::path::Path;

const READ: u64 = 1 << 20;

/// What is known of the bytes of a base.
pub(crate) enum Bytes<'a> {
    File(Content),
    Told(&'a Told),
}

#[derive(Clone, Copy)]
pub(crate) struct Laid<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) size: u64,
}

pub(crate) fn extent(offset: u64, length: u64, op: Op) -> Extent {
    Extent { offset, length, op, source: None, checksum: None }
}

/// One file on both sides.
pub(crate) struct Both<'a> {
    pub(crate) from: &'a Bytes<'a>,
    pub(crate) to: &'a Content,
    pub(crate) base: Laid<'a>,
    pub(crate) target: Laid<'a>,
    /// Whether equal addresses prove equal bytes.
    pub(crate) comparable: bool,
    pub(crate) shares: &'a Shares<'a>,
    pub(crate) own: Own<'a>,
    pub(crate) monitor: &'a Monitor,
}

impl Both<'_> {
    /// The extents that turn `base` into `target`: addresses are compared first, and bytes are read where
    /// both sides hold data and the addresses prove nothing. The change of the size itself is recorded
    /// elsewhere.
    pub(crate) fn differences(&self, path: &Path) -> Result<Vec<Extent>> {
        let (mut found, mut ahead) = (Found::default(), Ahead { pieces: self.pieces(), bytes: 0 });
        let (base, target) = (self.base, self.target);
        // A change of size can remove preallocation beyond the end of the file.
        let kept_below = if base.size == target.size { u64::MAX } else { base.size.min(target.size) };
        // When the end of a file moves into or out of a block, some file systems write that block.
        let (end_moves, end_before) = (base.size != target.size, base.size.min(target.size));
        let written = |from: u64, to: u64, block: u64| {
            let edge = end_before / block * block;
            let (from, to) = (edge.max(from), (edge + block).min(to));
            (end_moves && edge < end_before && from < to).then_some((from, to))
        };
        for piece in self.pieces() {
            let Piece { segment, from, to, kind, .. } = piece;
            match (kind, segment.kind) {
                (_, SegmentKind::Data) => {
                    if self.is_read(&piece).is_some() {
                        ahead.go_on(self, to - from);
                    }
                    self.data(&piece, &mut found, path)?;
                    self.monitor.check()?;
                }
                (Some(SegmentKind::Unwritten), SegmentKind::Unwritten) if from < kept_below => {
                    if let Some((from, to)) = written(from, to, BLOCK) {
                        found.add(from, to, Op::Unwritten);
                    }
                }
                (Some(SegmentKind::Hole) | None, SegmentKind::Hole) => {
                    if let Some((from, to)) = written(from, to, LARGEST_BLOCK) {
                        found.add_hole(segment, from, to);
                    }
                }
                (_, SegmentKind::Unwritten) => found.add(from, to, Op::Unwritten),
                (_, SegmentKind::Hole) => found.add_hole(segment, from, to),
            }
        }
        found.add_lost_tail(base.layout, target);
        found.keep_end(target);
        self.monitor.count(found.counters);
        Ok(found.extents)
    }

    /// The target's segments, split where the base's begin and end.
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let base = self.base.layout;
        self.target.layout.segments().iter().flat_map(move |segment| {
            let mut at = segment.offset;
            std::iter::from_fn(move || {
                let from = at;
                let (kind, address, until) = lies_at(base, from);
                at = until.min(segment.end());
                (from < segment.end()).then_some(Piece { segment, from, to: at, kind, address })
            })
        })
    }

    fn is_same(&self, piece: &Piece<'_>) -> bool {
        let new = piece.segment.address_at(piece.from).filter(|_| self.comparable);
        new.is_some() && piece.old().flatten() == new
    }

    /// The base's file if both sides hold data here that may differ.
    fn is_read(&self, piece: &Piece<'_>) -> Option<&Content> {
        match self.from {
            Bytes::Told(_) => None,
            Bytes::File(file) => {
                let may_differ = piece.old().is_some() && !self.is_same(piece);
                (piece.segment.kind == SegmentKind::Data && may_differ).then_some(file)
            }
        }
    }

    fn data(&self, piece: &Piece<'_>, found: &mut Found, path: &Path) -> Result<()> {
        let Piece { segment, from, to, .. } = *piece;
        let (old, new) = (piece.old(), segment.address_at(from).filter(|_| self.comparable));
        found.counters.extents_compared += u64::from(old.is_some());
        if self.is_same(piece) {
            return Ok(());
        }
        let mut at = from;
        for piece in
            self.shares.split(segment, (from, to), Some(&self.own), (&self.own.last, self.monitor))?
        {
            let until = at + piece.length;
            match (piece.source, old) {
                (None, Some(old)) => {
                    let moved = old.is_some() && new.is_some();
                    self.read(at, until, moved, found).context("compare", path)?;
                }
                (source, _) => share::push(&mut found.extents, at, piece.length, source),
            }
            at = until;
        }
        Ok(())
    }

    /// Finds the blocks that differ. Equal ones are ghosts if `moved` is set.
    fn read(&self, from: u64, to: u64, moved: bool, found: &mut Found) -> io::Result<()> {
        let file = match self.from {
            Bytes::File(file) => file,
            Bytes::Told(told) => {
                told.others(from, to).for_each(|(from, to)| found.add(from, to, Op::Data));
                return Ok(());
            }
        };
        let mut old = vec![0; READ.min(to - from) as usize];
        let mut new = old.clone();
        let mut at = from;
        while at < to && self.monitor.check().is_ok() {
            let length = READ.min(to - at) as usize;
            file.read_exact_at(&mut old[..length], at)?;
            self.to.read_exact_at(&mut new[..length], at)?;
            found.counters.bytes_read += 2 * length as u64;
            found.blocks(&old[..length], &new[..length], at, moved);
            at += length as u64;
        }
        Ok(())
    }
}

/// A part of one segment of the target that lies within one segment of the base.
struct Piece<'a> {
    segment: &'a Segment,
    from: u64,
    to: u64,
    /// The kind of the base's segment there, and its address; None past the end.
    kind: Option<SegmentKind>,
    address: Option<Address>,
}

impl Piece<'_> {
    /// The base's address if it has data here too: Some(None) if that data has no address.
    fn old(&self) -> Option<Option<Address>> {
        (self.kind == Some(SegmentKind::Data)).then_some(self.address)
    }
}

/// Starts reading short pieces before they are needed. In long ones the kernel reads ahead by itself, but it
/// would wait for each short one.
struct Ahead<P> {
    pieces: P,
    /// The bytes of the pieces that are being read ahead.
    bytes: u64,
}

impl<'a, P: Iterator<Item = Piece<'a>>> Ahead<P> {
    /// Called after the next `done` bytes.
    fn go_on(&mut self, both: &Both<'_>, done: u64) {
        while self.bytes < READ + done {
            let read = |piece: P::Item| both.is_read(&piece).map(|file| (piece, file));
            let Some((piece, file)) = self.pieces.by_ref().find_map(read) else { break };
            let length = piece.to - piece.from;
            if length < READ {
                snapsync_sys::read_ahead(file, piece.from, length);
                snapsync_sys::read_ahead(both.to, piece.from, length);
            }
            self.bytes += length;
        }
        self.bytes = self.bytes.saturating_sub(done);
    }
}

/// The kind and address of what is at `at`, and where it ends; None past the end.
fn lies_at(layout: &Layout, at: u64) -> (Option<SegmentKind>, Option<Address>, u64) {
    let segments = layout.segments();
    let next = segments.partition_point(|s| s.end() <= at);
    match segments.get(next) {
        Some(s) if s.offset <= at => (Some(s.kind), s.address_at(at), s.end()),
        Some(s) => (None, None, s.offset),
        None => (None, None, u64::MAX),
    }
}

#[derive(Default)]
struct Found {
    extents: Vec<Extent>,
    counters: Counters,
    /// The end of the last ghost.
    ghost: Option<u64>,
}

impl Found {
    fn add(&mut self, from: u64, to: u64, op: Op) {
        if op == Op::Data {
            return share::push(&mut self.extents, from, to - from, None);
        }
        match self.extents.last_mut() {
            Some(last) if last.op == op && last.offset + last.length == from => last.length += to - from,
            _ => self.extents.push(extent(from, to - from, op)),
        }
    }

    /// Adds a hole with what lies around it in the same segment, as far as one block of the target may reach.
    fn add_hole(&mut self, hole: &Segment, from: u64, to: u64) {
        let (from, to) = around(hole, from, to, LARGEST_BLOCK);
        match self.extents.last_mut() {
            Some(last) if last.op == Op::Hole && last.end() >= from => last.length = to - last.offset,
            _ => self.extents.push(extent(from, to - from, Op::Hole)),
        }
    }

    fn blocks(&mut self, old: &[u8], new: &[u8], at: u64, moved: bool) {
        if old == new {
            if moved {
                self.add_ghost(at, old.len() as u64);
            }
            return;
        }
        let mut done = 0;
        while done < old.len() {
            let here = at + done as u64;
            let length = ((BLOCK - here % BLOCK) as usize).min(old.len() - done);
            if old[done..done + length] != new[done..done + length] {
                self.add(here, here + length as u64, Op::Data);
            } else if moved {
                self.add_ghost(here, length as u64);
            }
            done += length;
        }
    }

    fn add_ghost(&mut self, at: u64, length: u64) {
        self.counters.ghosts += u64::from(self.ghost != Some(at));
        self.counters.ghost_bytes += length;
        self.ghost = Some(at + length);
    }

    /// To preallocate beyond the end, some file systems write the block that the end cuts, and to remove such
    /// preallocation, that whole block must be punched. So the block is included.
    fn keep_end(&mut self, target: Laid<'_>) {
        let size = target.size;
        let is_beyond =
            |e: &Extent| (e.op == Op::Unwritten && e.offset > size) || (e.op == Op::Hole && e.offset >= size);
        let cuts = |s: &&Segment| s.offset < size && size <= s.end();
        let Some(last) = target.layout.segments().iter().rfind(cuts) else { return };
        let (op, block) = match last.kind {
            SegmentKind::Hole => (Op::Hole, LARGEST_BLOCK),
            SegmentKind::Unwritten => (Op::Unwritten, BLOCK),
            SegmentKind::Data => return,
        };
        if size.is_multiple_of(block) || !self.extents.iter().any(is_beyond) {
            return;
        }
        let (mut from, mut to) = around(last, size - 1, size, block);
        // Extents within the same segment have the same kind.
        let first = self.extents.partition_point(|e| e.end() <= from);
        let told = self.extents[first..].partition_point(|e| e.offset < to);
        for e in &self.extents[first..first + told] {
            (from, to) = (from.min(e.offset), to.max(e.end()));
        }
        self.extents.splice(first..first + told, [extent(from, to - from, op)]);
    }

    /// Adds preallocation beyond the end that the target no longer has. Some file systems can only remove all
    /// of it, so what the target still has there is included.
    fn add_lost_tail(&mut self, base: &Layout, target: Laid<'_>) {
        let tail = target.layout.tail();
        let lost = base.segments().iter().filter(|s| s.kind == SegmentKind::Unwritten && s.end() > tail);
        let is_lost = |s: &Segment| {
            let from = s.offset.max(tail);
            let (kind, _, until) = lies_at(target.layout, from);
            kind != Some(SegmentKind::Unwritten) || until < s.end()
        };
        if !lost.clone().any(is_lost) {
            return;
        }
        self.extents.retain_mut(|e| {
            e.length = e.length.min(tail.saturating_sub(e.offset));
            e.length > 0
        });
        let mut at = tail;
        for kept in target.layout.segments().iter().filter(|s| s.end() > tail) {
            let from = kept.offset.max(tail);
            if at < from {
                self.extents.push(extent(at, from - at, Op::Hole));
            }
            self.add(from, kept.end(), Op::Unwritten);
            at = kept.end();
        }
        let end = lost.map(Segment::end).max().unwrap_or(at);
        if at < end {
            self.extents.push(extent(at, end - at, Op::Hole));
        }
    }
}

/// A range with what lies around it in its segment, as far as one block of `block` bytes may reach.
fn around(segment: &Segment, from: u64, to: u64, block: u64) -> (u64, u64) {
    ((from / block * block).max(segment.offset), to.next_multiple_of(block).min(segment.end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::Placed;
    use snapsync_model::Range;
    use std::fs::File;
    use std::io::Write;

    fn data(offset: u64, length: u64) -> Placed {
        Range { offset, length }.into()
    }

    fn at(offset: u64, length: u64, start: u64) -> Placed {
        Placed { address: Some(Address { extent: 0, offset: start }), ..data(offset, length) }
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn rows(base: (&[u8], &Layout), target: (&[u8], &Layout)) -> Vec<(u64, u64, Op)> {
        let (from, to) = (&Bytes::File(file(base.0).into()), &file(target.0).into());
        let a = Laid { layout: base.1, size: base.0.len() as u64 };
        let b = Laid { layout: target.1, size: target.0.len() as u64 };
        let (monitor, shares) = (&Monitor::default(), &Shares::none());
        let own = Own::new(1, base.1);
        let both = Both { from, to, base: a, target: b, comparable: true, shares, own, monitor };
        both.differences(Path::new("f")).unwrap().into_iter().map(|e| (e.offset, e.length, e.op)).collect()
    }

    fn all(size: u64) -> Layout {
        Layout::new(size, &[data(0, size)], &[])
    }

    #[test]
    fn only_the_blocks_that_differ_are_told_and_neighbours_are_joined() {
        let old = vec![1; 5 * 4096];
        let mut new = old.clone();
        (new[4096], new[2 * 4096 + 7], new[4 * 4096]) = (2, 2, 2);
        let wanted = [(4096, 8192, Op::Data), (4 * 4096, 4096, Op::Data)];
        assert_eq!(rows((&old, &all(5 * 4096)), (&new, &all(5 * 4096))), wanted);
    }

    #[test]
    fn holes_and_preallocation_are_told_where_the_other_side_has_none() {
        let bytes = [0; 3 * 4096];
        let holey = Layout::new(3 * 4096, &[data(0, 4096)], &[Range { offset: 8192, length: 4096 }]);
        let wanted = [(4096, 4096, Op::Hole), (8192, 4096, Op::Unwritten)];
        assert_eq!(rows((&bytes, &all(3 * 4096)), (&bytes, &holey)), wanted);
        assert_eq!(rows((&bytes, &holey), (&bytes, &holey)), []);
        assert_eq!(rows((&bytes, &holey), (&bytes, &all(3 * 4096))), [(4096, 8192, Op::Data)]);
    }

    #[test]
    fn a_hole_takes_the_whole_block_that_the_old_file_ended_in() {
        let old = all(5000);
        let new = Layout::new(3 * 4096, &[data(0, 4096)], &[]);
        assert_eq!(rows((&[7; 5000], &old), (&[7; 3 * 4096], &new)), [(4096, 8192, Op::Hole)]);
        assert_eq!(
            rows((&[7; 5000], &old), (&[7; 5000], &Layout::new(5000, &[], &[]))),
            [(0, 5000, Op::Hole)]
        );
    }

    #[test]
    fn a_hole_is_told_as_far_as_a_block_of_the_target_may_reach_and_no_data_beside_it() {
        let size = 1 << 20;
        let old = Layout::new(size, &[data(0, 70_656), data(71_680, 4096)], &[]);
        let new = Layout::new(size, &[data(0, 69_632), data(71_680, 1024), data(73_728, 2048)], &[]);
        let bytes = vec![7; size as usize];
        let wanted = [(69_632, 2048, Op::Hole), (72_704, 1024, Op::Hole)];
        assert_eq!(rows((&bytes, &old), (&bytes, &new)), wanted);
        let gone = Layout::new(size, &[data(0, 69_632)], &[]);
        assert_eq!(rows((&bytes, &old), (&bytes, &gone)), [(69_632, 131_072 - 69_632, Op::Hole)]);
    }

    #[test]
    fn the_block_that_the_old_end_cut_stays_a_hole() {
        let (old, new) = (Layout::new(5000, &[], &[]), Layout::new(20_000, &[], &[]));
        assert_eq!(rows((&[0; 5000], &old), (&[0; 20_000], &new)), [(0, 20_000, Op::Hole)]);
    }

    #[test]
    fn the_block_that_an_end_moves_into_or_out_of_stays_preallocated() {
        let tail = [Range { offset: 0, length: 12_288 }];
        let (short, long) = (Layout::new(5000, &[], &tail), Layout::new(9000, &[], &tail));
        let wanted = [(4096, 4096, Op::Unwritten)];
        assert_eq!(rows((&[0; 5000], &short), (&[0; 9000], &long)), wanted);
        assert_eq!(rows((&[0; 9000], &long), (&[0; 5000], &short)), wanted);
    }

    #[test]
    fn the_block_that_the_end_cuts_is_told_with_preallocation_beyond_it() {
        let old = Layout::new(5000, &[], &[]);
        let new = Layout::new(5000, &[], &[Range { offset: 8192, length: 8192 }]);
        let wanted = [(0, 5000, Op::Hole), (8192, 8192, Op::Unwritten)];
        assert_eq!(rows((&[0; 5000], &old), (&[0; 5000], &new)), wanted);
    }

    #[test]
    fn what_stays_preallocated_beyond_the_end_is_told_with_what_is_lost_there() {
        let old = Layout::new(
            100,
            &[],
            &[Range { offset: 4096, length: 4096 }, Range { offset: 12_288, length: 4096 }],
        );
        let new = Layout::new(100, &[], &[Range { offset: 12_288, length: 4096 }]);
        let found = rows((&[0; 100], &old), (&[0; 100], &new));
        let wanted = [(0, 100, Op::Hole), (100, 12_188, Op::Hole), (12_288, 4096, Op::Unwritten)];
        assert_eq!(found, wanted);
        assert_eq!(rows((&[0; 100], &old), (&[0; 100], &old)), []);
    }

    #[test]
    fn a_hole_up_to_the_end_takes_the_preallocated_rest_of_its_block_once() {
        let old = Layout::new(5000, &[], &[Range { offset: 0, length: 12_288 }]);
        assert_eq!(
            rows((&[0; 5000], &old), (&[0; 5000], &Layout::new(5000, &[], &[]))),
            [(0, 5000, Op::Hole), (5000, 7288, Op::Hole)]
        );
    }

    #[test]
    fn what_grows_is_data_and_a_lost_tail_is_a_hole() {
        assert_eq!(rows((&[7; 100], &all(100)), (&[7; 300], &all(300))), [(100, 200, Op::Data)]);
        let tail = Layout::new(100, &[data(0, 4096)], &[Range { offset: 4096, length: 4096 }]);
        assert_eq!(
            rows((&[7; 100], &tail), (&[7; 100], &Layout::new(100, &[data(0, 4096)], &[]))),
            [(4096, 4096, Op::Hole)]
        );
    }

    #[test]
    fn equal_addresses_are_not_read_and_others_are() {
        let old = Layout::new(3 * 4096, &[at(0, 3 * 4096, 8192)], &[]);
        let new = Layout::new(3 * 4096, &[at(0, 4096, 8192), at(4096, 8192, 1 << 20)], &[]);
        // The bytes at the equal address differ here, to show that they are not read.
        assert_eq!(rows((&[1; 3 * 4096], &old), (&[2; 3 * 4096], &new)), [(4096, 8192, Op::Data)]);
        let unaddressed = Layout::new(3 * 4096, &[data(0, 3 * 4096)], &[]);
        assert_eq!(
            rows((&[1; 3 * 4096], &unaddressed), (&[2; 3 * 4096], &unaddressed)),
            [(0, 3 * 4096, Op::Data)]
        );
    }
}
