//! Before-images: where blocks cannot be shared, and little of a large file changes in place, older snapshots
//! keep what is overwritten, and read the rest in the object that the file is afterwards.
//!
//! That object's number is given before the commit. What both must have in common is known by a digest, which
//! the standby's snapshot asks for once the file has changed (`snapshot/pool/objects.rs`), whatever happened
//! meanwhile. `displaced/after` in the stage lists these files.

use crate::check::space::WORTH;
use crate::commit::save::{common, gaps, touched};
use crate::layout::INCOMING;
use crate::stage::incoming::Incoming;
use crate::stage::objects::{Displaced, in_pool};
use rustix::fs::{Mode, OFlags};
use snapsync_model::{
    BLOCK, BeforeImage, Context, ROUND_SHIFT, Range, RelPath, Result, SegmentKind, Successor, before_path,
    left_path, under_path,
};
use snapsync_sys::{Entry, Root, Stat, each_batch, fault, filesystem, layout, stat_of};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use uuid::Uuid;

const LIST: &str = "displaced/after";
/// So many before-images of one file lie over each other. Then it is copied whole once.
const MOST: usize = 64;

fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// The digest of what a file has outside of the ranges of a before-image.
fn rest_of(file: &File, image: &BeforeImage) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    each_batch(file, &image.rest(), |batch| {
        hasher.update_rayon(batch);
    })?;
    Ok(*hasher.finalize().as_bytes())
}

/// The files of a commit of which before-images were made.
pub fn successors(root: &Arc<Root>, snapshot: Uuid) -> Result<Vec<Successor>> {
    let path = RelPath::new(format!("{INCOMING}/{snapshot}/{LIST}").as_bytes())?;
    let mut bytes = Vec::new();
    match root.read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.and_then(|mut file| io::Read::read_to_end(&mut file, &mut bytes)),
    }
    .context("read", root.show(&path))?;
    Ok(bytes.as_chunks().0.iter().map(Successor::from_bytes).collect())
}

