//! The bytes of one file on both sides.

use snapsync_model::{Context, Extent, Layout, Monitor, Op, Result, Segment, SegmentKind};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Differences are told in blocks of this size: smaller ones cost more rows than they save bytes.
const BLOCK: u64 = 4096;
const READ: u64 = 1 << 20;

#[derive(Clone, Copy)]
pub(crate) struct Laid<'a> {
    pub(crate) file: &'a File,
    pub(crate) layout: &'a Layout,
    pub(crate) size: u64,
}

pub(crate) fn extent(offset: u64, length: u64, op: Op) -> Extent {
    Extent { offset, length, op, source: None, checksum: None }
}

/// What turns `base` into `target`, by reading both wherever both hold data. Sizes are told elsewhere.
pub(crate) fn differences(
    base: Laid<'_>,
    target: Laid<'_>,
    monitor: &Monitor,
    path: &Path,
) -> Result<Vec<Extent>> {
    let mut found = Found(Vec::new());
    // A change of size can cost a file what is preallocated beyond its end.
    let kept_below = if base.size == target.size { u64::MAX } else { base.size.min(target.size) };
    // To move the end of a file out of a block, some file systems write that block.
    let edge =
        (base.size < target.size && !base.size.is_multiple_of(BLOCK)).then_some(base.size / BLOCK * BLOCK);
    for segment in target.layout.segments() {
        let mut at = segment.offset;
        let end = segment.offset + segment.length;
        while at < end {
            let (kind, until) = kind_at(base.layout, at);
            let until = until.min(end);
            match (kind, segment.kind) {
                (Some(SegmentKind::Data), SegmentKind::Data) => {
                    read_both(base.file, target.file, at, until, monitor, &mut found)
                        .context("compare", path)?;
                    monitor.check()?;
                }
                (_, SegmentKind::Data) => found.add(at, until, Op::Data),
                (Some(SegmentKind::Unwritten), SegmentKind::Unwritten) if at < kept_below => {}
                (Some(SegmentKind::Hole) | None, SegmentKind::Hole) => {
                    if let Some(edge) = edge.filter(|edge| (at..until).contains(edge)) {
                        found.add(edge, (edge + BLOCK).min(end.next_multiple_of(BLOCK)), Op::Hole);
                    }
                }
                (_, SegmentKind::Unwritten) => found.add(at, until, Op::Unwritten),
                // A file may end within a block, and only a whole one is given back.
                (_, SegmentKind::Hole) => {
                    let whole = until.next_multiple_of(BLOCK).min(end.next_multiple_of(BLOCK));
                    found.add(at, whole, Op::Hole);
                }
            }
            at = until;
        }
    }
    found.add_lost_tail(base.layout, target.layout);
    Ok(found.0)
}

/// What lies at `at`, and where that ends; None past the end.
fn kind_at(layout: &Layout, at: u64) -> (Option<SegmentKind>, u64) {
    let segments = layout.segments();
    let next = segments.partition_point(|s| s.offset + s.length <= at);
    match segments.get(next) {
        Some(s) if s.offset <= at => (Some(s.kind), s.offset + s.length),
        Some(s) => (None, s.offset),
        None => (None, u64::MAX),
    }
}

struct Found(Vec<Extent>);

impl Found {
    fn add(&mut self, from: u64, to: u64, op: Op) {
        match self.0.last_mut() {
            Some(last) if last.op == op && last.offset + last.length == from => last.length += to - from,
            _ => self.0.push(extent(from, to - from, op)),
        }
    }

    /// Preallocation beyond the end that the target no longer has.
    fn add_lost_tail(&mut self, base: &Layout, target: &Layout) {
        let end = |s: &Segment| s.offset + s.length;
        let target_end = target.segments().last().map_or(0, end).next_multiple_of(BLOCK);
        for segment in base.segments().iter().filter(|s| s.kind == SegmentKind::Unwritten) {
            if end(segment) > target_end {
                self.add(segment.offset.max(target_end), end(segment), Op::Hole);
            }
        }
    }
}

