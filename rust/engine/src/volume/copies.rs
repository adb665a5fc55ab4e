//! What a standby tells of its copies of files whose old bytes its primary has not: where they have data, and
//! digests of it.

use crate::digest::{Digest, hex, of_hex};
use crate::volume::pieces::Files;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use snapsync_model::{
    Content, Context, Error, Layout, Monitor, Placed, Range, RelPath, Result, SegmentKind, reason,
};
use snapsync_snapshot::Volume;
use snapsync_sys::{FileSystem, filesystem, next_data_in};
use std::fs::File;
use std::path::Path;

/// The bytes of a window, at least and at most. Large files have larger ones.
const WINDOW: u64 = 64 << 10;
const LARGEST_WINDOW: u64 = 1 << 20;
/// So many windows a file has, before they get larger.
const WINDOWS: u64 = 1 << 16;
/// The most bytes of one stretch: the stretches of a large file are read in parallel.
pub(crate) const STRETCH: u64 = 64 << 20;
/// The most stretches of a question, their bytes, and bytes of their paths.
const MOST: u64 = 1024;
const BYTES: u64 = 512 << 20;
const PATHS: u64 = 256 << 10;
/// The most ranges of data and preallocation that are told of a file, and of all files of a question.
const RANGES: u64 = 1 << 14;
const ALL_RANGES: u64 = 3 << 14;
/// Stands for the digest of a window in which there is only a hole.
const NOTHING: char = '-';

/// A part of a file, and the size of its windows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stretch {
    pub(crate) path: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) range: Range,
    pub(crate) window: u64,
}

/// What a copy has there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Copied {
    Holds {
        /// Of the whole file, with the stretch at its start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        laid: Option<Laid>,
        /// 64 hexadecimal digits for each window, or a dash.
        digests: String,
    },
    Lacks(String),
}

/// Pairs of offset and length.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Laid {
    data: Vec<(u64, u64)>,
    unwritten: Vec<(u64, u64)>,
}

impl Stretch {
    /// Those of a file, up to `end`.
    pub(crate) fn all(path: &[u8], size: u64, end: u64) -> impl Iterator<Item = Stretch> {
        let window = (size / WINDOWS).next_power_of_two().clamp(WINDOW, LARGEST_WINDOW);
        let end = end.next_multiple_of(window).min(size);
        (0..end.div_ceil(STRETCH)).map(move |number| {
            let offset = number * STRETCH;
            let range = Range { offset, length: STRETCH.min(end - offset) };
            Stretch { path: path.to_vec(), size, range, window }
        })
    }

    /// It consists of whole windows, but at the end of its file.
    fn is_sound(&self) -> bool {
        let Stretch { size, range, window, .. } = self;
        let end = range.offset.checked_add(range.length).filter(|end| end <= size);
        window.is_power_of_two()
            && (WINDOW..=LARGEST_WINDOW).contains(window)
            && (1..=STRETCH).contains(&range.length)
            && range.offset.is_multiple_of(*window)
            && end.is_some_and(|end| end == *size || end.is_multiple_of(*window))
    }

    fn windows(&self) -> usize {
        self.range.length.div_ceil(self.window) as usize
    }

    /// The most ranges that are told with it.
    fn ranges(&self) -> u64 {
        if self.range.offset > 0 { 0 } else { (4 * (self.size / self.window) + 16).min(RANGES) }
    }
}

/// Whether these fit into one question, and what is told of them into one answer.
pub(crate) fn fit<'s>(stretches: &(impl Iterator<Item = &'s Stretch> + Clone)) -> bool {
    let sum = |of: &dyn Fn(&Stretch) -> u64| stretches.clone().map(of).fold(0, u64::saturating_add);
    (1..=MOST).contains(&sum(&|_| 1))
        && stretches.clone().all(Stretch::is_sound)
        && sum(&|stretch| stretch.range.length) <= BYTES
        && sum(&|stretch| stretch.path.len() as u64) <= PATHS
        && sum(&Stretch::ranges) <= ALL_RANGES
}

/// Reads them for a primary.
pub(crate) fn read(volume: &Volume, stretches: &[Stretch], monitor: &Monitor) -> Result<Vec<Copied>> {
    let kind = filesystem(volume.root().fd()).context("examine", volume.path())?;
    let files = Files::of(volume, stretches.iter().map(|stretch| &stretch.path[..]));
    let look = |stretch: &Stretch| {
        let path = RelPath::new(&stretch.path)?;
        let file = match files.open(&path, stretch.size)? {
            Ok(file) => file,
            Err(why) => return Ok(Copied::Lacks(why)),
        };
        match copied(file, path.as_path(), stretch, kind, monitor) {
            Err(Error::Io { source, .. }) => Ok(Copied::Lacks(reason(&source))),
            other => other,
        }
    };
    stretches.par_iter().with_max_len(1).map(look).collect()
}

fn copied(file: File, path: &Path, stretch: &Stretch, kind: FileSystem, monitor: &Monitor) -> Result<Copied> {
    let laid = if stretch.range.offset > 0 {
        None
    } else {
        let layout = snapsync_sys::layout(&file, stretch.size, kind).context("read the extents of", path)?;
        let laid = Laid::of(&layout);
        if (laid.data.len() + laid.unwritten.len()) as u64 > stretch.ranges() {
            return Ok(Copied::Lacks("it is in too many pieces".to_owned()));
        }
        Some(laid)
    };
    let digests = digests(&file.into(), path, stretch.range, stretch.window, monitor)?;
    let text = |digest: &Option<Digest>| digest.map_or(NOTHING.into(), |digest| hex(&digest));
    Ok(Copied::Holds { laid, digests: digests.iter().map(text).collect() })
}

