//! The data of a delta that the receiver already has: it tells the sender, which leaves that out.

use serde::{Deserialize, Serialize};
use snapsync_model::{Change, Op, Range};
use std::collections::BTreeMap;

/// The most runs and ranges in one message; held data beyond that is sent again.
const MOST: usize = 16_384;

/// Held data, by the inodes of rows. It can only reduce what a manifest names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// First and last inode of each run, sorted: all rows within have all their data.
    runs: Vec<(u64, u64)>,
    /// Offset and length, sorted, for rows that have some of their data.
    parts: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl Held {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.parts.is_empty()
    }

    /// Adds the next row with data, in order of inode; `ranges` of it, sorted and apart, are held.
    pub fn push(&mut self, change: &Change, ranges: &[Range], follows_whole: bool) {
        let held: u64 = ranges.iter().map(|r| r.length).sum();
        if held == change.data_bytes() {
            match self.runs.last_mut().filter(|_| follows_whole) {
                Some(run) => run.1 = change.ino,
                None => self.runs.push((change.ino, change.ino)),
            }
        } else if held > 0 {
            self.parts.insert(change.ino, ranges.iter().map(|r| (r.offset, r.length)).collect());
        }
    }

    /// The part of it that fits into one message.
    pub fn told(&self) -> Held {
        let mut room = MOST.saturating_sub(self.runs.len());
        let fits = |ranges: &[(u64, u64)]| {
            let fits = ranges.len() <= room;
            room -= if fits { ranges.len() } else { 0 };
            fits
        };
        let mut fits = fits;
        Held {
            runs: self.runs.iter().copied().take(MOST).collect(),
            parts: self.parts.iter().filter(|(_, r)| fits(r)).map(|(i, r)| (*i, r.clone())).collect(),
        }
    }

    pub fn is_whole(&self, ino: u64) -> bool {
        let at = self.runs.partition_point(|run| run.1 < ino);
        self.runs.get(at).is_some_and(|run| run.0 <= ino)
    }

    /// How many bytes of a range of a row's data are held.
    pub fn bytes_in(&self, ino: u64, range: Range) -> u64 {
        if self.is_whole(ino) {
            return range.length;
        }
        range.length - left_of(range, self.part(ino)).iter().map(|left| left.length).sum::<u64>()
    }

    /// The data of a row that is not held, sorted.
    pub fn left(&self, change: &Change) -> Vec<Range> {
        if self.is_whole(change.ino) {
            return Vec::new();
        }
        let data = change.extents.iter().filter(|e| e.op == Op::Data);
        data.flat_map(|e| left_of(Range { offset: e.offset, length: e.length }, self.part(change.ino)))
            .collect()
    }

    fn part(&self, ino: u64) -> &[(u64, u64)] {
        self.parts.get(&ino).map_or(&[], |part| part)
    }
}

/// The parts of `range` outside all `parts`, which a hostile peer may have put in any order and size.
fn left_of(range: Range, parts: &[(u64, u64)]) -> Vec<Range> {
    let mut left = Vec::new();
    let mut at = range.offset;
    let first = parts.partition_point(|(offset, length)| offset.saturating_add(*length) <= range.offset);
    for (offset, length) in parts.iter().skip(first) {
        if *offset >= range.end() {
            break;
        }
        if *offset > at {
            left.push(Range { offset: at, length: offset - at });
        }
        at = at.max(offset.saturating_add(*length));
    }
    if at < range.end() {
        left.push(Range { offset: at, length: range.end() - at });
    }
    left
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use snapsync_model::ChangeFlags;
    use snapsync_model::Extent;
    use snapsync_model::Kind;

    pub(crate) fn change(ino: u64, extents: &[(u64, u64)]) -> Change {
        let extent = |(offset, length): &(u64, u64)| Extent {
            offset: *offset,
            length: *length,
            op: Op::Data,
            source: None,
            checksum: None,
        };
        Change {
            ino,
            generation: 0,
            kind: Kind::File,
            flags: ChangeFlags::default(),
            path: None,
            old_path: None,
            links_added: Vec::new(),
            links_removed: Vec::new(),
            nlink: 1,
            nlink_old: 1,
            new: None,
            old: None,
            symlink_target: None,
            xattrs: None,
            extents: extents.iter().map(extent).collect(),
        }
    }

    fn range(offset: u64, length: u64) -> Range {
        Range { offset, length }
    }

    #[test]
    fn what_is_held_and_what_is_left_make_the_whole() {
        let row = change(5, &[(0, 100), (200, 100)]);
        let mut held = Held::default();
        held.push(&row, &[range(20, 30), range(200, 100)], false);
        assert_eq!(held.left(&row), [range(0, 20), range(50, 50)]);
        assert_eq!((held.bytes_in(5, range(25, 10)), held.bytes_in(5, range(45, 10))), (10, 5));
        assert!(!held.is_whole(5));
    }

    #[test]
    fn whole_rows_in_a_row_are_one_run() {
        let mut held = Held::default();
        for (ino, follows) in [(3, false), (4, true), (9, true), (12, false)] {
            held.push(&change(ino, &[(0, 10)]), &[range(0, 10)], follows);
        }
        assert_eq!(held.runs, [(3, 9), (12, 12)]);
        assert!(held.is_whole(9) && !held.is_whole(10) && !held.is_whole(2));
    }

    #[test]
    fn a_lie_about_what_is_held_widens_nothing() {
        let row = change(5, &[(100, 100)]);
        let lies = [
            vec![(u64::MAX, u64::MAX)],
            vec![(0, u64::MAX), (0, 0)],
            vec![(150, 10), (120, 10), (0, 5)],
            vec![(90, 20), (95, 300)],
        ];
        for lie in lies {
            let held = Held { runs: Vec::new(), parts: BTreeMap::from([(5, lie)]) };
            for left in held.left(&row) {
                assert!(left.offset >= 100 && left.end() <= 200 && left.length > 0, "{left:?}");
            }
        }
    }
}
