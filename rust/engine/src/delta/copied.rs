//! What a standby holds before its first snapshot, as the base of that: a copy that others have made. Only
//! its records are known, and its inodes get the numbers that those at the same paths have in the target.

use crate::delta::incoming::nonsense;
use crate::digest::{Body, Digest, Reading, Record, content, readable};
use crate::names::{Merged, Name, Names};
use rayon::prelude::*;
use snapsync_model::{
    Content, Details, Directories, Error, Inode, Inodes, Kind, Layout, Link, Monitor, ROOT, Range, RelPath,
    Result, SegmentKind, Side, Xattr, read_still,
};
use snapsync_walk::{Listing, Recorder};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::iter::Peekable;
use std::path::PathBuf;
use std::sync::Arc;

/// No file system gives an inode such a number: those are for what the target does not have.
const FRESH: u64 = 1 << 62;

/// The copy.
#[derive(Clone)]
pub(crate) struct Copied(Arc<Rows>);

struct Rows {
    rows: Listing,
    directories: Directories,
    size: CopySize,
}

/// How much it holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CopySize {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Files that are taken for those of the target by their size and time alone.
    pub(crate) unread: u64,
}

/// An entry of the copy, and what the target has at its path.
struct Met {
    record: Record,
    target: Option<Inode>,
}

/// Puts the records of a copy together with the names of a target.
pub(crate) struct Copying<'a> {
    target: &'a dyn Side,
    names: Peekable<Merged<'a>>,
    /// Files that are not read are the target's if they have the same size and time.
    reading: Reading,
    /// Who tells the records.
    whose: PathBuf,
    /// Inodes of the target that have several names, by the first of them.
    several: HashMap<RelPath, Inode>,
    /// Those that stand for an inode of the copy already.
    taken: HashSet<u64>,
    /// The numbers of the copy's directories.
    numbers: HashMap<RelPath, u64>,
    /// Inodes of the copy that have several names, by the first of them.
    linked: HashMap<RelPath, Inode>,
    fresh: u64,
    rows: Recorder,
    directories: Directories,
    size: CopySize,
    monitor: &'a Monitor,
}