impl Incoming<'_> {
    /// Whether a before-image is kept of a file instead of a copy. It is written to the stage.
    pub(crate) fn keeps_before_image(&self, displaced: &Displaced, entry: &Entry) -> io::Result<bool> {
        let Some(round) = self.journal.round.filter(|_| displaced.row.change.survives()) else {
            return Ok(false);
        };
        let file = match entry.read() {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
            file => file?,
        };
        let before = stat_of(&file)?;
        // Nobody has touched it since it was checked.
        if before.ctime != displaced.row.known.ctime || before.attributes.size < WORTH {
            return Ok(false);
        }
        let next = round << ROUND_SHIFT | displaced.at;
        let Some(image) = self.image_of(displaced, &file, before.attributes.size, next)? else {
            return Ok(false);
        };
        let path = self.image_path(displaced.at).map_err(io::Error::other)?;
        self.write_image(&file, &image, &path)?;
        let rest = rest_of(&file, &image);
        let after = stat_of(&file)?;
        if (after.ctime, after.attributes.size) != (before.ctime, before.attributes.size) {
            self.remove_staged(&path)?;
            return Ok(false);
        }
        let (ino, row, object) = (displaced.row.known.ino, displaced.at, displaced.number);
        self.list(&Successor { ino, row, object, next, rest: rest? })?;
        Ok(true)
    }

    /// None where it is not worth it.
    fn image_of(
        &self,
        displaced: &Displaced,
        file: &File,
        size: u64,
        next: u64,
    ) -> io::Result<Option<BeforeImage>> {
        let filesystem = filesystem(file)?;
        let all = Range { offset: 0, length: size };
        let touched = touched(&displaced.row.change, size, filesystem.block_size.max(BLOCK));
        let touched = common(&touched, &[all]);
        let data = layout(file, size, filesystem)?.ranges(SegmentKind::Data);
        let sum = |ranges: &[Range]| ranges.iter().map(|range| range.length).sum::<u64>();
        let held = common(&touched, &data);
        let (whole, saved) = (sum(&data), sum(&held));
        if 2 * saved >= whole || self.is_too_high(displaced.number, saved, whole)? {
            return Ok(None);
        }
        let holes = touched.iter().flat_map(|range| gaps(*range, &[&held]));
        let mut ranges: Vec<(Range, bool)> =
            holes.map(|hole| (hole, false)).chain(held.iter().map(|range| (*range, true))).collect();
        ranges.sort_unstable();
        Ok(Some(BeforeImage::new(displaced.number, next, size, &ranges)))
    }

    /// Whether too many before-images lie over an object, or such as hold too much of it.
    fn is_too_high(&self, object: u64, saved: u64, whole: u64) -> io::Result<bool> {
        let (mut at, mut sum) = (object, saved);
        for _ in 0..MOST {
            let Some(above) = self.image_over(at)? else { return Ok(false) };
            (at, sum) = (above.object, sum.saturating_add(above.held()));
            if 2 * sum >= whole {
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn image_over(&self, object: u64) -> io::Result<Option<BeforeImage>> {
        for name in [under_path(object), left_path(object)] {
            match self.root.read(&in_pool(&name).map_err(io::Error::other)?) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                file => return BeforeImage::read(&file?, digest),
            }
        }
        Ok(None)
    }

    fn write_image(&self, from: &File, image: &BeforeImage, path: &RelPath) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let to = File::from(self.root.open_at(path, flags, Mode::from_raw_mode(0o600))?);
        to.write_all_at(&image.head(digest), 0)?;
        for part in image.parts(0) {
            if let Some((_, at)) = part.from {
                snapsync_sys::copy_range(from, part.range.offset, part.range.length, &to, at)?;
            }
        }
        Ok(())
    }

    /// One write, so that others may list files at the same time.
    fn list(&self, successor: &Successor) -> io::Result<()> {
        let path = self.staged(LIST).map_err(io::Error::other)?;
        let flags = OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY;
        let list = File::from(self.root.open_at(&path, flags, Mode::from_raw_mode(0o600))?);
        io::Write::write_all(&mut &list, &successor.to_bytes())
    }

    /// Moves a before-image to the pool, where the object after it has a name of it, too. Returns whether
    /// there was one.
    pub(crate) fn place_image(&self, displaced: &Displaced) -> io::Result<bool> {
        let Some(round) = self.journal.round else { return Ok(false) };
        let staged = self.image_path(displaced.at).map_err(io::Error::other)?;
        let Ok(image) = self.root.place(&staged).and_then(|place| place.entry()) else { return Ok(false) };
        let path = |name: String| in_pool(&name).map_err(io::Error::other);
        let before = path(before_path(displaced.number))?;
        let under = path(under_path(round << ROUND_SHIFT | displaced.at))?;
        self.make_directories(&before)?;
        self.make_directories(&under)?;
        self.make_mark()?;
        match self.root.place(&under)?.link_entry(&image) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
        fault::step("displace.under")?;
        self.root.place(&staged)?.rename(&self.root.place(&before)?)?;
        Ok(true)
    }

    /// Tells deletions to look for before-images.
    fn make_mark(&self) -> io::Result<()> {
        match self.root.create_dir(&in_pool("before").map_err(io::Error::other)?, 0o700) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// Puts it back into the stage: the file becomes its object again, and the commit may still go on.
    pub(crate) fn take_image_back(&self, displaced: &Displaced) -> io::Result<()> {
        let Some(round) = self.journal.round else { return Ok(()) };
        let path = |name: String| in_pool(&name).map_err(io::Error::other);
        let under = path(under_path(round << ROUND_SHIFT | displaced.at))?;
        let Ok(place) = self.root.place(&under) else { return Ok(()) };
        if place.entry().is_err() {
            return Ok(());
        }
        let staged = self.image_path(displaced.at).map_err(io::Error::other)?;
        let before = path(before_path(displaced.number))?;
        let before = self.root.place(&before)?;
        if before.entry().is_ok() {
            before.rename(&self.root.place(&staged)?)?;
        }
        place.unlink()
    }

    /// Whether a file that is back has all the bytes that it had, and has not changed since it was looked at.
    pub(crate) fn is_as_before(&self, successor: &Successor, entry: &Entry, now: &Stat) -> io::Result<bool> {
        let image = self.root.read(&self.image_path(successor.row).map_err(io::Error::other)?)?;
        let Some(head) = BeforeImage::read(&image, digest)? else { return Ok(false) };
        let file = entry.read()?;
        if file.metadata()?.len() != head.size || rest_of(&file, &head)? != successor.rest {
            return Ok(false);
        }
        let mut buffers = [vec![0; 1 << 16], vec![0; 1 << 16]];
        for part in head.parts(0) {
            let mut at = part.range.offset;
            while at < part.range.end() {
                let length = (part.range.end() - at).min(1 << 16) as usize;
                let [was, is] = &mut buffers;
                match part.from {
                    Some((_, start)) => {
                        image.read_exact_at(&mut was[..length], start + at - part.range.offset)?;
                    }
                    None => was[..length].fill(0),
                }
                file.read_exact_at(&mut is[..length], at)?;
                if was[..length] != is[..length] {
                    return Ok(false);
                }
                at += length as u64;
            }
        }
        Ok(stat_of(&file)?.ctime == now.ctime)
    }

    fn image_path(&self, row: u64) -> Result<RelPath> {
        self.staged(&format!("displaced/{row}.before"))
    }
}
