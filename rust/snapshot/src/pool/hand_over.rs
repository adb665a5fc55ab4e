//! What older objects need of those that go. A before-image that goes is merged into the one over it; what is
//! whole stays until nothing lies over it. Each step can be done again.

use crate::pool::before::{digest, image_of, left_at, over, under_at};
use crate::pool::pack::{Pool, before_at};
use snapsync_model::{BeforeImage, Cover, Range, before_path, lay_under};
use snapsync_sys::{Spot, copy_range, fault};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A directory of the pool; where it is not there, no before-image ever was.
const MARK: &str = "before";

pub(crate) fn has_before_images(pool: &Spot) -> bool {
    pool.join(MARK).is_there()
}

/// Takes objects that must stay out of those that no snapshot names, and adds such as stayed for one of them.
pub(crate) fn hand_over(pool: &Spot, going: &mut BTreeSet<u64>) -> io::Result<()> {
    let handing = HandOver { pool: Pool::new(pool.clone()) };
    handing.add_what_stayed(going)?;
    for object in going.clone() {
        match over(pool, object)? {
            Some(above) if going.contains(&object) && !going.contains(&above) => {
                handing.one(above, object, going)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes all before-images and names of an object.
pub(crate) fn remove_names(pool: &Spot, object: u64) -> io::Result<()> {
    if let Some((_, image)) = image_of(pool, object)? {
        let under = under_at(pool, image.next);
        if over(pool, image.next)? == Some(object) {
            under.remove_file()?;
        }
        // Directories go with the last of them.
        let dirs = std::iter::successors(under.above(), Spot::above).take(2);
        dirs.take_while(|dir| dir.remove_dir().is_ok()).for_each(drop);
    }
    before_at(pool, object).remove_file()?;
    under_at(pool, object).remove_file()?;
    left_at(pool, object).remove_file()
}

struct HandOver {
    pool: Pool,
}

impl HandOver {
    fn dir(&self) -> &Spot {
        self.pool.dir()
    }

    fn add_what_stayed(&self, going: &mut BTreeSet<u64>) -> io::Result<()> {
        let mut asked: Vec<u64> = going.iter().copied().collect();
        while let Some(object) = asked.pop() {
            let Some((_, image)) = image_of(self.dir(), object)? else { continue };
            let stayed = left_at(self.dir(), image.next).is_there();
            if stayed && over(self.dir(), image.next)? == Some(object) && going.insert(image.next) {
                asked.push(image.next);
            }
        }
        Ok(())
    }

    /// `above` stays, and lies over an object that goes.
    fn one(&self, above: u64, first: u64, going: &mut BTreeSet<u64>) -> io::Result<()> {
        let Some((file, image)) = image_of(self.dir(), above)? else { return Ok(()) };
        if image.next != first {
            // An interrupted command has merged them already.
            return self.name(above, image.next, going);
        }
        if self.pool.has_whole(first) {
            return self.leave(first, going);
        }
        let (mut next, mut merged, mut files) = (first, Vec::new(), vec![file]);
        let mut parts: Vec<Cover> = image.parts(0).collect();
        while going.contains(&next)
            && !self.pool.has_whole(next)
            && let Some((file, below)) = image_of(self.dir(), next)?
        {
            lay_under(&mut parts, below.parts(files.len()));
            files.push(file);
            merged.push(next);
            next = below.next;
        }
        if merged.is_empty() {
            // What it was is lost.
            return Ok(());
        }
        parts.retain_mut(|part| {
            part.range.length = part.range.length.min(image.size.saturating_sub(part.range.offset));
            part.range.length > 0
        });
        match self.write((above, next, image.size), &parts, &files) {
            // They stay as they are until there is room, or nothing lies over them.
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                return merged.into_iter().try_for_each(|object| self.leave(object, going));
            }
            other => other?,
        }
        fault::point("before.merged");
        self.name(above, next, going)
    }

    /// Writes a before-image anew.
    fn write(&self, (above, next, size): (u64, u64, u64), parts: &[Cover], files: &[File]) -> io::Result<()> {
        let fresh = self.fresh(above);
        fresh.remove_file()?;
        let ranges: Vec<(Range, bool)> = parts.iter().map(|part| (part.range, part.from.is_some())).collect();
        let image = BeforeImage::new(above, next, size, &ranges);
        let write = || -> io::Result<()> {
            let to = fresh.create_new()?;
            to.write_all_at(&image.head(digest), 0)?;
            for (part, new) in parts.iter().zip(image.parts(0)) {
                if let (Some((file, from)), Some((_, at))) = (part.from, new.from) {
                    copy_range(&files[file], from, part.range.length, &to, at)?;
                }
            }
            to.sync_all()
        };
        if let Err(error) = write() {
            fresh.remove_file()?;
            return Err(error);
        }
        fresh.rename(&before_at(self.dir(), above))?;
        self.sync(above)
    }

    /// An object that nothing names stays, because something lies over it.
    fn leave(&self, object: u64, going: &mut BTreeSet<u64>) -> io::Result<()> {
        going.remove(&object);
        let under = under_at(self.dir(), object);
        if under.is_there() {
            under.rename(&left_at(self.dir(), object))?;
        }
        fault::point("before.left");
        Ok(())
    }

    /// Tells the object under a before-image of it.
    fn name(&self, above: u64, object: u64, going: &mut BTreeSet<u64>) -> io::Result<()> {
        let left = left_at(self.dir(), object);
        let name = if left.is_there() { left } else { under_at(self.dir(), object) };
        let fresh = self.fresh(above);
        fresh.remove_file()?;
        before_at(self.dir(), above).link(&fresh)?;
        if let Some(dir) = name.above() {
            dir.above().iter().chain([&dir]).try_for_each(Spot::ensure_dir)?;
        }
        fresh.rename(&name)?;
        // To rename one name of a file to another of its names does nothing.
        fresh.remove_file()?;
        self.sync(object)?;
        fault::point("before.named");
        if going.contains(&object) && self.pool.has_whole(object) {
            return self.leave(object, going);
        }
        Ok(())
    }

    fn fresh(&self, object: u64) -> Spot {
        self.dir().join(format!("{}.new", before_path(object)))
    }

    fn sync(&self, object: u64) -> io::Result<()> {
        before_at(self.dir(), object).above().map_or(Ok(()), |dir| dir.sync())
    }
}
