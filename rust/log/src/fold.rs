//! Puts a snapshot together from the commits that led to it: one manifest in which everything is new, and
//! the frames that have its bytes. What a new standby needs, a restore, and a checkpoint.

use crate::at_once::at_once;
use crate::commit::{Published, StoredObject};
use crate::log::Log;
use snapsync_manifest::{FrameRow, ManifestHeader, ManifestReader, ManifestWriter, read_frames, vet};
use snapsync_model::{
    AccountNames, BLOCK, Change, ChangeFlags, Context, Counts, Directories, End, Error, Extent, Kind, Link,
    Monitor, Op, ROOT, Range, RelPath, Result, Source,
};
use snapsync_stream::wire::DeltaHead;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The tables of so many deltas are brought together, by so many readers.
const TOGETHER: usize = 32;
const READERS: usize = 8;

/// All of one snapshot.
pub struct Whole {
    pub(crate) dir: TempDir,
    /// From nothing to the snapshot.
    pub delta: DeltaHead,
    /// Sorted by inode and offset. Their packs are those of `packs`.
    pub frames: Vec<FrameRow>,
    pub packs: Vec<StoredObject>,
}

impl Whole {
    /// The manifest from nothing to the snapshot.
    pub fn manifest(&self) -> PathBuf {
        self.dir.path().join("whole.arrow")
    }

    /// Reduces it to some paths below the root, and the directories above them. Returns the first of the
    /// paths that it does not have, if one is missing.
    pub fn reduce(&mut self, paths: &[RelPath]) -> Result<Option<RelPath>> {
        let manifest = self.manifest();
        let header = ManifestReader::open(&manifest)?.header()?;
        let mut directories = Directories::default();
        for row in ManifestReader::open(&manifest)? {
            let row = row?;
            if let (Kind::Directory, Some(link)) = (row.kind, row.links_added.first()) {
                directories.insert(row.ino, link.clone());
            }
        }
        let wanted: BTreeSet<&Path> = paths.iter().map(RelPath::as_path).collect();
        let above: BTreeSet<&Path> = wanted.iter().flat_map(|path| path.ancestors().skip(1)).collect();
        let mut missing = wanted.clone();
        let (less, mut kept) = (self.dir.path().join("less.arrow"), BTreeSet::new());
        let mut writer = ManifestWriter::create(&less, &header)?;
        for row in ManifestReader::open(&manifest)? {
            let mut row = row?;
            let mut links = Vec::new();
            for link in std::mem::take(&mut row.links_added) {
                let path = directories.path(&link)?;
                missing.remove(path.as_path());
                let leads_there = row.kind == Kind::Directory && above.contains(path.as_path());
                if leads_there || path.as_path().ancestors().any(|outer| wanted.contains(outer)) {
                    links.push((link, path));
                }
            }
            if links.is_empty() && row.ino != ROOT {
                continue;
            }
            kept.insert(row.ino);
            row.path = links.first().map_or(row.path, |(_, path)| Some(path.clone()));
            row.nlink = links.len() as u32;
            row.links_added = links.into_iter().map(|(link, _)| link).collect();
            writer.write(&row)?;
        }
        if let Some(path) = missing.pop_first() {
            return RelPath::new(path.as_os_str().as_encoded_bytes()).map(Some);
        }
        self.delta.totals = (&writer.finish()?).into();
        std::fs::rename(&less, &manifest).context("rename", &less)?;
        self.frames.retain(|frame| kept.contains(&frame.ino));
        Ok(None)
    }
}

/// The manifests of a line, in files.
struct Manifests<'a> {
    files: Vec<PathBuf>,
    monitor: &'a Monitor,
}

/// Folds a line of deltas, of which the first starts from nothing.
pub fn fold(log: &Log, line: &[Published], monitor: &Monitor) -> Result<Whole> {
    let dir = snapsync_sys::scratch()?;
    let Some(last) = line.last() else {
        return Err(Error::failed("there is nothing to fold", "report this"));
    };
    if let Some(other) = line.iter().find(|published| published.delta.volume != last.delta.volume) {
        return Err(astray(other, "its inodes have the numbers of another volume"));
    }
    let mut manifests = Manifests { files: Vec::new(), monitor };
    let mut pieces = Pieces::default();
    each_with_tables(log, line, dir.path(), &mut |published, tables| {
        monitor.check()?;
        pieces.add(published, &tables)?;
        manifests.files.push(tables.manifest);
        Ok(())
    })?;
    pieces.keep_used();
    let delta = &last.delta;
    let header = ManifestHeader {
        volume: delta.volume.map(|volume| volume.to_string()).unwrap_or_default(),
        provider: delta.snapshot.provider.name().to_owned(),
        filesystem: delta.filesystem.clone(),
        ..ManifestHeader::of(None, &delta.snapshot)
    };
    let counts = manifests.write(&dir.path().join("whole.arrow"), &header, &pieces)?;
    manifests.files.iter().try_for_each(|file| std::fs::remove_file(file).context("remove", file))?;
    let names = names_of(line);
    let delta = DeltaHead { base: None, totals: (&counts).into(), names, ..delta.clone() };
    Ok(Whole { dir, delta, frames: pieces.of.into_values().flatten().collect(), packs: pieces.packs })
}

