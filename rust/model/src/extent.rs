//! Which ranges of a file hold data, and at which addresses.

use serde::{Deserialize, Serialize};

/// `offset..offset + length` in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Range {
    pub offset: u64,
    pub length: u64,
}

impl Range {
    pub fn end(self) -> u64 {
        self.offset + self.length
    }
}

/// Data is compared in pieces of this size, whatever the block size of the file system. Smaller pieces would
/// cost more in rows than they save in bytes.
pub const BLOCK: u64 = 4096;

/// The largest block size of all file systems that the kernel mounts. Only whole blocks can be punched, and
/// the target's blocks may be larger than the source's, so a row tells a hole beyond the part that changed.
pub const LARGEST_BLOCK: u64 = 64 << 10;

/// The place where bytes live. Equal addresses on one file system mean equal bytes while both files hold on
/// to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The compressed extent that holds the bytes; 0 for uncompressed data.
    pub extent: u64,
    /// The offset on the device, or within the uncompressed extent.
    pub offset: u64,
}

impl Address {
    pub fn plus(self, bytes: u64) -> Address {
        Address { offset: self.offset + bytes, ..self }
    }
}

/// A run of data, with its address if that is known exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub range: Range,
    pub address: Option<Address>,
    /// Whether the file system says that other files hold the data as well.
    pub shared: bool,
}

impl From<Range> for Placed {
    fn from(range: Range) -> Placed {
        Placed { range, address: None, shared: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    Data,
    Hole,
    Unwritten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub length: u64,
    pub kind: SegmentKind,
    /// The address of the first byte. Only data has one.
    pub address: Option<Address>,
    pub shared: bool,
}

impl Segment {
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// The address of the byte at `at`, which lies within the segment.
    pub fn address_at(&self, at: u64) -> Option<Address> {
        self.address.map(|address| address.plus(at - self.offset))
    }

    fn is_continued_by(&self, next: &Segment) -> bool {
        let joins = self.kind == next.kind && self.shared == next.shared && self.end() == next.offset;
        joins && self.address.map(|address| address.plus(self.length)) == next.address
    }
}

/// The hole in the block that the end of the file cuts, if it reaches the end of the file. It goes up to the
/// end of the block, or to the preallocation there. `covered` is everything that is not a hole, sorted;
/// blocks have `block` bytes.
pub fn hole_at_end(size: u64, block: u64, covered: impl IntoIterator<Item = Range>) -> Option<Range> {
    let (mut start, mut end) = (size / block * block, size.next_multiple_of(block));
    for range in covered {
        if range.offset < size {
            start = start.max(range.end());
        } else {
            end = end.min(range.offset);
        }
    }
    (start < size).then(|| Range { offset: start, length: end - start })
}

/// A file as segments that touch each other, from 0 to its size; unwritten ones may follow beyond it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    segments: Vec<Segment>,
    tail: u64,
}

impl Layout {
    /// Makes holes of everything that is neither data nor unwritten. Both lists are sorted; where they
    /// overlap, unwritten wins.
    pub fn new(size: u64, data: &[Placed], unwritten: &[Range]) -> Layout {
        let tail = data.last().map_or(size, |last| last.range.end().max(size));
        let mut layout = Layout { tail, ..Layout::default() };
        let mut at = 0;
        for range in unwritten {
            layout.fill(at, range.offset, size, data);
            layout.push(range.offset.max(at), range.end(), SegmentKind::Unwritten, None);
            at = range.end().max(at);
        }
        layout.fill(at, size, size, data);
        layout
    }

    /// All data, nothing of which is shared or has an address.
    pub fn whole(size: u64) -> Layout {
        Layout::new(size, &[Range { offset: 0, length: size }.into()], &[])
    }

    /// The same data with another `shared` flag and other unwritten ranges.
    pub fn with(&self, shared: bool, unwritten: &[Range]) -> Layout {
        let size = self.segments.iter().filter(|s| s.kind != SegmentKind::Unwritten).map(Segment::end).max();
        let placed = self.placed().into_iter().map(|placed| Placed { shared, ..placed });
        let layout = Layout::new(size.unwrap_or(0), &placed.collect::<Vec<_>>(), unwritten);
        Layout { tail: self.tail, ..layout }
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The end of the file or of its last block of data: preallocation beyond the end can only begin here.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// The ranges of one kind, joined where they touch, whatever their addresses.
    pub fn ranges(&self, kind: SegmentKind) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for segment in self.segments.iter().filter(|s| s.kind == kind) {
            match ranges.last_mut() {
                Some(last) if last.end() == segment.offset => last.length += segment.length,
                _ => ranges.push(Range { offset: segment.offset, length: segment.length }),
            }
        }
        ranges
    }

    /// The runs of data, with their addresses.
    pub fn placed(&self) -> Vec<Placed> {
        let data = self.segments.iter().filter(|s| s.kind == SegmentKind::Data);
        data.map(|s| Placed {
            range: Range { offset: s.offset, length: s.length },
            address: s.address,
            shared: s.shared,
        })
        .collect()
    }

