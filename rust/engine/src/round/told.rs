//! Which parts of a large file changed, where the primary has its old bytes no more: the standby has them. It
//! tells where its copy has data, and digests of that; what has others is sent. The primary keeps nothing for
//! it, and a copy that is not what it should be gets well by it.

use crate::delta::sides::Sides;
use crate::digest::Digest;
use crate::round::steps::StandbyEnd;
use crate::volume::copies::{Copied, Stretch, digests, fit, told};
use rayon::prelude::*;
use snapsync_compare::Told;
use snapsync_model::{Content, Counters, Error, Inode, Monitor, Range, Result, Side, read_still};
use snapsync_sys::next_data_in;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most segments of files, and windows of them, that are remembered: some 30 MB.
const SEGMENTS: usize = 1 << 18;
const WINDOWS: u64 = 1 << 26;

const TOO_MANY: &str = "there are too many to remember";

/// A stretch of a file of the base, and the file in the target.
struct Asked {
    inode: Arc<Inode>,
    stretch: Stretch,
}

/// Why files travel whole.
#[derive(Default)]
struct Whole {
    files: u64,
    /// Of the first one.
    why: String,
}

struct Telling<'a> {
    sides: &'a Sides,
    standby: &'a mut dyn StandbyEnd,
    monitor: &'a Monitor,
    asked: Vec<Asked>,
    /// By inode; None if the standby cannot tell.
    files: BTreeMap<u64, Option<Told>>,
    segments: usize,
    windows: u64,
    whole: Whole,
}

/// Asks for all files of which the base has lost the bytes. `path` is the standby's.
pub(super) fn ask(
    sides: &Sides,
    standby: &mut dyn StandbyEnd,
    path: &str,
    monitor: &Monitor,
) -> Result<BTreeMap<u64, Told>> {
    let (asked, files, whole) = (Vec::new(), BTreeMap::new(), Whole::default());
    let mut telling = Telling { sides, standby, monitor, asked, files, segments: 0, windows: 0, whole };
    for pair in sides.lost()? {
        let (base, target) = pair?;
        telling.file(&base, target)?;
    }
    telling.ask()?;
    if let Whole { files: count @ 1.., why } = &telling.whole {
        monitor
            .note(format!("{path} cannot tell how {count} changed files differ, which travel whole: {why}"));
    }
    Ok(telling.files.into_iter().filter_map(|(ino, told)| Some((ino, told?))).collect())
}