/// What any of these deltas tells, the last one first; None if none does.
fn names_of(line: &[Published]) -> Option<AccountNames> {
    let mut told = line.iter().filter_map(|published| published.delta.names.as_ref());
    let mut names = told.next()?.clone();
    told.for_each(|later| names.extend(later));
    Some(names)
}

/// The tables of a delta, in files.
pub(crate) struct Tables {
    pub(crate) manifest: PathBuf,
    index: Option<PathBuf>,
}

impl Tables {
    pub(crate) fn remove(self) -> Result<()> {
        let files = std::iter::once(self.manifest).chain(self.index);
        files.into_iter().try_for_each(|file| std::fs::remove_file(&file).context("remove", &file))
    }
}

/// Calls `act` for each of these deltas, in order, with its tables, which are brought to a directory before:
/// those of several at the same time, as a store takes its time for each.
pub(crate) fn each_with_tables(
    log: &Log,
    line: &[Published],
    dir: &Path,
    act: &mut dyn FnMut(&Published, Tables) -> Result<()>,
) -> Result<()> {
    for (part, first) in line.chunks(TOGETHER).zip((0..).step_by(TOGETHER)) {
        let bring = |number: usize| {
            let published = &part[number];
            let file = |what| dir.join(format!("{}-{what}.arrow", first + number));
            let tables =
                Tables { manifest: file("manifest"), index: published.index.as_ref().map(|_| file("index")) };
            log.download(&published.manifest, &tables.manifest)?;
            published.index.iter().zip(&tables.index).try_for_each(|(index, to)| log.download(index, to))?;
            Ok(tables)
        };
        for (published, tables) in part.iter().zip(at_once(part.len(), READERS, bring)) {
            act(published, tables?)?;
        }
    }
    Ok(())
}

/// Where ranges begin and end.
type Ranges = Vec<(u64, u64)>;

/// Where the bytes of all files are.
#[derive(Default)]
pub(crate) struct Pieces {
    /// By inode, sorted by offset.
    of: BTreeMap<u64, Vec<FrameRow>>,
    /// By inode, ranges that were cloned from what has no data here. Where a new primary wrote zeros into
    /// what is preallocated, it clones these.
    zeros: BTreeMap<u64, Ranges>,
    packs: Vec<StoredObject>,
}

impl Pieces {
    /// What they are after one more delta.
    pub(crate) fn add(&mut self, published: &Published, tables: &Tables) -> Result<()> {
        let manifest = &tables.manifest;
        vet(manifest)?;
        let come = Come::read(published, tables, self.packs.len() as u32)?;
        self.packs.extend(published.packs.iter().cloned());
        let mut changed = Vec::new();
        for change in ManifestReader::open(manifest)? {
            let change = change?;
            if change.kind == Kind::File && change.flags.any() {
                let now = if change.flags.deleted { None } else { Some(self.after(&change, &come)?) };
                changed.push((change.ino, change.flags.created, now));
            }
        }
        for (ino, is_new, now) in changed {
            if is_new || now.is_none() {
                self.zeros.remove(&ino);
            }
            match now {
                Some((list, zeros)) => {
                    self.of.insert(ino, list);
                    if !zeros.is_empty() {
                        self.zeros.entry(ino).or_default().extend(zeros);
                    }
                }
                None => drop(self.of.remove(&ino)),
            }
        }
        Ok(())
    }