/// BLAKE3 of each window of a range that begins with one; None where there is only a hole.
pub(crate) fn digests(
    file: &Content,
    path: &Path,
    range: Range,
    window: u64,
    monitor: &Monitor,
) -> Result<Vec<Option<Digest>>> {
    let mut found = vec![None; range.length.div_ceil(window) as usize];
    let (mut bytes, mut at) = (vec![0; window.min(range.length) as usize], range.offset);
    while let Some(data) = next_data_in(file, at, range.end()).context("read", path)? {
        at = at.max(data.offset / window * window);
        while at < data.end() {
            monitor.check()?;
            let bytes = &mut bytes[..window.min(range.end() - at) as usize];
            file.read_exact_at(bytes, at).context("read", path)?;
            found[((at - range.offset) / window) as usize] = Some(blake3::hash(bytes).into());
            at += bytes.len() as u64;
        }
    }
    Ok(found)
}

/// The digests that were told of a stretch, if they make sense.
pub(crate) fn told(mut digests: &str, stretch: &Stretch) -> Option<Vec<Option<Digest>>> {
    let mut found = Vec::with_capacity(stretch.windows());
    for _ in 0..stretch.windows() {
        let (digest, rest) = match digests.strip_prefix(NOTHING) {
            Some(rest) => (None, rest),
            None => {
                let (digest, rest) = digests.split_at_checked(2 * size_of::<Digest>())?;
                (Some(of_hex(digest)?.try_into().ok()?), rest)
            }
        };
        found.push(digest);
        digests = rest;
    }
    digests.is_empty().then_some(found)
}

impl Laid {
    fn of(layout: &Layout) -> Laid {
        let pairs =
            |kind| layout.ranges(kind).into_iter().map(|range| (range.offset, range.length)).collect();
        Laid { data: pairs(SegmentKind::Data), unwritten: pairs(SegmentKind::Unwritten) }
    }

    /// The layout of a file that the stretch is of, if it makes sense.
    pub(crate) fn layout(&self, of: &Stretch) -> Option<Layout> {
        if (self.data.len() + self.unwritten.len()) as u64 > of.ranges() {
            return None;
        }
        let (data, unwritten) = (ranges(&self.data)?, ranges(&self.unwritten)?);
        let data: Vec<Placed> = data.into_iter().map(Placed::from).collect();
        Some(Layout::new(of.size, &data, &unwritten))
    }
}

/// They lie in order, none upon another, and where a file can have any.
fn ranges(pairs: &[(u64, u64)]) -> Option<Vec<Range>> {
    let mut at = 0;
    let mut range = |(offset, length): &(u64, u64)| {
        let end = offset.checked_add(*length).filter(|end| *length > 0 && *end <= i64::MAX as u64)?;
        let is_next = at <= *offset;
        at = end;
        is_next.then_some(Range { offset: *offset, length: *length })
    };
    pairs.iter().map(&mut range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stretches_of_a_file_leave_nothing_out_and_are_sound() {
        for size in [WINDOW + 1, 3 * WINDOW, 1 << 30, (1 << 32) + 5, (1 << 36) + 1, 1 << 40] {
            for end in [1, size / 2, size - 1, size] {
                let mut at = 0;
                for stretch in Stretch::all(b"file", size, end) {
                    assert!(fit(&[stretch.clone()].iter()), "{stretch:?}");
                    assert_eq!(stretch.range.offset, at);
                    at = stretch.range.end();
                    assert!(stretch.windows() <= 1024, "its digests are one string of a message");
                }
                assert!((end..=size).contains(&at));
            }
        }
    }

    #[test]
    fn digests_come_back_from_their_text_and_what_makes_no_sense_does_not() {
        let stretch = Stretch::all(b"file", 3 * WINDOW, 3 * WINDOW).next().unwrap();
        let digest: Digest = blake3::hash(b"window").into();
        let text = format!("{0}-{0}", hex(&digest));
        assert_eq!(told(&text, &stretch), Some(vec![Some(digest), None, Some(digest)]));
        for wrong in
            ["", "--", "----", &text[1..], &text[..100], &format!("{text}-"), &text.replace('-', "x")]
        {
            assert_eq!(told(wrong, &stretch), None, "{wrong}");
        }
    }

    #[test]
    fn a_layout_comes_back_and_what_makes_no_sense_does_not() {
        let stretch = Stretch::all(b"file", 1000, 1000).next().unwrap();
        let range = |offset, length| Range { offset, length };
        let layout = Layout::new(1000, &[range(0, 512).into()], &[range(512, 100), range(2048, 4096)]);
        assert_eq!(Laid::of(&layout).layout(&stretch), Some(layout));
        for wrong in
            [&[(5, 0)][..], &[(5, 5), (9, 1)], &[(1, u64::MAX)], &[(1 << 62, 1 << 62)], &[(0, 1); 17]]
        {
            let laid = Laid { data: wrong.to_vec(), unwritten: Vec::new() };
            assert_eq!(laid.layout(&stretch), None, "{wrong:?}");
        }
    }
}