impl Telling<'_> {
    fn file(&mut self, base: &Inode, target: Inode) -> Result<()> {
        if self.is_full() {
            self.lacks(target.ino, TOO_MANY.to_owned());
            return Ok(());
        }
        let path = self.sides.old_path(base)?;
        let inode = Arc::new(Inode { details: None, ..target });
        let (size, now) = (base.attributes.size, inode.attributes.size);
        let mut data = DataOf::open(&*self.sides.target, &inode);
        for stretch in Stretch::all(path.as_bytes(), size, size.min(now)) {
            if size.div_ceil(stretch.window) > WINDOWS {
                self.lacks(inode.ino, TOO_MANY.to_owned());
            }
            if let Some(None) = self.files.get(&inode.ino) {
                break;
            }
            self.monitor.check()?;
            // Where the target has a hole, it is enough to know where the copy has data: that comes with the
            // first stretch.
            if stretch.range.offset > 0 && !data.is_in(stretch.range) {
                continue;
            }
            self.asked.push(Asked { inode: inode.clone(), stretch });
            if !fit(&self.asked.iter().map(|asked| &asked.stretch)) {
                let last = self.asked.pop();
                self.ask()?;
                self.asked.extend(last);
            }
        }
        Ok(())
    }

    /// What both have of the stretches that are to be asked for.
    fn ask(&mut self) -> Result<()> {
        let asked = std::mem::take(&mut self.asked);
        if asked.is_empty() {
            return Ok(());
        }
        let stretches: Vec<Stretch> = asked.iter().map(|asked| asked.stretch.clone()).collect();
        let (sides, monitor, mut own) = (self.sides, self.monitor, Vec::new());
        let theirs = self.standby.copies(&stretches, &mut || {
            let look = |asked: &Asked| own_digests(sides, asked, monitor);
            own = asked.par_iter().with_max_len(1).map(look).collect::<Result<_>>()?;
            Ok(())
        })?;
        for ((asked, own), theirs) in asked.iter().zip(own).zip(theirs) {
            self.hear(asked, &own, theirs);
        }
        Ok(())
    }

    fn hear(&mut self, asked: &Asked, own: &[Option<Digest>], theirs: Copied) {
        let Asked { inode, stretch } = asked;
        let nonsense = || "it makes no sense".to_owned();
        let (laid, text) = match theirs {
            Copied::Holds { laid, digests } => (laid, digests),
            Copied::Lacks(why) => return self.lacks(inode.ino, why),
        };
        if stretch.range.offset == 0 {
            let Some(layout) = laid.and_then(|laid| laid.layout(stretch)) else {
                return self.lacks(inode.ino, nonsense());
            };
            self.segments += layout.segments().len();
            self.windows += inode.attributes.size.min(stretch.size).div_ceil(stretch.window);
            if self.is_full() {
                return self.lacks(inode.ino, TOO_MANY.to_owned());
            }
            self.files.insert(inode.ino, Some(Told::new(layout, stretch.window)));
        }
        let Some(theirs) = told(&text, stretch) else { return self.lacks(inode.ino, nonsense()) };
        let Some(Some(told)) = self.files.get_mut(&inode.ino) else { return };
        for (number, (own, theirs)) in own.iter().zip(&theirs).enumerate() {
            if own.is_some() && own == theirs {
                told.has_window_at(stretch.range.offset + number as u64 * stretch.window);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.segments > SEGMENTS || self.windows > WINDOWS
    }

    /// What was told of other stretches of a file does not count either.
    fn lacks(&mut self, ino: u64, why: String) {
        if !matches!(self.files.insert(ino, None), Some(None)) {
            self.whole.files += 1;
            if self.whole.files == 1 {
                self.whole.why = why;
            }
        }
    }
}

/// Where a file has data, asked from its start on.
struct DataOf {
    /// None where it cannot be opened: reading it later says so.
    file: Option<Content>,
    size: u64,
    next: Option<Range>,
}

impl DataOf {
    fn open(side: &dyn Side, inode: &Inode) -> DataOf {
        let file = side.open(inode).ok();
        DataOf { file, size: inode.attributes.size, next: Some(Range { offset: 0, length: 0 }) }
    }

    fn is_in(&mut self, range: Range) -> bool {
        let Some(file) = &self.file else { return true };
        while let Some(next) = self.next.filter(|next| next.end() <= range.offset) {
            match next_data_in(file, next.end().max(range.offset), self.size) {
                Ok(found) => self.next = found,
                Err(_) => return true,
            }
        }
        self.next.is_some_and(|next| next.offset < range.end())
    }
}

/// Of the target. What cannot be read, or does not hold still, equals nothing: reading it later says so.
fn own_digests(sides: &Sides, asked: &Asked, monitor: &Monitor) -> Result<Vec<Option<Digest>>> {
    let Asked { inode, stretch } = asked;
    let Range { offset, length } = stretch.range;
    let end = (offset + length.next_multiple_of(stretch.window)).min(inode.attributes.size);
    let range = Range { offset, length: end.saturating_sub(offset) };
    let side = &*sides.target;
    let path = side.path(inode)?;
    let found = side.open(inode).and_then(|mut file| {
        read_still(side, inode, &mut file, |file| {
            digests(file, path.as_path(), range, stretch.window, monitor)
        })
    });
    let found = match found {
        Err(Error::Io { .. } | Error::Lost { .. }) => Vec::new(),
        other => other?,
    };
    let read = found.iter().flatten().count() as u64 * stretch.window;
    monitor.count(Counters { bytes_read: read, ..Counters::default() });
    Ok(found)
}
