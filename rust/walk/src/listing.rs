//! Inodes sorted by number, in bounded memory: they are encoded into sorted runs, which go to a temporary
//! file when there are many.

use rayon::prelude::*;
use snapsync_model::{Context, Directories, Error, Inode, Result, locked, unlocked};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

/// The number of entries of a run.
const RUN: usize = 1 << 16;
/// The number of bytes of runs that stay in memory.
const MEMORY: usize = 32 << 20;
/// The index knows the place of every STEP-th entry of a run.
const STEP: usize = 64;
/// About how many inodes are decoded together.
const PART: usize = 4096;
/// The number of parts that are decoded in parallel.
const SIDE_BY_SIDE: usize = 4;

/// Takes inodes in any order from many threads: each once per name, with that name.
pub struct Recorder {
    run: usize,
    memory: usize,
    filling: Mutex<Filling>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Filling {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Where the bytes of an inode are in a run.
struct Entry {
    ino: u64,
    from: usize,
    to: usize,
}

#[derive(Default)]
struct Kept {
    runs: Vec<Run>,
    in_memory: usize,
    file: Option<File>,
    in_file: u64,
    entries: u64,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new(RUN, MEMORY)
    }
}

impl Recorder {
    fn new(run: usize, memory: usize) -> Recorder {
        Recorder { run, memory, filling: Mutex::default(), kept: Mutex::default() }
    }

    pub fn add(&self, inodes: &[Inode]) -> Result<()> {
        let mut more = Filling::default();
        inodes.iter().try_for_each(|inode| more.add(inode)).map_err(cannot_write)?;
        let full = {
            let mut filling = locked(&self.filling);
            filling.append(more);
            if filling.entries.len() < self.run {
                return Ok(());
            }
            std::mem::take(&mut *filling)
        };
        self.keep(full).map_err(cannot_write)
    }

    fn keep(&self, full: Filling) -> io::Result<()> {
        let entries = full.entries.len() as u64;
        let (bytes, index) = full.sorted();
        let mut kept = locked(&self.kept);
        kept.entries += entries;
        let length = bytes.len();
        let place = if kept.in_memory + length <= self.memory {
            kept.in_memory += length;
            Place::Memory(bytes)
        } else {
            if kept.file.is_none() {
                kept.file = Some(tempfile::tempfile()?);
            }
            let at = kept.in_file;
            kept.in_file += length as u64;
            // The lock is released, so that other threads can write their runs meanwhile.
            let file = kept.file.as_ref().map(File::try_clone).transpose()?;
            drop(kept);
            file.map_or(Ok(()), |file| file.write_all_at(&bytes, at))?;
            kept = locked(&self.kept);
            Place::Disk(at)
        };
        kept.runs.push(Run { place, length, index });
        Ok(())
    }

    pub fn finish(self) -> Result<Listing> {
        let filling = std::mem::take(&mut *locked(&self.filling));
        if !filling.entries.is_empty() {
            self.keep(filling).map_err(cannot_write)?;
        }
        let Kept { runs, file, entries, .. } = unlocked(self.kept);
        Ok(Listing { runs, file, entries })
    }
}

impl Filling {
    fn add(&mut self, inode: &Inode) -> io::Result<()> {
        let from = self.bytes.len();
        postcard::to_io(inode, &mut self.bytes).map_err(io::Error::other)?;
        self.entries.push(Entry { ino: inode.ino, from, to: self.bytes.len() });
        Ok(())
    }

    fn append(&mut self, more: Filling) {
        let by = self.bytes.len();
        self.bytes.extend(more.bytes);
        let moved = |entry: Entry| Entry { from: entry.from + by, to: entry.to + by, ..entry };
        self.entries.extend(more.entries.into_iter().map(moved));
    }

    /// The bytes of the run in order, and the numbers and places of some entries.
    fn sorted(mut self) -> (Vec<u8>, Vec<(u64, usize)>) {
        self.entries.sort_by_key(|entry| entry.ino);
        let mut bytes = Vec::with_capacity(self.bytes.len());
        let mut index = Vec::with_capacity(self.entries.len().div_ceil(STEP));
        for (at, entry) in self.entries.iter().enumerate() {
            if at.is_multiple_of(STEP) {
                index.push((entry.ino, bytes.len()));
            }
            bytes.extend_from_slice(&self.bytes[entry.from..entry.to]);
        }
        (bytes, index)
    }
}

/// Inodes sorted by number, each once with all its names.
#[derive(Debug, Default)]
pub struct Listing {
    runs: Vec<Run>,
    file: Option<File>,
    entries: u64,
}

#[derive(Debug)]
struct Run {
    place: Place,
    length: usize,
    index: Vec<(u64, usize)>,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    /// The run begins at this offset of the file.
    Disk(u64),
}

impl Listing {
    pub(crate) fn of(inodes: impl IntoIterator<Item = Inode>) -> Result<Listing> {
        let recorder = Recorder::default();
        inodes.into_iter().try_for_each(|inode| recorder.add(&[inode]))?;
        recorder.finish()
    }

