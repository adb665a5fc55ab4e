//! Every name of a side in order of paths, in bounded memory: names are sorted in runs, which go to a
//! temporary file when there are many, and the runs are merged.

use rayon::prelude::*;
use snapsync_model::{Context, Error, Inode, Kind, ROOT, RelPath, Result, Side};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The number of bytes that are sorted together.
const RUN: usize = 8 << 20;
/// The number of bytes of runs that stay in memory.
const MEMORY: usize = 32 << 20;
/// What is read of a run at a time.
const WINDOW: usize = 64 << 10;
/// Inodes whose paths are found side by side, and those by one thread.
const CHUNK: usize = 4096;
const TOGETHER: usize = 128;

/// One name of a side.
#[derive(Debug, PartialEq)]
pub(crate) struct Name {
    pub(crate) path: RelPath,
    pub(crate) kind: Kind,
    /// The first of its names if the inode has several.
    pub(crate) first: Option<RelPath>,
    /// The inode, only at the first of its names.
    pub(crate) inode: Option<Inode>,
}

/// The names of a side.
pub(crate) struct Names<'a> {
    pub(crate) side: &'a dyn Side,
    sorted: Sorted,
}

impl<'a> Names<'a> {
    pub(crate) fn of(side: &'a dyn Side) -> Result<Names<'a>> {
        let (mut inodes, mut sorting) = (side.inodes()?, Sorting::new(RUN, MEMORY));
        loop {
            let mut chunk: Vec<Inode> = inodes.by_ref().take(CHUNK).collect::<Result<_>>()?;
            if chunk.is_empty() {
                return Ok(Names { side, sorted: sorting.finish().map_err(cannot_write)? });
            }
            let found: Vec<Filling> = chunk
                .par_chunks_mut(TOGETHER)
                .map(|inodes| {
                    let mut found = Filling::default();
                    inodes.iter_mut().try_for_each(|inode| found.add_names(side, inode)).map(|()| found)
                })
                .collect::<Result<_>>()?;
            found.into_iter().try_for_each(|found| sorting.append(found)).map_err(cannot_write)?;
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.sorted.entries
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> Result<Merged<'_>> {
        self.sorted.iter().map_err(cannot_read)
    }
}

/// Entries in any order.
#[derive(Default)]
struct Filling {
    bytes: Vec<u8>,
    /// Where the path of each begins and ends, and where its rest ends.
    entries: Vec<[usize; 3]>,
}

impl Filling {
    fn add_names(&mut self, side: &dyn Side, inode: &mut Inode) -> Result<()> {
        let paths = inode.links.iter().map(|link| side.path_of(link));
        let mut paths: Vec<RelPath> = paths.collect::<Result<_>>()?;
        if inode.ino == ROOT {
            paths.push(RelPath::root());
        }
        paths.sort_unstable();
        if let [link] = &mut inode.links[..] {
            // The path ends with it.
            link.name = Box::default();
        }
        let first = paths.first().filter(|_| paths.len() > 1);
        for path in &paths {
            let is_first = first.is_none_or(|first| first == path);
            let rest = (inode.kind, first.map(RelPath::as_bytes), is_first.then_some(&*inode));
            let put = |to: &mut Vec<u8>| postcard::to_io(&rest, to).map(drop).map_err(io::Error::other);
            self.add(path.as_bytes(), put).map_err(cannot_write)?;
        }
        Ok(())
    }

    fn add(&mut self, path: &[u8], rest: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(path);
        let middle = self.bytes.len();
        rest(&mut self.bytes)?;
        self.entries.push([from, middle, self.bytes.len()]);
        Ok(())
    }
}

/// A name as it is kept: its path, and the rest of it.
pub(crate) struct Encoded {
    pub(crate) path: Vec<u8>,
    rest: Vec<u8>,
}

impl Encoded {
    pub(crate) fn decode(&self) -> Result<Name> {
        type Rest = (Kind, Option<Box<[u8]>>, Option<Inode>);
        let rest = postcard::from_bytes(&self.rest).map_err(|e| cannot_read(io::Error::other(e)))?;
        let (kind, first, mut inode): Rest = rest;
        let links = inode.as_mut().map(|inode| &mut inode.links[..]);
        if let Some([link]) = links {
            link.name = self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().into();
        }
        let path = if self.path.is_empty() { RelPath::root() } else { RelPath::new(&self.path)? };
        Ok(Name { path, kind, first: first.map(|first| RelPath::new(&first)).transpose()?, inode })
    }
}

struct Sorting {
    run: usize,
    memory: usize,
    filling: Filling,
    in_memory: usize,
    in_file: u64,
    sorted: Sorted,
}

/// Sorted runs.
#[derive(Default)]
struct Sorted {
    runs: Vec<Run>,
    file: Option<File>,
    entries: u64,
}

struct Run {
    place: Place,
    length: usize,
}

enum Place {
    Memory(Vec<u8>),
    /// The run begins at this offset of the file.
    Disk(u64),
}

impl Sorting {
    fn new(run: usize, memory: usize) -> Sorting {
        let (filling, sorted) = (Filling::default(), Sorted::default());
        Sorting { run, memory, filling, in_memory: 0, in_file: 0, sorted }
    }

    fn append(&mut self, more: Filling) -> io::Result<()> {
        let by = self.filling.bytes.len();
        self.filling.bytes.extend(more.bytes);
        self.filling.entries.extend(more.entries.iter().map(|entry| entry.map(|at| at + by)));
        if self.filling.bytes.len() >= self.run { self.keep() } else { Ok(()) }
    }

    fn keep(&mut self) -> io::Result<()> {
        let (bytes, entries) = (&self.filling.bytes, &mut self.filling.entries);
        entries.par_sort_unstable_by(|[a, b, _], [x, y, _]| bytes[*a..*b].cmp(&bytes[*x..*y]));
        let run = encoded(bytes, entries);
        self.sorted.entries += entries.len() as u64;
        self.filling.bytes.clear();
        self.filling.entries.clear();
        let length = run.len();
        let place = if self.in_memory + length <= self.memory {
            self.in_memory += length;
            Place::Memory(run)
        } else {
            if self.sorted.file.is_none() {
                self.sorted.file = Some(tempfile::tempfile()?);
            }
            let at = self.in_file;
            self.in_file += length as u64;
            self.sorted.file.iter().try_for_each(|file| file.write_all_at(&run, at))?;
            Place::Disk(at)
        };
        self.sorted.runs.push(Run { place, length });
        Ok(())
    }

    fn finish(mut self) -> io::Result<Sorted> {
        if !self.filling.entries.is_empty() {
            self.keep()?;
        }
        Ok(self.sorted)
    }
}

/// Three numbers before each entry: how many bytes its path shares with the one before, how many it has
/// beside these, and how many the rest has.
const NUMBERS: usize = 12;

fn encoded(bytes: &[u8], entries: &[[usize; 3]]) -> Vec<u8> {
    let (mut run, mut last) = (Vec::with_capacity(bytes.len()), &bytes[..0]);
    for [from, middle, to] in entries {
        let path = &bytes[*from..*middle];
        let shared = path.iter().zip(last).take_while(|(one, other)| one == other).count();
        for number in [shared, path.len() - shared, to - middle] {
            run.extend_from_slice(&(number as u32).to_le_bytes());
        }
        run.extend_from_slice(&bytes[from + shared..*to]);
        last = path;
    }
    run
}

impl Sorted {
    fn iter(&self) -> io::Result<Merged<'_>> {
        let mut merged = Merged { cursors: Vec::new(), heads: BinaryHeap::new() };
        for run in &self.runs {
            let (file, window) = (self.file.as_ref(), Vec::new());
            let cursor = Cursor { run, file, at: 0, window, window_at: 0, rest: Vec::new() };
            merged.cursors.push(cursor);
            merged.go_on(merged.cursors.len() - 1, Vec::new())?;
        }
        Ok(merged)
    }
}

/// The entries of all runs, in order.
pub(crate) struct Merged<'a> {
    cursors: Vec<Cursor<'a>>,
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
}

