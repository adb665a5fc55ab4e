//! Packs: the bytes of many small files of one round in one file. Each would take an inode of its own.
//!
//! A pack begins with its head: an entry that says which pack it is, and one for each place, which tells
//! where the bytes of the object with this place are, and a digest of them. The bytes follow it.

use snapsync_model::{
    Content, OBJECTS_PER_PACK, Pack, Packed, Range, ReadAt, before_path, locked, object_path,
};
use snapsync_sys::{Spot, next_data};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock};

/// Larger files get objects of their own.
pub const LARGEST: u64 = 32 << 10;
pub(crate) const ENTRY: usize = 32;
/// Where the bytes begin.
pub(crate) const HEAD: u64 = ((1 + OBJECTS_PER_PACK) * ENTRY as u64).next_multiple_of(4096);
const MAGIC: &[u8; 16] = b"SNAPSYNC-PACK-1\n";
/// How much is written at a time.
const BUFFER: usize = 256 << 10;
/// How many packs stay open.
const OPEN: usize = 32;
/// How much of a head is read at a time: who asks for one entry mostly asks for those beside it.
const PART: usize = 4096;

type Digest = [u8; 16];

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    beginning(blake3::hash(bytes).as_bytes())
}

fn beginning(hash: &[u8; 32]) -> Digest {
    *hash.first_chunk().expect("a hash has 32 bytes")
}

/// Where the bytes of an object are. Without any there is no object.
#[derive(Clone, Copy, Default)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    digest: Digest,
}

impl Entry {
    fn of(bytes: &[u8; ENTRY]) -> Entry {
        let ([offset, length], digest) = numbers(bytes);
        // Nothing else was ever written.
        let length = if length <= LARGEST && (HEAD..1 << 62).contains(&offset) { length } else { 0 };
        Entry { offset, length, digest }
    }

    fn bytes(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..].copy_from_slice(&self.digest);
        bytes
    }

    pub(crate) fn is_there(&self) -> bool {
        self.length > 0
    }

    pub(crate) fn range(&self) -> Range {
        Range { offset: self.offset, length: self.length }
    }
}

fn numbers(bytes: &[u8; ENTRY]) -> ([u64; 2], Digest) {
    let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("it is long enough"));
    ([number(0), number(8)], *bytes[16..].first_chunk().expect("it is long enough"))
}

/// What a pack says of itself before its first place.
fn name_of(pack: Pack) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    bytes[..16].copy_from_slice(MAGIC);
    bytes[16..24].copy_from_slice(&pack.object(0).to_le_bytes());
    bytes
}

/// Opens a pack; None if it is not there, or is no pack or another one.
pub(crate) fn open_pack(
    pool: &Spot,
    pack: Pack,
    open: impl FnOnce(&Spot) -> io::Result<File>,
) -> io::Result<Option<File>> {
    let file = match open(&pool.join(pack.path())) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut name = [0; ENTRY];
    Ok((read_at(&file, &mut name, 0)? && name == name_of(pack)).then_some(file))
}

/// False where the file ends before that.
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, at) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

fn entry_at(place: u64) -> u64 {
    (1 + place) * ENTRY as u64
}

/// All entries of a pack, up to the last that was ever used.
pub(crate) fn entries_of(pack: &File) -> io::Result<Vec<Entry>> {
    let end = HEAD.min(pack.metadata()?.len());
    let (mut head, mut at) = (vec![0; end as usize], entry_at(0));
    // Of a pack with few objects most of the head is a hole.
    while let Some(data) = next_data(pack, at, end)? {
        at = data.end();
        pack.read_exact_at(&mut head[data.offset as usize..at as usize], data.offset)?;
    }
    let entries = head.as_chunks().0.iter().skip(1).take(OBJECTS_PER_PACK as usize);
    let mut entries: Vec<Entry> = entries.map(Entry::of).collect();
    let used = entries.iter().rposition(Entry::is_there).map_or(0, |last| last + 1);
    entries.truncate(used);
    Ok(entries)
}

/// Takes an object out of a pack.
pub(crate) fn clear_entry(pack: &File, place: u64) -> io::Result<()> {
    pack.write_all_at(&[0; ENTRY], entry_at(place))
}

/// Writes a pack. Nothing finds it, or what is in it, before it is finished.
pub(crate) struct Writer {
    file: File,
    pub(crate) entries: Vec<Entry>,
    buffer: Vec<u8>,
    /// Where the buffer will begin.
    at: u64,
}

impl Writer {
    pub(crate) fn new(file: File) -> Writer {
        Writer { file, entries: Vec::new(), buffer: Vec::new(), at: HEAD }
    }

    /// At the next place.
    pub(crate) fn put(&mut self, bytes: &[u8], digest: Digest) -> io::Result<u64> {
        let place = self.entries.len() as u64;
        let entry = Entry { offset: 0, length: bytes.len() as u64, digest };
        self.entries.push(Entry::default());
        self.put_at(place as usize, entry, bytes).map(|()| place)
    }

