//! Where the bytes of a file are, and where there are none.

/// `offset..offset + length` in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    pub offset: u64,
    pub length: u64,
}

impl Range {
    pub fn end(self) -> u64 {
        self.offset + self.length
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
}

/// A file as segments that touch each other, from 0 to its size; unwritten ones may follow beyond it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout(Vec<Segment>);

impl Layout {
    /// Everything that is neither data nor unwritten is a hole. Both lists are sorted; where they
    /// overlap, unwritten wins.
    pub fn new(size: u64, data: &[Range], unwritten: &[Range]) -> Layout {
        let mut layout = Layout::default();
        let mut at = 0;
        for range in unwritten {
            layout.fill(at, range.offset, size, data);
            layout.push(range.offset.max(at), range.end(), SegmentKind::Unwritten);
            at = range.end().max(at);
        }
        layout.fill(at, size, size, data);
        layout
    }

    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    fn fill(&mut self, from: u64, to: u64, size: u64, data: &[Range]) {
        let mut at = from;
        let to = to.min(size);
        let first = data.partition_point(|r| r.end() <= from);
        for range in data[first..].iter().take_while(|r| r.offset < to) {
            self.push(at, range.offset.min(to), SegmentKind::Hole);
            self.push(range.offset.max(at), range.end().min(to), SegmentKind::Data);
            at = range.end().min(to).max(at);
        }
        self.push(at, to, SegmentKind::Hole);
    }

    fn push(&mut self, from: u64, to: u64, kind: SegmentKind) {
        if from >= to {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.kind == kind && last.offset + last.length == from => last.length += to - from,
            _ => self.0.push(Segment { offset: from, length: to - from, kind }),
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

    fn kinds(layout: &Layout) -> Vec<(u64, u64, SegmentKind)> {
        layout.segments().iter().map(|s| (s.offset, s.length, s.kind)).collect()
    }

    #[test]
    fn segments_cover_the_file_and_what_is_preallocated_beyond_it() {
        let layout = Layout::new(100, &[range(10, 20), range(50, 50)], &[range(60, 10), range(120, 8)]);
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
    fn an_empty_file_has_no_segments_and_a_bare_size_is_one_hole() {
        assert_eq!(kinds(&Layout::new(0, &[], &[])), []);
        assert_eq!(kinds(&Layout::new(7, &[], &[])), [(0, 7, Hole)]);
        assert_eq!(kinds(&Layout::new(7, &[range(0, 4096)], &[])), [(0, 7, Data)]);
    }
}
