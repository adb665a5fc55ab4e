//! Objects of which the pool has only what the object after them overwrote: before-images, one over another,
//! and at the bottom an object that is whole, in the pool or in the tree.

use crate::pool::pack::{Pool, before_at};
use snapsync_model::{BeforeImage, Content, Cover, Successor, lay_under, left_path, under_path};
use snapsync_sys::{Spot, each_batch, open_many_files};
use std::fs::File;
use std::io;

/// No commit makes more of one file.
const MOST: usize = 1 << 12;

pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// The before-images of an object, down to one that has none.
pub(crate) struct Stack {
    files: Vec<File>,
    parts: Vec<Cover>,
    size: u64,
    /// The object that is read where no part is.
    pub(crate) bottom: u64,
}

impl Stack {
    /// None where the object has no before-image.
    pub(crate) fn of(pool: &Pool, object: u64) -> io::Result<Option<Stack>> {
        let Some((file, image)) = image_of(pool.dir(), object)? else { return Ok(None) };
        // Each is open for as long as somebody reads.
        open_many_files();
        let mut stack = Stack { files: Vec::new(), parts: Vec::new(), size: image.size, bottom: image.next };
        stack.push(file, &image);
        while stack.files.len() < MOST
            && !pool.has_whole(stack.bottom)
            && let Some((file, image)) = image_of(pool.dir(), stack.bottom)?
        {
            stack.push(file, &image);
        }
        Ok(Some(stack))
    }

    fn push(&mut self, file: File, image: &BeforeImage) {
        lay_under(&mut self.parts, image.parts(self.files.len()));
        self.files.push(file);
        self.bottom = image.next;
    }

    /// All of it, over a file with the bytes of the bottom.
    pub(crate) fn over(mut self, bottom: Content) -> Content {
        self.parts.retain_mut(|Cover { range, .. }| {
            range.length = range.length.min(self.size.saturating_sub(range.offset));
            range.length > 0
        });
        Content::over((bottom, self.bottom), self.size, self.parts, self.files)
    }
}

/// Whether a file has what it must have in common with the object before it. Otherwise that one is lost, and
/// its before-image goes.
pub(crate) fn is_proved(pool: &Spot, successor: &Successor, file: &File) -> io::Result<bool> {
    let Some((_, image)) = image_of(pool, successor.object)? else { return Ok(false) };
    let mut hasher = blake3::Hasher::new();
    let read = each_batch(file, &image.rest(), |batch| {
        hasher.update_rayon(batch);
    });
    match read {
        Ok(()) if *hasher.finalize().as_bytes() == successor.rest && image.next == successor.next => {
            return Ok(true);
        }
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
        _ => {}
    }
    before_at(pool, successor.object).remove_file()?;
    under_at(pool, successor.next).remove_file()?;
    Ok(false)
}

/// The before-image of an object; None where there is none, or it is damaged.
pub(crate) fn image_of(pool: &Spot, object: u64) -> io::Result<Option<(File, BeforeImage)>> {
    let found = read_image(&before_at(pool, object))?;
    Ok(found.filter(|(_, image)| image.object == object))
}

/// The number of the object that lies over another, as a name of its before-image tells.
pub(crate) fn over(pool: &Spot, object: u64) -> io::Result<Option<u64>> {
    for name in [under_at(pool, object), left_at(pool, object)] {
        if let Some((_, image)) = read_image(&name)? {
            return Ok(Some(image.object));
        }
    }
    Ok(None)
}

fn read_image(spot: &Spot) -> io::Result<Option<(File, BeforeImage)>> {
    let file = match spot.open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    Ok(BeforeImage::read(&file, digest)?.map(|image| (file, image)))
}

pub(crate) fn under_at(pool: &Spot, object: u64) -> Spot {
    pool.join(under_path(object))
}