impl Merged<'_> {
    /// Puts the next path of a run, which comes after `path`, among the heads.
    fn go_on(&mut self, at: usize, path: Vec<u8>) -> io::Result<()> {
        if let Some(path) = self.cursors[at].next(path)? {
            self.heads.push(Reverse((path, at)));
        }
        Ok(())
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Encoded>;

    fn next(&mut self) -> Option<Result<Encoded>> {
        let Reverse((path, at)) = self.heads.pop()?;
        let rest = std::mem::take(&mut self.cursors[at].rest);
        let went_on = self.go_on(at, path.clone()).map_err(cannot_read);
        Some(went_on.map(|()| Encoded { path, rest }))
    }
}

/// A place in a run.
struct Cursor<'a> {
    run: &'a Run,
    file: Option<&'a File>,
    at: usize,
    /// What was read last of a run in the file, and where in the run that begins.
    window: Vec<u8>,
    window_at: usize,
    /// Of the entry before `at`.
    rest: Vec<u8>,
}

impl Cursor<'_> {
    /// The next path after `path`.
    fn next(&mut self, mut path: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
        if self.at == self.run.length {
            return Ok(None);
        }
        let numbers = self.take(NUMBERS)?;
        let number =
            |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| numbers[4 * at + byte])) as usize;
        let (shared, own, rest) = (number(0), number(1), number(2));
        path.truncate(shared);
        path.extend_from_slice(self.take(own)?);
        self.rest = self.take(rest)?.to_vec();
        Ok(Some(path))
    }

    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let from = self.at;
        self.at += length;
        match (&self.run.place, self.file) {
            (Place::Memory(bytes), _) => Ok(&bytes[from..from + length]),
            (Place::Disk(begin), Some(file)) => {
                if from + length > self.window_at + self.window.len() {
                    let wanted = length.max(WINDOW).min(self.run.length - from);
                    self.window.resize(wanted, 0);
                    file.read_exact_at(&mut self.window, begin + from as u64)?;
                    self.window_at = from;
                }
                Ok(&self.window[from - self.window_at..][..length])
            }
            (Place::Disk(_), None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn cannot_write(source: io::Error) -> Error {
    failed(source, "write the names of a tree to a temporary file in")
}

fn cannot_read(source: io::Error) -> Error {
    failed(source, "read the names of a tree from a temporary file in")
}

fn failed(source: io::Error, action: &'static str) -> Error {
    Err::<(), _>(source).context(action, std::env::temp_dir()).unwrap_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn names_come_in_order_of_their_paths_wherever_they_were_kept() {
        let name = |seed: u64| {
            let x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (format!("{}/{}-{}", x % 7, x % 101, seed).into_bytes(), vec![seed as u8; seed as usize % 50])
        };
        let model: BTreeMap<Vec<u8>, Vec<u8>> = (0..20_000).map(name).chain([(vec![], vec![1])]).collect();
        for (run, memory) in [(1 << 30, 1 << 30), (100_000, 1 << 30), (10_000, 50_000), (999, 0), (1, 0)] {
            let mut sorting = Sorting::new(run, memory);
            let count = if run == 1 { 300 } else { 20_000 };
            for (path, rest) in (0..count).map(name).chain([(vec![], vec![1])]) {
                let mut one = Filling::default();
                one.add(&path, |to| std::io::Write::write_all(to, &rest)).unwrap();
                sorting.append(one).unwrap();
            }
            let sorted = sorting.finish().unwrap();
            assert_eq!(sorted.entries, count + 1);
            let found = sorted.iter().unwrap().map(|entry| entry.map(|it| (it.path, it.rest)).unwrap());
            let wanted = model.clone().into_iter().filter(|(path, _)| {
                let number = path.rsplit(|byte| *byte == b'-').next();
                path.is_empty()
                    || std::str::from_utf8(number.unwrap()).unwrap().parse::<u64>().unwrap() < count
            });
            assert!(found.eq(wanted), "runs of {run}, {memory} bytes in memory");
        }
    }
}