impl<'a> Copying<'a> {
    pub(crate) fn new(
        names: &'a Names<'a>,
        reading: Reading,
        whose: PathBuf,
        monitor: &'a Monitor,
    ) -> Result<Copying<'a>> {
        Ok(Copying {
            target: names.side,
            names: names.iter()?.peekable(),
            reading,
            whose,
            several: HashMap::new(),
            taken: HashSet::new(),
            numbers: HashMap::new(),
            linked: HashMap::new(),
            fresh: FRESH,
            rows: Recorder::default(),
            directories: Directories::default(),
            size: CopySize::default(),
            monitor,
        })
    }

    /// Takes the next records, which come in the order of their paths.
    pub(crate) fn take(&mut self, records: Vec<Record>) -> Result<()> {
        let met: Vec<Met> = records.into_iter().map(|record| self.meet(record)).collect::<Result<_>>()?;
        let look = |met: &Met| {
            self.monitor.check()?;
            let row = met.record.body.as_ref().map(|body| self.row(&met.record, body, met.target.as_ref()));
            self.monitor.advance(1);
            row.transpose()
        };
        let rows: Vec<Option<(Inode, bool)>> =
            met.par_iter().with_max_len(1).map(look).collect::<Result<_>>()?;
        met.into_iter().zip(rows).try_for_each(|(met, row)| self.add(met.record, row))
    }

    pub(crate) fn finish(self) -> Result<Copied> {
        if !self.numbers.contains_key(&RelPath::root()) {
            return Err(self.strange("a tree without its root"));
        }
        let Copying { rows, directories, size, .. } = self;
        Ok(Copied(Arc::new(Rows { rows: rows.finish()?, directories, size })))
    }

    /// What the target has at the path of a record, if it is of the same kind and stands for nothing else.
    fn meet(&mut self, record: Record) -> Result<Met> {
        let mut target = None;
        while let Some(found) = self
            .names
            .next_if(|name| name.as_ref().map_or(true, |name| *name.path <= *record.path.as_bytes()))
        {
            let Name { path, kind, first, inode } = found?.decode()?;
            if let (Some(_), Some(inode)) = (&first, &inode) {
                self.several.insert(path.clone(), inode.clone());
            }
            if path == record.path && kind == record.kind && record.body.is_some() {
                target = inode.or_else(|| self.several.get(&first?).cloned());
            }
        }
        let is_free = |inode: &Inode| inode.links.len() < 2 || self.taken.insert(inode.ino);
        Ok(Met { target: target.filter(is_free), record })
    }

    /// A row without its names and, where the target has nothing for it, without its number; and whether it
    /// has the data of the target.
    fn row(&self, record: &Record, body: &Body, target: Option<&Inode>) -> Result<(Inode, bool)> {
        let is_same = match target {
            Some(target) if record.kind == Kind::File => self.is_same(&record.path, body, target)?,
            _ => false,
        };
        let (ino, generation, ctime, object) = match target {
            Some(there) if is_same => (there.ino, there.generation, there.ctime, there.object),
            Some(there) => (there.ino, there.generation, !there.ctime, there.object),
            None => (FRESH, 0, 0, 0),
        };
        let row = Inode {
            ino,
            generation,
            kind: record.kind,
            attributes: body.attributes.bare(),
            ctime,
            blocks: body.attributes.size.div_ceil(512),
            links: Vec::new(),
            details: Some(Box::new(self.details(body, record.kind, target)?)),
            object,
            shared: false,
        };
        Ok((row, is_same))
    }

    fn is_same(&self, path: &RelPath, body: &Body, target: &Inode) -> Result<bool> {
        let (own, size) = (&target.attributes, target.attributes.size);
        if size != body.attributes.size {
            return Ok(false);
        }
        if size == 0 || self.reading == Reading::Nothing {
            return Ok(size == 0 || own.time() == body.attributes.time());
        }
        let Some(theirs) = body.content else { return Ok(false) };
        // Most programs fill holes when they copy a file, and leave preallocation out: the standby is asked
        // about all of such a file.
        let is_it = |file: &Content| -> Result<bool> {
            let range = Range { offset: 0, length: size };
            let is_same = content(file, path.as_path(), range, self.monitor)? == theirs;
            Ok(is_same && is_all_data(&self.target.layout(target, file)?))
        };
        let read = |mut file: Content| read_still(self.target, target, &mut file, is_it);
        Ok(readable(self.target.open(target).and_then(read))?.unwrap_or(false))
    }

    /// The values of extended attributes are known by their digests: those of the target that are the same,
    /// and values that are no others.
    fn details(&self, body: &Body, kind: Kind, target: Option<&Inode>) -> Result<Details> {
        let known = match target.filter(|_| !body.xattrs.is_empty()) {
            Some(target) => self.target.details(target)?.xattrs,
            None => Vec::new(),
        };
        let value = |(name, digest): &(Box<[u8]>, Digest)| {
            let is_it = |xattr: &&Xattr| xattr.name == *name && blake3::hash(&xattr.value) == *digest;
            let value = known.iter().find(is_it).map_or_else(|| digest[..].into(), |same| same.value.clone());
            Xattr { name: name.clone(), value }
        };
        Ok(Details {
            flags: body.attributes.flags,
            rare: body.attributes.rare,
            xattrs: body.xattrs.iter().map(value).collect(),
            symlink_target: (kind == Kind::Symlink).then(|| body.symlink_target.clone()),
            unwritten: Vec::new(),
        })
    }

    /// Gives a row its number and its name, or an inode with several names a further one.
    fn add(&mut self, record: Record, row: Option<(Inode, bool)>) -> Result<()> {
        let Record { path, kind, first, .. } = record;
        let row = row.map(|(row, is_same)| self.counted(row, is_same));
        let Some((above, name)) = path.split() else { return self.add_root(kind, row) };
        let parent = self.numbers.get(&above).copied();
        let parent = parent.ok_or_else(|| self.strange("an entry of a directory that it does not have"))?;
        let link = Link { parent, name: name.into() };
        let mut row = match (row, &first) {
            (Some(row), _) => row,
            (None, Some(first)) => match self.linked.get(first) {
                Some(row) if row.kind == kind => row.clone(),
                _ => return Err(self.strange("a further name of what it does not have")),
            },
            (None, None) => return Err(self.strange("an entry of which nothing is told")),
        };
        if row.ino == FRESH {
            self.fresh += 1;
            row.ino = self.fresh;
        }
        row.links = vec![link];
        match (kind, first) {
            (Kind::Directory, Some(_)) => return Err(self.strange("a directory with several names")),
            (Kind::Directory, None) => {
                self.numbers.insert(path.clone(), row.ino);
                self.directories.add(&row);
            }
            (_, Some(first)) if first == path => drop(self.linked.insert(first, row.clone())),
            _ => {}
        }
        self.rows.add(&[row])
    }

    fn add_root(&mut self, kind: Kind, row: Option<Inode>) -> Result<()> {
        let root = row.filter(|_| kind == Kind::Directory).map(|row| Inode { ino: ROOT, ..row });
        let root = root.ok_or_else(|| self.strange("a root that is none"))?;
        self.numbers.insert(RelPath::root(), ROOT);
        self.rows.add(&[root])
    }

    fn counted(&mut self, row: Inode, is_same: bool) -> Inode {
        let size = row.attributes.size;
        self.size.entries += 1;
        self.size.bytes = self.size.bytes.saturating_add(size);
        self.size.unread += u64::from(is_same && size > 0 && self.reading == Reading::Nothing);
        row
    }

    fn strange(&self, what: &str) -> Error {
        nonsense(&self.whose, what)
    }
}

fn is_all_data(layout: &Layout) -> bool {
    layout.segments().iter().all(|segment| segment.kind == SegmentKind::Data)
}

impl Copied {
    pub(crate) fn size(&self) -> CopySize {
        self.0.size
    }

    fn is_elsewhere(&self, inode: &Inode) -> Error {
        let path = self.path(inode).map(|path| path.display().into_owned()).unwrap_or_default();
        Error::Lost { what: format!("the data of {path} is at the standby alone"), advice: String::new() }
    }
}

impl Side for Copied {
    fn inodes(&self) -> Result<Inodes<'_>> {
        Ok(Box::new(self.0.rows.iter()))
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        self.0.directories.path(link)
    }

    fn details(&self, inode: &Inode) -> Result<Details> {
        Ok(inode.details.as_deref().cloned().unwrap_or_default())
    }

    fn open(&self, inode: &Inode) -> Result<Content> {
        Err(self.is_elsewhere(inode))
    }

    fn holds_still(&self, inode: &Inode, _file: &Content) -> Result<()> {
        Err(self.is_elsewhere(inode))
    }

    fn layout(&self, inode: &Inode, _file: &Content) -> Result<Layout> {
        Err(self.is_elsewhere(inode))
    }

    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        self.0.rows.pick(inos)
    }
}