    /// Those of a file after its change, and the ranges that it has cloned from where nothing is.
    fn after(&self, change: &Change, come: &Come<'_>) -> Result<(Vec<FrameRow>, Ranges)> {
        let mut zeros = Vec::new();
        let old = if change.flags.created { None } else { self.of.get(&change.ino) };
        let mut list = old.cloned().unwrap_or_default();
        cut_off(&mut list, change);
        for extent in &change.extents {
            cut_out(&mut list, extent.offset, extent.end());
            let found: Vec<FrameRow> = match (extent.op, extent.source) {
                (Op::Data, _) => {
                    come.of(change.ino).filter_map(|f| f.within(extent.offset, extent.end())).collect()
                }
                (Op::Clone, Some(source)) => {
                    let there = match source.end {
                        End::Base => self.of.get(&source.ino).cloned().unwrap_or_default(),
                        End::Target => come.of(source.ino).collect(),
                    };
                    let end = source.offset + extent.length;
                    let moved = |frame: FrameRow| FrameRow {
                        ino: change.ino,
                        offset: extent.offset + (frame.offset - source.offset),
                        ..frame
                    };
                    there.iter().filter_map(|f| f.within(source.offset, end)).map(moved).collect()
                }
                _ => continue,
            };
            let is_there = |source: Source| source.end == End::Base && self.of.contains_key(&source.ino);
            if extent.source.is_some_and(is_there) {
                // All data of the base was there when it came.
                zeros.extend(gaps(&found, extent.offset, extent.end()));
            } else if found.iter().map(|frame| u64::from(frame.length)).sum::<u64>() != extent.length {
                let path = change.display_path();
                return Err(astray(come.published, &format!("bytes of {path} are in no pack")));
            }
            list.extend(found);
        }
        list.sort_unstable();
        Ok((list, zeros))
    }

    /// The numbers of the packs that have any of them.
    fn used(&self) -> BTreeSet<u32> {
        self.of.values().flatten().map(|frame| frame.pack).collect()
    }

    /// The packs that have any of them.
    pub(crate) fn used_packs(&self) -> impl Iterator<Item = &StoredObject> {
        self.used().into_iter().filter_map(|number| self.packs.get(number as usize))
    }

    /// Leaves the other packs out, and numbers these anew.
    fn keep_used(&mut self) {
        let used = self.used();
        let numbers: BTreeMap<u32, u32> = used.iter().zip(0..).map(|(old, new)| (*old, new)).collect();
        self.of.values_mut().flatten().for_each(|frame| frame.pack = numbers[&frame.pack]);
        let packs = std::mem::take(&mut self.packs).into_iter().zip(0..);
        self.packs = packs.filter(|(_, number)| used.contains(number)).map(|(pack, _)| pack).collect();
    }
}

/// The frames that come with a delta.
struct Come<'a> {
    published: &'a Published,
    frames: Vec<FrameRow>,
}