pub(crate) fn left_at(pool: &Spot, object: u64) -> Spot {
    pool.join(left_path(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::{Range, before_path};
    use snapsync_sys::Root;
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::sync::Arc;

    fn range(offset: u64, length: u64) -> Range {
        Range { offset, length }
    }

    fn pool_in(dir: &Path) -> Pool {
        Pool::new(Spot::top(Arc::new(Root::open(dir).unwrap())))
    }

    fn path_of(dir: &Path, object: u64) -> std::path::PathBuf {
        let path = dir.join(before_path(object));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Ranges with the byte that each is full of; 0 for a hole.
    fn put(dir: &Path, (object, next): (u64, u64), size: u64, ranges: &[(u64, u64, u8)]) {
        let told: Vec<(Range, bool)> = ranges.iter().map(|(o, l, byte)| (range(*o, *l), *byte > 0)).collect();
        let image = BeforeImage::new(object, next, size, &told);
        let file = File::create(path_of(dir, object)).unwrap();
        file.write_all_at(&image.head(digest), 0).unwrap();
        for (part, (_, length, byte)) in image.parts(0).zip(ranges) {
            if let Some((_, at)) = part.from {
                file.write_all_at(&vec![*byte; *length as usize], at).unwrap();
            }
        }
    }

    #[test]
    fn the_oldest_of_several_wins_and_the_bottom_has_what_none_has() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool_in(dir.path());
        put(dir.path(), (5, 6), 100, &[(10, 10, b'a'), (30, 5, 0)]);
        put(dir.path(), (6, 7), 60, &[(0, 12, b'b'), (28, 10, b'c'), (50, 10, 0)]);
        let stack = Stack::of(&pool, 5).unwrap().unwrap();
        assert_eq!(stack.bottom, 7);
        let bottom = tempfile::tempfile().unwrap();
        bottom.write_all_at(&[b'z'; 100], 0).unwrap();
        let content = stack.over(bottom.into());
        let mut bytes = vec![0; 100];
        content.read_exact_at(&mut bytes, 0).unwrap();
        let mut wanted = vec![b'z'; 100];
        wanted[50..60].fill(0);
        wanted[28..38].fill(b'c');
        wanted[..12].fill(b'b');
        wanted[30..35].fill(0);
        wanted[10..20].fill(b'a');
        assert_eq!(bytes, wanted);
        for (at, byte) in wanted.iter().enumerate() {
            let mut one = [0];
            content.read_exact_at(&mut one, at as u64).unwrap();
            assert_eq!(one[0], *byte, "{at}");
        }
        assert!(content.read_exact_at(&mut [0; 2], 99).is_err());
        assert_eq!((content.size().unwrap(), content.lies_on()), (100, Some(7)));
    }

    #[test]
    fn a_damaged_before_image_is_none_and_never_other_bytes() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), (5, 6), 100, &[(10, 10, b'a'), (30, 5, 0)]);
        let path = path_of(dir.path(), 5);
        let whole = fs::read(&path).unwrap();
        let pool = pool_in(dir.path());
        let is_there = || image_of(pool.dir(), 5).unwrap().is_some();
        assert!(is_there());
        let head = whole.len() - 10;
        for at in 0..head {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).unwrap();
            assert!(!is_there(), "{at}");
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(!is_there(), "{length}");
        }
        fs::write(&path, &whole).unwrap();
        fs::rename(&path, path_of(dir.path(), 9)).unwrap();
        assert!(image_of(pool.dir(), 9).unwrap().is_none(), "it is of another object");
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused_though_their_digest_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool_in(dir.path());
        for wrong in [&[(0, 0, 1)][..], &[(5, 5, 1), (9, 5, 1)], &[(95, 6, 0)], &[(9, 1, 0), (3, 1, 0)]] {
            put(dir.path(), (5, 6), 100, wrong);
            assert!(image_of(pool.dir(), 5).unwrap().is_none(), "{wrong:?}");
        }
    }
}