    /// The same listing with more entries, some of which may be further names of inodes in it.
    pub(crate) fn with(self, more: Vec<Inode>, directories: &mut Directories) -> Result<Listing> {
        more.iter().for_each(|inode| directories.add(inode));
        let recorder = Recorder::default();
        for inode in self.iter().chain(more.into_iter().map(Ok)) {
            recorder.add(&[inode?])?;
        }
        recorder.finish()
    }

    /// The number of names.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Every inode, in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Inode>> + Send {
        let cuts = self.cuts();
        let windows = (0..cuts.len()).step_by(SIDE_BY_SIDE).map(move |from| {
            let window = from..cuts.len().min(from + SIDE_BY_SIDE);
            let parts = window.into_par_iter().map(|at| self.between(after(&cuts, at), cuts[at]));
            parts.collect::<Vec<_>>()
        });
        windows.flatten().flat_map(|part| match part {
            Ok(inodes) => inodes.into_iter().map(Ok).collect(),
            Err(e) => vec![Err(e)],
        })
    }

    /// Those of these inodes that exist, sorted.
    pub fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        let cuts = self.cuts();
        let picked = (0..cuts.len()).into_par_iter().map(|at| {
            let after = after(&cuts, at);
            let from = after.map_or(0, |after| after.saturating_add(1));
            if from > cuts[at] || inos.range(from..=cuts[at]).next().is_none() {
                return Ok(Vec::new());
            }
            let mut inodes = self.between(after, cuts[at])?;
            inodes.retain(|inode| inos.contains(&inode.ino));
            Ok(inodes)
        });
        Ok(picked.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Numbers that divide all inodes into parts; each number is the last of its part. The last one is the
    /// highest possible number.
    pub fn cuts(&self) -> Vec<u64> {
        let mut known: Vec<u64> =
            self.runs.iter().flat_map(|run| run.index.iter().map(|(ino, _)| *ino)).collect();
        known.sort_unstable();
        let mut cuts: Vec<u64> = known.into_iter().step_by(PART / STEP).skip(1).collect();
        cuts.push(u64::MAX);
        cuts.dedup();
        cuts
    }

    /// The inodes with numbers above `after` and up to `through`, in order.
    pub fn between(&self, after: Option<u64>, through: u64) -> Result<Vec<Inode>> {
        let mut found = Vec::new();
        for run in &self.runs {
            run.read(self.file.as_ref(), after, through, &mut found).map_err(cannot_read)?;
        }
        // Each run is sorted already, which speeds up a stable sort.
        found.sort_by(|a, b| (a.ino, &a.links).cmp(&(b.ino, &b.links)));
        found.dedup_by(|next, kept| {
            let same = next.ino == kept.ino;
            if same {
                kept.links.append(&mut next.links);
            }
            same
        });
        Ok(found)
    }
}

fn after(cuts: &[u64], at: usize) -> Option<u64> {
    at.checked_sub(1).map(|before| cuts[before])
}

impl Run {
    fn read(
        &self,
        file: Option<&File>,
        after: Option<u64>,
        through: u64,
        found: &mut Vec<Inode>,
    ) -> io::Result<()> {
        let place = |at: usize| self.index.get(at).map_or(self.length, |(_, place)| *place);
        // The last indexed entry before all that are wanted, and the first one after them.
        let first = self.index.partition_point(|(ino, _)| after.is_some_and(|after| *ino <= after));
        let end = self.index.partition_point(|(ino, _)| *ino <= through);
        let (from, to) = (place(first.saturating_sub(1)), place(end));
        let read;
        let mut bytes = match (&self.place, file) {
            (Place::Memory(bytes), _) => &bytes[from..to],
            (Place::Disk(at), Some(file)) => {
                let mut buffer = vec![0; to - from];
                file.read_exact_at(&mut buffer, at + from as u64)?;
                read = buffer;
                &read[..]
            }
            (Place::Disk(_), None) => return Err(io::ErrorKind::NotFound.into()),
        };
        while !bytes.is_empty() {
            let (inode, rest): (Inode, _) = postcard::take_from_bytes(bytes).map_err(io::Error::other)?;
            bytes = rest;
            if inode.ino > through {
                break;
            }
            if after.is_none_or(|after| inode.ino > after) {
                found.push(inode);
            }
        }
        Ok(())
    }
}

fn cannot_write(source: io::Error) -> Error {
    let place = std::env::temp_dir();
    Err::<(), _>(source).context("write a list of what was found to a temporary file in", place).unwrap_err()
}

fn cannot_read(source: io::Error) -> Error {
    let place = std::env::temp_dir();
    Err::<(), _>(source)
        .context("read the list of what was found from a temporary file in", place)
        .unwrap_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::Attributes;
    use snapsync_model::Details;
    use snapsync_model::Kind;
    use snapsync_model::Link;
    use snapsync_model::ROOT;
    use snapsync_model::Range;
    use snapsync_model::Rare;
    use snapsync_model::Xattr;
    use std::collections::BTreeMap;

    /// Pseudo-random numbers from a seed.
    fn scramble(seed: u64) -> u64 {
        let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn inode(ino: u64) -> Inode {
        let xattr = Xattr { name: (*b"user.x").into(), value: vec![0; ino as usize % 3].into() };
        let details = Details {
            flags: 1,
            rare: Rare { project: 7, ..Rare::default() },
            xattrs: vec![xattr],
            symlink_target: Some((*b"\xff").into()),
            unwritten: vec![Range { offset: 1, length: ino }],
        };
        Inode {
            ino,
            generation: scramble(ino),
            kind: if ino.is_multiple_of(5) { Kind::Directory } else { Kind::File },
            attributes: Attributes {
                size: ino,
                mode: 0o7777,
                uid: 1,
                gid: 2,
                rdev: 3,
                mtime: -1,
                flags: 4,
                ..Attributes::default()
            },
            ctime: i64::MIN,
            blocks: u64::MAX,
            links: Vec::new(),
            details: if ino.is_multiple_of(7) { Some(Box::new(details)) } else { None },
            object: ino / 2,
            shared: ino.is_multiple_of(2),
        }
    }

    /// Names of inodes in any order, some with several names, and the inodes that they should give.
    fn names(count: u64) -> (Vec<Inode>, BTreeMap<u64, Inode>) {
        let mut all = vec![inode(ROOT)];
        let mut model = BTreeMap::from([(ROOT, inode(ROOT))]);
        for at in 0..count {
            let one = inode(1 + scramble(at) % count);
            let link = Link { parent: scramble(at) % 9, name: at.to_string().into_bytes().into() };
            model.entry(one.ino).or_insert_with(|| one.clone()).links.push(link.clone());
            all.push(Inode { links: vec![link], ..one });
        }
        model.values_mut().for_each(|inode| inode.links.sort());
        (all, model)
    }

    fn listed(all: &[Inode], run: usize, memory: usize) -> Listing {
        let recorder = Recorder::new(run, memory);
        all.par_chunks(100).try_for_each(|some| recorder.add(some)).unwrap();
        recorder.finish().unwrap()
    }

    #[test]
    fn what_was_added_comes_back_sorted_with_all_its_names_wherever_it_was_kept() {
        let (all, model) = names(30_000);
        for (run, memory) in [(1 << 20, 1 << 30), (1000, 1 << 30), (1000, 500_000), (777, 0), (1, 0)] {
            // A run holds at least one directory's share of entries: a hundred here.
            let listing = listed(&all, run, memory);
            let back: Vec<Inode> = listing.iter().collect::<Result<_>>().unwrap();
            assert!(back.iter().eq(model.values()), "runs of {run}, {memory} bytes in memory");
            assert_eq!(listing.entries(), 30_001);
        }
    }

    #[test]
    fn any_numbers_are_found_by_themselves() {
        let (all, model) = names(20_000);
        let listing = listed(&all, 900, 100_000);
        for turn in 0..200 {
            let (one, two) = (scramble(turn) % 20_010, scramble(turn + 999) % 20_010);
            let (after, through) = (one.min(two), one.max(two));
            let wanted = model.range(after + 1..through.max(after + 1) + 1).map(|(_, inode)| inode);
            assert!(listing.between(Some(after), through.max(after + 1)).unwrap().iter().eq(wanted));
        }
        let inos: BTreeSet<u64> = (0..50).map(|turn| scramble(turn) % 30_000).chain([ROOT]).collect();
        let picked = listing.pick(&inos).unwrap();
        assert!(picked.iter().eq(model.values().filter(|inode| inos.contains(&inode.ino))));
        assert_eq!(Listing::default().pick(&inos).unwrap(), []);
        assert_eq!(Listing::default().iter().count(), 0);
    }
}