fn read_both(
    base: &File,
    target: &File,
    from: u64,
    to: u64,
    monitor: &Monitor,
    found: &mut Found,
) -> std::io::Result<()> {
    let mut old = vec![0; READ.min(to - from) as usize];
    let mut new = old.clone();
    let mut at = from;
    while at < to && monitor.check().is_ok() {
        let length = READ.min(to - at) as usize;
        base.read_exact_at(&mut old[..length], at)?;
        target.read_exact_at(&mut new[..length], at)?;
        if old[..length] != new[..length] {
            blocks(&old[..length], &new[..length], at, found);
        }
        at += length as u64;
    }
    Ok(())
}

fn blocks(old: &[u8], new: &[u8], at: u64, found: &mut Found) {
    let mut done = 0;
    while done < old.len() {
        let here = at + done as u64;
        let length = ((BLOCK - here % BLOCK) as usize).min(old.len() - done);
        if old[done..done + length] != new[done..done + length] {
            found.add(here, here + length as u64, Op::Data);
        }
        done += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::Range;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn rows(base: (&[u8], &Layout), target: (&[u8], &Layout)) -> Vec<(u64, u64, Op)> {
        let (a, b) = (file(base.0), file(target.0));
        let sizes = (base.0.len() as u64, target.0.len() as u64);
        let a = Laid { file: &a, layout: base.1, size: sizes.0 };
        let b = Laid { file: &b, layout: target.1, size: sizes.1 };
        let found = differences(a, b, &Monitor::default(), Path::new("f")).unwrap();
        found.into_iter().map(|e| (e.offset, e.length, e.op)).collect()
    }

    fn all(size: u64) -> Layout {
        Layout::new(size, &[Range { offset: 0, length: size }], &[])
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
        let holey = Layout::new(
            3 * 4096,
            &[Range { offset: 0, length: 4096 }],
            &[Range { offset: 8192, length: 4096 }],
        );
        let wanted = [(4096, 4096, Op::Hole), (8192, 4096, Op::Unwritten)];
        assert_eq!(rows((&bytes, &all(3 * 4096)), (&bytes, &holey)), wanted);
        assert_eq!(rows((&bytes, &holey), (&bytes, &holey)), []);
        assert_eq!(rows((&bytes, &holey), (&bytes, &all(3 * 4096))), [(4096, 8192, Op::Data)]);
    }

    #[test]
    fn a_hole_takes_the_whole_block_that_the_old_file_ended_in() {
        let old = all(5000);
        let new = Layout::new(3 * 4096, &[Range { offset: 0, length: 4096 }], &[]);
        assert_eq!(rows((&[7; 5000], &old), (&[7; 3 * 4096], &new)), [(4096, 4096, Op::Hole)]);
        assert_eq!(
            rows((&[7; 5000], &old), (&[7; 5000], &Layout::new(5000, &[], &[]))),
            [(0, 8192, Op::Hole)]
        );
    }

    #[test]
    fn the_block_that_the_old_end_cut_stays_a_hole() {
        let (old, new) = (Layout::new(5000, &[], &[]), Layout::new(20_000, &[], &[]));
        assert_eq!(rows((&[0; 5000], &old), (&[0; 20_000], &new)), [(4096, 4096, Op::Hole)]);
    }

    #[test]
    fn a_hole_up_to_the_end_takes_the_preallocated_rest_of_its_block_once() {
        let old = Layout::new(5000, &[], &[Range { offset: 0, length: 12_288 }]);
        assert_eq!(
            rows((&[0; 5000], &old), (&[0; 5000], &Layout::new(5000, &[], &[]))),
            [(0, 12_288, Op::Hole)]
        );
    }

    #[test]
    fn what_grows_is_data_and_a_lost_tail_is_a_hole() {
        assert_eq!(rows((&[7; 100], &all(100)), (&[7; 300], &all(300))), [(100, 200, Op::Data)]);
        let tail =
            Layout::new(100, &[Range { offset: 0, length: 100 }], &[Range { offset: 4096, length: 4096 }]);
        assert_eq!(rows((&[7; 100], &tail), (&[7; 100], &all(100))), [(4096, 4096, Op::Hole)]);
    }
}