    /// `entry` tells of the bytes in another pack.
    fn put_at(&mut self, place: usize, entry: Entry, bytes: &[u8]) -> io::Result<()> {
        self.entries[place] = Entry { offset: self.at + self.buffer.len() as u64, ..entry };
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Takes over what another pack still has, each at its place. What is damaged there stays so.
    pub(crate) fn put_all_of(&mut self, pack: &File, entries: &[Entry]) -> io::Result<()> {
        self.entries = vec![Entry::default(); entries.len()];
        for (place, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.is_there()) {
            let mut bytes = vec![0; entry.length as usize];
            read_at(pack, &mut bytes, entry.offset)?;
            self.put_at(place, *entry, &bytes)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self, pack: Pack) -> io::Result<File> {
        self.flush()?;
        let entries = self.entries.iter().flat_map(Entry::bytes);
        let head: Vec<u8> = name_of(pack).into_iter().chain(entries).collect();
        self.file.write_all_at(&head, 0)?;
        Ok(self.file)
    }
}

/// A pack to be read, with the parts of its head that were. Of an entry nothing changes but that it goes.
struct Opened {
    file: File,
    head: Vec<OnceLock<Box<[u8; PART]>>>,
}

impl Opened {
    fn new(file: File) -> Opened {
        let parts = (0..HEAD as usize / PART).map(|_| OnceLock::new());
        Opened { file, head: parts.collect() }
    }

    /// The entry of a place, though it may have gone meanwhile; None if there is none.
    fn entry(&self, place: u64) -> io::Result<Option<Entry>> {
        let (part, at) = (entry_at(place) as usize / PART, entry_at(place) as usize % PART);
        let Some(known) = self.head.get(part) else { return Ok(None) };
        if known.get().is_none() {
            let mut bytes = Box::new([0; PART]);
            if !read_at(&self.file, &mut bytes[..], (part * PART) as u64)? {
                return Ok(None);
            }
            // Another thread may have been faster.
            let _ = known.set(bytes);
        }
        let entry = known.get().and_then(|part| part[at..].first_chunk()).map(Entry::of);
        Ok(entry.filter(Entry::is_there))
    }

    /// The same, read now.
    fn entry_now(&self, place: u64) -> io::Result<Option<Entry>> {
        let mut bytes = [0; ENTRY];
        let is_told = read_at(&self.file, &mut bytes, entry_at(place))?;
        Ok(is_told.then(|| Entry::of(&bytes)).filter(Entry::is_there))
    }
}

/// The objects of a pool, to be read.
pub(crate) struct Pool {
    dir: Spot,
    packs: Mutex<HashMap<Pack, Arc<Opened>>>,
}

impl Pool {
    pub(crate) fn new(dir: Spot) -> Pool {
        Pool { dir, packs: Mutex::default() }
    }

    pub(crate) fn dir(&self) -> &Spot {
        &self.dir
    }

    /// The bytes of an object; None where it has none, or a pack has others than were put into it.
    pub(crate) fn open(&self, object: u64) -> io::Result<Option<Content>> {
        if let Some(packed) = self.bytes(object)? {
            let bytes: Box<dyn ReadAt> = Box::new(packed.bytes);
            return Ok(Some(bytes.into()));
        }
        match object_at(&self.dir, object).open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(|file| Some(file.into())),
        }
    }

    /// The bytes that a pack has of an object, if they are those that were put into it.
    pub(crate) fn bytes(&self, object: u64) -> io::Result<Option<Packed>> {
        let Some((pack, entry)) = self.packed(object, Opened::entry)? else { return Ok(None) };
        let mut bytes = vec![0; entry.length as usize];
        let is_read = read_at(&pack.file, &mut bytes, entry.offset)?;
        let hash = *blake3::hash(&bytes).as_bytes();
        Ok((is_read && beginning(&hash) == entry.digest).then_some(Packed { bytes, hash }))
    }

    pub(crate) fn has(&self, object: u64) -> bool {
        self.has_whole(object) || before_at(&self.dir, object).is_there()
    }

    /// Not only a before-image.
    pub(crate) fn has_whole(&self, object: u64) -> bool {
        self.packed(object, Opened::entry_now).is_ok_and(|found| found.is_some())
            || object_at(&self.dir, object).is_there()
    }

    /// Where a pack has it; None if none has it.
    pub(crate) fn range_in_pack(&self, object: u64) -> io::Result<Option<Range>> {
        Ok(self.packed(object, Opened::entry)?.map(|(_, entry)| entry.range()))
    }

    /// Where its bytes begin in the file that has them.
    pub(crate) fn start_of(&self, object: u64) -> u64 {
        self.range_in_pack(object).ok().flatten().map_or(0, |place| place.offset)
    }

    /// The file that has its bytes, or had them.
    pub(crate) fn place_of(&self, object: u64) -> Spot {
        let own = object_at(&self.dir, object);
        match Pack::of(object) {
            Some((pack, _)) if !own.is_there() => self.dir.join(pack.path()),
            _ => Some(before_at(&self.dir, object))
                .filter(|it| !own.is_there() && it.is_there())
                .unwrap_or(own),
        }
    }

    fn packed(
        &self,
        object: u64,
        entry: impl FnOnce(&Opened, u64) -> io::Result<Option<Entry>>,
    ) -> io::Result<Option<(Arc<Opened>, Entry)>> {
        let Some((pack, place)) = Pack::of(object) else { return Ok(None) };
        let Some(pack) = self.pack(pack)? else { return Ok(None) };
        Ok(entry(&pack, place)?.map(|entry| (pack, entry)))
    }

    fn pack(&self, pack: Pack) -> io::Result<Option<Arc<Opened>>> {
        if let Some(opened) = locked(&self.packs).get(&pack) {
            return Ok(Some(opened.clone()));
        }
        let Some(file) = open_pack(&self.dir, pack, Spot::open)? else { return Ok(None) };
        let (opened, mut packs) = (Arc::new(Opened::new(file)), locked(&self.packs));
        if packs.len() >= OPEN {
            packs.clear();
        }
        packs.insert(pack, opened.clone());
        Ok(Some(opened))
    }
}

/// Where the file of an object is that is in no pack.
pub(crate) fn object_at(pool: &Spot, object: u64) -> Spot {
    pool.join(object_path(object))
}

/// Where the before-image of an object is.
pub(crate) fn before_at(pool: &Spot, object: u64) -> Spot {
    pool.join(before_path(object))
}

/// Creates a file of a pool, and the directories above it.
pub(crate) fn create(spot: &Spot) -> io::Result<File> {
    match spot.create_new() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let above = spot.above().into_iter();
            above
                .flat_map(|dir| dir.above().into_iter().chain([dir]))
                .try_for_each(|dir| dir.ensure_dir())?;
            spot.create_new()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_sys::Root;
    use std::path::Path;

    /// More than one part of a head tells of.
    const OBJECTS: u64 = 300;

    fn bytes_of(place: u64) -> Vec<u8> {
        place.to_string().into_bytes()
    }

    fn pool_with_a_pack(dir: &Path) -> (Pool, Pack) {
        let pool = Pool::new(Spot::top(Arc::new(Root::open(dir).unwrap())));
        let pack = Pack::new(1, 0);
        std::fs::create_dir(dir.join("1")).unwrap();
        let mut writer = Writer::new(File::create(dir.join(pack.path())).unwrap());
        for place in 0..OBJECTS {
            assert_eq!(writer.put(&bytes_of(place), digest(&bytes_of(place))).unwrap(), place);
        }
        writer.finish(pack).unwrap();
        (pool, pack)
    }

    #[test]
    fn a_pack_gives_what_was_put_into_it_and_nothing_for_other_places() {
        let home = tempfile::tempdir().unwrap();
        let (pool, pack) = pool_with_a_pack(home.path());
        for place in (0..OBJECTS).rev() {
            let (object, bytes) = (pack.object(place), bytes_of(place));
            let range = pool.range_in_pack(object).unwrap().unwrap();
            assert_eq!(range.length, bytes.len() as u64);
            assert_eq!(pool.bytes(object).unwrap().unwrap().bytes, bytes);
        }
        for place in [OBJECTS, OBJECTS_PER_PACK - 1] {
            assert!(pool.bytes(pack.object(place)).unwrap().is_none());
        }
    }

    #[test]
    fn an_object_that_went_is_not_there_for_who_was_told_of_it() {
        let home = tempfile::tempdir().unwrap();
        let (pool, pack) = pool_with_a_pack(home.path());
        let object = pack.object(7);
        assert!(pool.bytes(object).unwrap().is_some() && pool.has_whole(object));
        let file = File::options().write(true).open(home.path().join(pack.path())).unwrap();
        clear_entry(&file, 7).unwrap();
        assert!(!pool.has_whole(object));
        assert!(pool.has_whole(pack.object(8)));
    }

    #[test]
    fn a_pack_that_was_cut_off_has_nothing_beyond_its_end() {
        let home = tempfile::tempdir().unwrap();
        let (pool, pack) = pool_with_a_pack(home.path());
        let file = File::options().write(true).open(home.path().join(pack.path())).unwrap();
        file.set_len(HEAD + 1).unwrap();
        assert_eq!(pool.bytes(pack.object(0)).unwrap().unwrap().bytes, b"0");
        assert!(pool.bytes(pack.object(1)).unwrap().is_none());
        file.set_len(100).unwrap();
        let pool = Pool::new(pool.dir);
        assert!(pool.bytes(pack.object(1)).unwrap().is_none());
        assert!(!pool.has_whole(pack.object(5)));
    }
}