impl<'a> Come<'a> {
    /// Their packs are numbered from `first` on.
    fn read(published: &'a Published, tables: &Tables, first: u32) -> Result<Come<'a>> {
        let mut frames = tables.index.as_deref().map(read_frames).transpose()?.unwrap_or_default();
        if frames.iter().any(|frame| frame.pack as usize >= published.packs.len()) {
            return Err(astray(published, "its index names a pack that it does not have"));
        }
        frames.iter_mut().for_each(|frame| frame.pack += first);
        Ok(Come { published, frames })
    }

    fn of(&self, ino: u64) -> impl Iterator<Item = FrameRow> {
        let from = self.frames.partition_point(|frame| frame.ino < ino);
        self.frames[from..].iter().copied().take_while(move |frame| frame.ino == ino)
    }
}

/// Takes away what lies beyond the end of a file that became shorter.
fn cut_off(list: &mut Vec<FrameRow>, change: &Change) {
    if let (Some(old), Some(new)) = (change.old, change.new)
        && new.size < old.size
    {
        cut_out(list, new.size, u64::MAX);
    }
}

fn cut_out(list: &mut Vec<FrameRow>, from: u64, to: u64) {
    let sides = |frame: FrameRow| [frame.within(0, from), frame.within(to, u64::MAX)].into_iter().flatten();
    *list = list.iter().flat_map(|frame| sides(*frame)).collect();
}

/// The parts of a range that no frame has. The frames lie in it, sorted by offset.
fn gaps(frames: &[FrameRow], from: u64, to: u64) -> Ranges {
    let mut at = from;
    let mut gaps = Vec::new();
    for frame in frames.iter().filter_map(|frame| frame.within(from, to)) {
        gaps.push((at, frame.offset));
        at = frame.offset + u64::from(frame.length);
    }
    gaps.push((at, to));
    gaps.retain(|(start, end)| start < end);
    gaps
}

/// What is data, and has no bytes, in ranges that are zeros, is preallocated: it reads the same.
fn unwritten(extents: Vec<Extent>, zeros: &[(u64, u64)], frames: &[FrameRow]) -> Vec<Extent> {
    let (mut data, mut others): (Vec<Extent>, Vec<Extent>) =
        extents.into_iter().partition(|extent| extent.op == Op::Data);
    for (from, to) in zeros.iter().flat_map(|(from, to)| gaps(frames, *from, *to)) {
        let within = without(&without(&data, 0, from), to, u64::MAX);
        others.extend(within.into_iter().map(|extent| Extent { op: Op::Unwritten, ..extent }));
        data = without(&data, from, to);
    }
    data.append(&mut others);
    tidy(data)
}

impl Manifests<'_> {
    fn write(&self, to: &PathBuf, header: &ManifestHeader, pieces: &Pieces) -> Result<Counts> {
        let mut directories = Directories::default();
        self.each(&mut |row| {
            if let (Kind::Directory, Some(link)) = (row.kind, row.links_added.first()) {
                directories.insert(row.ino, link.clone());
            }
            Ok(())
        })?;
        let mut writer = ManifestWriter::create(to, header)?;
        self.each(&mut |mut row| {
            row.path = Some(match row.links_added.first() {
                Some(link) => directories.path(link)?,
                None => directories.path_of(row.ino)?,
            });
            let frames = pieces.of.get(&row.ino).map(Vec::as_slice).unwrap_or_default();
            if let Some(zeros) = pieces.zeros.get(&row.ino) {
                row.extents = unwritten(row.extents, zeros, frames);
            }
            let held = frames.iter().map(|frame| u64::from(frame.length));
            if row.data_bytes() != held.sum::<u64>() {
                return Err(Error::integrity(
                    format!("the log does not have the bytes of {} that it names", row.display_path()),
                    "another snapshot may be whole; a new log begins with all of them",
                ));
            }
            writer.write(&row)
        })?;
        writer.finish()
    }

    /// Every inode that is there in the end, as if it were new, but without its path.
    fn each(&self, act: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
        let open = |file: &PathBuf| Ok(ManifestReader::open(file)?.peekable());
        let mut readers = self.files.iter().map(open).collect::<Result<Vec<_>>>()?;
        loop {
            let mut next = None::<u64>;
            for reader in &mut readers {
                match reader.peek() {
                    Some(Ok(row)) => next = Some(next.map_or(row.ino, |next| next.min(row.ino))),
                    Some(Err(_)) => return reader.next().map_or(Ok(()), |row| row.map(drop)),
                    None => {}
                }
            }
            let Some(ino) = next else { return Ok(()) };
            self.monitor.check()?;
            let mut state = None;
            for reader in &mut readers {
                while let Some(change) = take(reader, ino)? {
                    state = after(state, change)?;
                }
            }
            if let Some(row) = state {
                act(row)?;
            }
        }
    }
}

fn take(reader: &mut Peekable<ManifestReader>, ino: u64) -> Result<Option<Change>> {
    let is_it = |row: &Result<Change>| row.as_ref().map_or(true, |row| row.ino == ino);
    reader.next_if(is_it).transpose()
}

/// What an inode is after a change.
fn after(state: Option<Change>, change: Change) -> Result<Option<Change>> {
    if change.flags.deleted {
        return Ok(None);
    }
    let plain = |extents: Vec<Extent>| extents.into_iter().map(as_data).collect::<Vec<_>>();
    if change.flags.created {
        let extents = tidy(plain(change.extents));
        return Ok(Some(Change { extents, ..change }));
    }
    let Some(state) = state else {
        return Err(Error::integrity(
            format!("the log changes {}, and never made it", change.display_path()),
            "something changes what is in the log",
        ));
    };
    // What was preallocated, and ends with the file now, was so to the end of its block.
    let told: Vec<Range> = (0..change.extents.len()).map(|at| change.to_end_of_block(at, BLOCK)).collect();
    let mut links: BTreeSet<Link> = state.links_added.into_iter().collect();
    change.links_removed.iter().for_each(|link| _ = links.remove(link));
    links.extend(change.links_added);
    let mut extents = state.extents;
    if let (Some(old), Some(new)) = (change.old, change.new)
        && new.size != old.size
    {
        let least = new.size.min(old.size);
        // Of what is preallocated, a row of another size tells all that begins from there on.
        extents.retain(|extent| extent.op != Op::Unwritten || extent.offset < least);
        let data = extents.iter().filter(|extent| extent.op != Op::Unwritten).copied().collect::<Vec<_>>();
        extents.retain(|extent| extent.op == Op::Unwritten);
        extents.extend(without(&data, least, u64::MAX));
    }
    for range in told {
        extents = without(&extents, range.offset, range.end());
    }
    extents.extend(plain(change.extents).into_iter().filter(|extent| extent.op != Op::Hole));
    Ok(Some(Change {
        flags: ChangeFlags { created: true, ..ChangeFlags::default() },
        generation: change.generation,
        nlink: links.len() as u32,
        links_added: links.into_iter().collect(),
        new: change.new.or(state.new),
        symlink_target: change.symlink_target,
        xattrs: change.xattrs.or(state.xattrs),
        extents: tidy(extents),
        ..state
    }))
}