    fn fill(&mut self, from: u64, to: u64, size: u64, data: &[Placed]) {
        let mut at = from;
        let to = to.min(size);
        let first = data.partition_point(|p| p.range.end() <= from);
        for placed in data[first..].iter().take_while(|p| p.range.offset < to) {
            let range = placed.range;
            self.push(at, range.offset.min(to), SegmentKind::Hole, None);
            self.push(range.offset.max(at), range.end().min(to), SegmentKind::Data, Some(placed));
            at = range.end().min(to).max(at);
        }
        self.push(at, to, SegmentKind::Hole, None);
    }

    fn push(&mut self, from: u64, to: u64, kind: SegmentKind, placed: Option<&Placed>) {
        if from >= to {
            return;
        }
        let address = placed.and_then(|p| p.address.map(|address| address.plus(from - p.range.offset)));
        let shared = placed.is_some_and(|p| p.shared);
        let next = Segment { offset: from, length: to - from, kind, address, shared };
        match self.segments.last_mut() {
            Some(last) if last.is_continued_by(&next) => last.length += next.length,
            _ => self.segments.push(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SegmentKind::*;

    fn range(offset: u64, length: u64) -> Range {
        Range { offset, length }
    }

    fn data(offset: u64, length: u64) -> Placed {
        range(offset, length).into()
    }

    fn at(offset: u64, length: u64, extent: u64, start: u64) -> Placed {
        let address = Some(Address { extent, offset: start });
        Placed { range: range(offset, length), address, shared: false }
    }

    fn kinds(layout: &Layout) -> Vec<(u64, u64, SegmentKind)> {
        layout.segments().iter().map(|s| (s.offset, s.length, s.kind)).collect()
    }

    #[test]
    fn segments_cover_the_file_and_what_is_preallocated_beyond_it() {
        let layout = Layout::new(100, &[data(10, 20), data(50, 50)], &[range(60, 10), range(120, 8)]);
        let wanted = [
            (0, 10, Hole),
            (10, 20, Data),
            (30, 20, Hole),
            (50, 10, Data),
            (60, 10, Unwritten),
            (70, 30, Data),
            (120, 8, Unwritten),
        ];
        assert_eq!(kinds(&layout), wanted);
    }

    #[test]
    fn the_hole_that_the_end_cuts_leaves_out_what_lies_beside_it_in_its_block() {
        let hole = |size, block, covered: &[Range]| {
            hole_at_end(size, block, covered.iter().copied()).map(|r| (r.offset, r.length))
        };
        assert_eq!(hole(100, 4096, &[]), Some((0, 4096)));
        assert_eq!(hole(5000, 4096, &[range(0, 4608)]), Some((4608, 8192 - 4608)));
        assert_eq!(hole(5000, 4096, &[range(0, 1024), range(5120, 1 << 20)]), Some((4096, 1024)));
        assert_eq!(hole(5000, 1024, &[range(0, 4096)]), Some((4096, 1024)));
        for covered in [range(0, 5000), range(4096, 8192), range(4999, 1)] {
            assert_eq!(hole(5000, 4096, &[covered]), None);
        }
        assert_eq!(hole(8192, 4096, &[]), None);
    }

    #[test]
    fn what_is_preallocated_begins_after_the_last_block_of_data() {
        assert_eq!(Layout::new(100, &[data(0, 512)], &[]).tail(), 512);
        assert_eq!(Layout::new(1000, &[data(0, 512)], &[]).tail(), 1000);
        let layout = Layout::new(600, &[data(512, 512)], &[range(1024, 512)]);
        assert_eq!(layout.with(true, &[range(0, 512), range(1024, 512)]).tail(), 1024);
        let again = layout.with(false, &[range(1024, 512)]);
        assert_eq!(again, layout);
    }

    #[test]
    fn an_empty_file_has_no_segments_and_a_bare_size_is_one_hole() {
        assert_eq!(kinds(&Layout::new(0, &[], &[])), []);
        assert_eq!(kinds(&Layout::new(7, &[], &[])), [(0, 7, Hole)]);
        assert_eq!(kinds(&Layout::new(7, &[data(0, 4096)], &[])), [(0, 7, Data)]);
    }

    #[test]
    fn data_is_joined_only_where_its_addresses_go_on() {
        let layout =
            Layout::new(400, &[at(0, 100, 0, 1000), at(100, 100, 0, 1100), at(200, 100, 8, 200)], &[]);
        let found: Vec<_> = layout.placed().iter().map(|p| (p.range.offset, p.range.length)).collect();
        assert_eq!(found, [(0, 200), (200, 100)]);
        assert_eq!(layout.ranges(Data), [range(0, 300)]);
        assert_eq!(layout.segments()[1].address_at(250), Some(Address { extent: 8, offset: 250 }));
    }

    #[test]
    fn a_preallocated_middle_leaves_the_addresses_of_the_rest_right() {
        let layout = Layout::new(300, &[at(0, 300, 0, 1000)], &[range(100, 100)]);
        let addresses: Vec<_> = layout.segments().iter().map(|s| s.address.map(|a| a.offset)).collect();
        assert_eq!(addresses, [Some(1000), None, Some(1200)]);
    }
}