/// In a snapshot that comes alone, bytes that were cloned come as others do.
fn as_data(extent: Extent) -> Extent {
    if extent.op == Op::Clone { Extent { op: Op::Data, source: None, ..extent } } else { extent }
}

fn without(extents: &[Extent], from: u64, to: u64) -> Vec<Extent> {
    let part = |extent: &Extent, from: u64, to: u64| {
        let (start, end) = (extent.offset.max(from), extent.end().min(to));
        (start < end).then(|| Extent { offset: start, length: end - start, ..*extent })
    };
    extents.iter().flat_map(|e| [part(e, 0, from), part(e, to, u64::MAX)]).flatten().collect()
}

/// Sorted, with those together that belong together.
fn tidy(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort_unstable_by_key(|extent| extent.offset);
    let mut tidy: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        match tidy.last_mut() {
            Some(last) if last.op == extent.op && last.end() == extent.offset => last.length += extent.length,
            _ => tidy.push(extent),
        }
    }
    tidy
}

fn astray(published: &Published, why: &str) -> Error {
    Error::integrity(
        format!("the log does not hold snapshot {} as it should: {why}", published.delta.snapshot.name),
        "something changes what is in the log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::Attributes;

    fn extents(of: &[(u64, u64, Op)]) -> Vec<Extent> {
        let extent =
            |&(from, to, op)| Extent { offset: from, length: to - from, op, source: None, checksum: None };
        of.iter().map(extent).collect()
    }

    /// What is known of a file of `size` bytes after a round that made it and one that changed it.
    fn folded(size: u64, made: &[(u64, u64, Op)], changed: &[(u64, u64, Op)]) -> Vec<Extent> {
        let attributes = Some(Attributes { size, ..Attributes::default() });
        let change = |flags, old, of| Change { flags, old, new: attributes, extents: extents(of), ..row() };
        let created = ChangeFlags { created: true, ..ChangeFlags::default() };
        let data = ChangeFlags { data: true, ..ChangeFlags::default() };
        let state = after(None, change(created, None, made)).unwrap();
        after(state, change(data, attributes, changed)).unwrap().unwrap().extents
    }

    fn row() -> Change {
        Change {
            ino: 7,
            generation: 1,
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
            extents: Vec::new(),
        }
    }

    #[test]
    fn of_what_was_preallocated_nothing_is_left_in_the_block_that_the_end_cuts() {
        for (op, left) in [(Op::Hole, vec![]), (Op::Data, vec![(0, 5000, Op::Data)])] {
            assert_eq!(folded(5000, &[(0, 8192, Op::Unwritten)], &[(0, 5000, op)]), extents(&left), "{op:?}");
        }
    }

    #[test]
    fn what_is_preallocated_behind_that_block_stays_until_a_row_takes_it() {
        let made = [(0, 16384, Op::Unwritten)];
        let behind = (8192, 16384, Op::Unwritten);
        assert_eq!(folded(5000, &made, &[(0, 5000, Op::Hole)]), extents(&[behind]));
        assert_eq!(
            folded(5000, &made, &[(4096, 5000, Op::Hole)]),
            extents(&[(0, 4096, Op::Unwritten), behind])
        );
        assert_eq!(folded(5000, &made, &[(0, 5000, Op::Hole), (5000, 16384, Op::Hole)]), []);
    }

    #[test]
    fn an_extent_that_follows_in_the_block_of_the_end_keeps_its_place() {
        let changed = [(0, 5000, Op::Hole), (6144, 8192, Op::Unwritten)];
        assert_eq!(folded(5000, &[(0, 8192, Op::Unwritten)], &changed), extents(&changed[1..]));
    }
}
