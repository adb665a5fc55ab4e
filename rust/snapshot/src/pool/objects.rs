//! The objects of a pool, each with the data of one file, and how a file is read into its object and row.

use crate::pool::before;
use crate::pool::elusive::Elusive;
use crate::pool::ground::Ground;
use crate::pool::pack::{LARGEST, Pool, create, object_at};
use crate::pool::packer::Packer;
use crate::pool::store::PoolStore;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use snapsync_model::{
    Content, Context, Counters, Details, Error, Inode, Kind, Layout, Link, Monitor, OBJECTS_PER_DIRECTORY,
    Pack, PlainFiles, ROOT, ROUND_SHIFT, Range, RelPath, Result, Segment, SegmentKind, Successor, UNSETTLED,
    Unread, locked,
};
use snapsync_sys::{FileSystem, Root, Spot, Stat, fault, is_leased, may_be_written, stat_at, stat_of};
use snapsync_walk::{details_of, details_of_open, layout_of};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// How often a file that changes while it is read is read again.
pub(crate) const TRIES: u32 = 5;

/// What a row of the table says about a file's data.
#[derive(Default)]
struct Data {
    unwritten: Vec<Range>,
    object: u64,
    shared: bool,
    /// From the first byte to the last, and nothing is shared.
    is_all_data: bool,
}

/// What the last table says about a file's bytes.
#[derive(Clone, Copy)]
pub(crate) enum Old<'a> {
    /// They may equal those of this row's object.
    Perhaps(Option<&'a Inode>),
    /// They equal those of this row's object and have not moved.
    Same(&'a Inode),
}

impl<'a> Old<'a> {
    fn row(self) -> Option<&'a Inode> {
        match self {
            Old::Perhaps(row) => row,
            Old::Same(row) => Some(row),
        }
    }
}

/// Where the bytes of a file that changed are to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Where they are: the object is only a number.
    InTree,
    /// In an object, of which nobody writes the file.
    Steady,
    /// In an object that is cloned in one step where that can be: somebody may be writing.
    AtOnce,
}

/// Reads inodes, and makes the objects of one round for them.
pub(crate) struct Objects<'a> {
    pub(crate) root: &'a Root,
    dev: (u32, u32),
    is_numbered: bool,
    filesystem: FileSystem,
    pool: Pool,
    round: u64,
    numbers: Numbers,
    packer: Packer,
    /// Change times from here on may be used again.
    unsettled: i64,
    plain: Arc<PlainFiles>,
    /// The tree keeps the bytes of what is settled.
    is_in_tree: bool,
    /// It is on a device whose addresses may be others than those of the pool.
    is_frozen: bool,
    /// Nothing keeps the rest, but for what may not be found again.
    is_light: bool,
    elusive: &'a Elusive,
    is_repaired: bool,
    /// Something was not found at its path, though its name was not removed.
    pub(crate) has_lost_way: AtomicBool,
    /// Whether to wait for holders of leases.
    is_patient: AtomicBool,
    /// Files whose objects have their numbers already.
    successors: HashMap<u64, Successor>,
    pub(crate) unread: Unread,
    pub(crate) monitor: &'a Monitor,
}

/// The numbers of new objects. Each thread fills directories of its own, because in a common one they would
/// wait for each other.
struct Numbers {
    next_dir: AtomicU64,
    /// The next number of each thread.
    next: Vec<Mutex<u64>>,
}

impl Numbers {
    fn new() -> Numbers {
        // The last one is for callers outside the thread pool.
        let threads = rayon::current_num_threads() + 1;
        Numbers { next_dir: AtomicU64::new(0), next: (0..threads).map(|_| Mutex::new(0)).collect() }
    }

    fn next(&self) -> u64 {
        let outside = self.next.len() - 1;
        let mut next =
            locked(&self.next[rayon::current_thread_index().map_or(outside, |at| at.min(outside))]);
        if next.is_multiple_of(OBJECTS_PER_DIRECTORY) {
            *next = self.next_dir.fetch_add(1, Relaxed) * OBJECTS_PER_DIRECTORY;
        }
        *next += 1;
        *next - 1
    }
}

impl<'a> Objects<'a> {
    pub(crate) fn new(
        store: &'a PoolStore,
        root: &'a Root,
        round: u64,
        ground: &Ground,
        monitor: &'a Monitor,
    ) -> Self {
        Objects {
            root,
            dev: ground.dev,
            is_numbered: ground.is_numbered,
            filesystem: store.filesystem,
            pool: Pool::new(store.pool()),
            round,
            numbers: Numbers::new(),
            packer: Packer::new(store.pool(), round),
            unsettled: ground.unsettled,
            plain: store.plain.clone(),
            is_in_tree: ground.is_in_tree,
            is_frozen: ground.is_frozen,
            is_light: ground.is_light && ground.is_in_tree,
            elusive: &store.elusive,
            is_repaired: store.is_repaired,
            has_lost_way: AtomicBool::new(false),
            is_patient: AtomicBool::new(false),
            successors: store.successors.clone(),
            unread: Unread::default(),
            monitor,
        }
    }

    /// Repeats what a lease prevented, and waits for its holder this time. All holders were asked by then, so
    /// that their deadlines run in parallel.
    pub(crate) fn patiently<T>(&self, again: impl FnOnce() -> T) -> T {
        self.is_patient.store(true, Relaxed);
        let done = again();
        self.is_patient.store(false, Relaxed);
        done
    }

    /// Writes what is in memory of them.
    pub(crate) fn finish(&self) -> Result<()> {
        self.packer.finish().context("write to", self.pool.dir().show())
    }

    pub(crate) fn is_patient(&self) -> bool {
        self.is_patient.load(Relaxed)
    }

    /// Keeps the change time only if a later change cannot have the same.
    pub(crate) fn dated(&self, inode: Inode) -> Inode {
        if inode.ctime < self.unsettled { inode } else { Inode { ctime: UNSETTLED, ..inode } }
    }

    /// Reads the file until it did not change while it was read.
    pub(crate) fn read(&self, path: &RelPath, walked: &Inode, old: Old<'_>) -> Result<Inode> {
        if let Some(inode) = self.as_made(walked, old) {
            return Ok(inode);
        }
        let mut inode = self.read_steadily(path, walked, old)?;
        // The change behind the new time may have changed names that were read before.
        if inode.kind == Kind::Directory && inode.ctime != walked.ctime {
            inode.ctime = UNSETTLED;
        }
        Ok(inode)
    }

    /// A file as a commit has just made it. Whoever opened it since and has begun to write has given it
    /// another change time.
    fn as_made(&self, walked: &Inode, old: Old<'_>) -> Option<Inode> {
        let is_new = old.row().is_none() && walked.ctime < self.unsettled && walked.attributes.size > 0;
        let stays = self.is_in_tree && !self.is_light;
        let is_it = stays && is_new && walked.kind == Kind::File && self.plain.has(walked);
        is_it.then(|| Inode { object: self.next(), details: Some(Box::default()), ..walked.clone() })
    }

    /// Tells of a file that something else than a commit has touched, and whose bytes only the tree has:
    /// nothing proves them any more.
    pub(crate) fn note_if_lost(&self, path: &RelPath, inode: &Inode) {
        if !self.is_light && inode.object != 0 && !self.pool.has(inode.object) {
            self.monitor.note(format!(
                "{} was changed by hand, if only its change time: this snapshot cannot prove its bytes, and \
                 does not give them",
                path.display()
            ));
        }
    }

    /// Whether an entry that was not found at `path` was removed from its directory, whose change time then
    /// differs from when it was read. Otherwise a directory above it was moved.
    pub(crate) fn is_removed(&self, path: &RelPath, walked: &Inode) -> bool {
        match &walked.links[..] {
            [link] => is_removed(self.root, path, link, walked.ino),
            // If it has several names, the others may exist in unchanged directories.
            _ => false,
        }
    }

    fn read_steadily(&self, path: &RelPath, walked: &Inode, old: Old<'_>) -> Result<Inode> {
        let held = self.hold(path, walked.kind).context_at("open", || self.root.show(path))?;
        let stat = || stat_of(&held).context_at("read the attributes of", || self.root.show(path));
        let mut last = None;
        for _ in 0..TRIES {
            let before = stat()?;
            if !self.is_it(&before, walked) {
                // Another inode took its name since the walk; the walked one is gone.
                return Err(io::Error::from_raw_os_error(2)).context("open", self.root.show(path));
            }
            // A write that has begun may continue under this time.
            let is_written = walked.kind == Kind::File && may_be_written(&held);
            let mut inode = Inode {
                attributes: before.attributes,
                ctime: before.ctime,
                blocks: before.blocks,
                ..walked.clone()
            };
            let mut details = match walked.kind {
                Kind::File | Kind::Directory => {
                    let found = details_of_open(&held, self.filesystem);
                    found.context_at("read the attributes of", || self.root.show(path))?
                }
                _ => details_of(self.root, path, walked.kind, self.filesystem)?,
            };
            let mut is_plain = false;
            if walked.kind == Kind::File {
                let is_restless = is_written || inode.ctime >= self.unsettled;
                let keep = match self.is_in_tree {
                    _ if self.is_light && !self.elusive.may_be(&inode) => Keep::InTree,
                    _ if self.is_light => Keep::AtOnce,
                    _ if is_restless => Keep::AtOnce,
                    true => Keep::InTree,
                    false => Keep::Steady,
                };
                let data = self.data(path, &held, &inode, old, keep)?;
                is_plain = data.is_all_data && !is_restless && details == Details::default();
                (details.unwritten, inode.object, inode.shared) = (data.unwritten, data.object, data.shared);
            }
            inode.attributes = inode.attributes.with(&details);
            inode.details = Some(Box::new(details));
            let after = stat()?;
            if (after.ctime, after.attributes) == (before.ctime, before.attributes) {
                if is_plain {
                    self.plain.add(inode.ino, inode.generation, inode.ctime);
                }
                inode.ctime = if is_written { UNSETTLED } else { inode.ctime };
                return Ok(inode);
            }
            if let Some(Inode { object, .. }) = last.replace(inode) {
                self.forget(object, old.row());
            }
        }
        self.monitor.note(format!("{} kept changing while the snapshot was taken", path.display()));
        Ok(last.unwrap_or_else(|| walked.clone()))
    }

    /// Checks that the name still belongs to the walked inode. Overlay file systems have numbers of their own
    /// for each layer.
    fn is_it(&self, stat: &Stat, walked: &Inode) -> bool {
        if !self.is_numbered {
            return stat.kind == walked.kind;
        }
        let has_number = walked.ino == ROOT || stat.dev != self.dev || stat.ino == walked.ino;
        has_number && (stat.generation, stat.kind) == (walked.generation, walked.kind)
    }

    /// Opens only files and directories for reading: opening a fifo would wait for its other end.
    fn hold(&self, path: &RelPath, kind: Kind) -> io::Result<File> {
        if !matches!(kind, Kind::File | Kind::Directory) {
            return self.root.open_at(path, OFlags::PATH, Mode::empty()).map(File::from);
        }
        let read = if self.is_patient() { Root::read } else { Root::read_now };
        match read(self.root, path) {
            // A link or a socket took its name since the walk; the walked inode is gone.
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::LOOP | Errno::NXIO | Errno::NOTDIR)) => {
                Err(Errno::NOENT.into())
            }
            other => other,
        }
    }

    /// The object that holds the bytes is the old one where they are the same.
    fn data(&self, path: &RelPath, file: &File, inode: &Inode, old: Old<'_>, keep: Keep) -> Result<Data> {
        let show = || self.root.show(path);
        if let Old::Same(old) = old {
            let unwritten = old.details.as_ref().map_or_else(Vec::new, |d| d.unwritten.clone());
            return Ok(Data { unwritten, object: old.object, shared: old.shared, ..Data::default() });
        }
        if inode.attributes.size == 0 && inode.blocks == 0 {
            return Ok(Data::default());
        }
        let layout = layout_of(file, inode, self.filesystem).context_at("read the extents of", show)?;
        let unwritten = layout.ranges(SegmentKind::Unwritten);
        if inode.attributes.size == 0 {
            return Ok(Data { unwritten, ..Data::default() });
        }
        if let Some(old) = old.row()
            && self.is_the_same(file, &layout, inode, old).context("compare", show())?
        {
            return Ok(Data { unwritten, object: old.object, shared: old.shared, ..Data::default() });
        }
        let shared = self.is_shared(&layout, old.row()).context_at("read the extents of", show)?;
        let object = match self.successors.get(&inode.ino) {
            Some(successor) => self.store_next(path, file, &layout, inode, (successor, keep)),
            None => self.store(file, &layout, inode.attributes.size, keep),
        };
        let object = object.context_at("copy to the pool", show)?;
        let is_all_data = is_full(&layout) && !layout.segments().iter().any(|segment| segment.shared);
        Ok(Data { unwritten, object, shared, is_all_data })
    }

    /// Whether a file that a commit has written has the bytes of an object again that only the tree had:
    /// before-images still lie over them. Its disk had others, and no time told it.
    pub(crate) fn is_repaired(&self, old: &Inode, was: Option<i64>) -> bool {
        self.is_repaired && was == Some(old.ctime) && old.object != 0 && !self.pool.has(old.object)
    }

    /// The number of a new object.
    fn next(&self) -> u64 {
        (self.round << ROUND_SHIFT) | self.numbers.next()
    }

    /// A new object with the bytes of a file.
    fn store(&self, file: &File, layout: &Layout, size: u64, keep: Keep) -> io::Result<u64> {
        if keep == Keep::Steady && size <= LARGEST && is_full(layout) {
            let mut bytes = vec![0; size as usize];
            match file.read_exact_at(&mut bytes, 0) {
                // Cut meanwhile, which its times tell: it is read again.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                other => other?,
            }
            self.monitor.count(Counters { bytes_read: size, ..Counters::default() });
            let object = self.packer.put(&bytes)?;
            fault::point("snapshot.object");
            return Ok(object);
        }
        let object = self.next();
        if keep != Keep::InTree {
            store(file, layout, size, &object_at(self.pool.dir(), object), self.monitor)?;
            fault::point("snapshot.object");
        }
        Ok(object)
    }

    /// The object of a file that a commit has changed in place, which lies under a before-image: that counts
    /// only if all else is the same.
    fn store_next(
        &self,
        path: &RelPath,
        file: &File,
        layout: &Layout,
        inode: &Inode,
        (successor, keep): (&Successor, Keep),
    ) -> io::Result<u64> {
        if !before::is_proved(self.pool.dir(), successor, file)? {
            self.monitor.note(format!(
                "{} was changed by hand while a delta was committed: older snapshots lose what it held",
                self.root.show(path).display()
            ));
        }
        fault::point("snapshot.successor");
        if keep != Keep::InTree {
            let spot = object_at(self.pool.dir(), successor.next);
            // A snapshot that was interrupted may have made it.
            spot.remove_file()?;
            store(file, layout, inode.attributes.size, &spot, self.monitor)?;
        }
        Ok(successor.next)
    }

    /// Whether other files share some of the data, apart from its own last object. Must be asked before it
    /// gets a new one.
    fn is_shared(&self, layout: &Layout, old: Option<&Inode>) -> io::Result<bool> {
        if !layout.segments().iter().any(|s| s.shared) {
            return Ok(false);
        }
        let Some(old) = old.filter(|old| old.object != 0) else { return Ok(true) };
        let object = self.pool.open(old.object)?;
        // One in a pack shares nothing with its file.
        let Some(object) = object.as_ref().and_then(Content::file) else { return Ok(true) };
        let held = snapsync_sys::layout(object, old.attributes.size, self.filesystem)?;
        let is_own = |s: &Segment| {
            let at = held.segments().partition_point(|h| h.end() <= s.offset);
            held.segments().get(at).is_some_and(|h| {
                h.offset <= s.offset && s.end() <= h.end() && h.address_at(s.offset) == s.address
            })
        };
        Ok(layout.segments().iter().any(|s| s.shared && !is_own(s)))
    }

    /// Compares the bytes. Needed only if times prove nothing, for example after a change of mode, or a
    /// second change within a tick.
    fn is_the_same(&self, file: &File, layout: &Layout, inode: &Inode, old: &Inode) -> io::Result<bool> {
        let times = |i: &Inode| (i.attributes.size, i.attributes.time());
        if old.object == 0 || times(inode) != times(old) {
            return Ok(false);
        }
        // Nothing proves what the tree had.
        let object = match self.pool.open(old.object) {
            // It cannot be read any more. If the file cannot either, copying it reports that.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::IO) => return Ok(false),
            object => object?,
        };
        let Some(object) = object else { return Ok(false) };
        let size = inode.attributes.size;
        let stored = match object.file() {
            Some(object) => snapsync_sys::layout(object, size, self.filesystem)?,
            None => Layout::whole(size),
        };
        let data = layout.ranges(SegmentKind::Data);
        if data != stored.ranges(SegmentKind::Data) {
            return Ok(false);
        }
        let placed =
            |layout: &Layout| layout.placed().iter().map(|p| (p.range, p.address)).collect::<Vec<_>>();
        let has_addresses = !self.is_frozen && layout.placed().iter().all(|p| p.address.is_some());
        // Blocks that the object holds too cannot be freed and reused.
        if has_addresses && placed(layout) == placed(&stored) {
            return Ok(true);
        }
        self.monitor.count(Counters {
            bytes_read: 2 * data.iter().map(|r| r.length).sum::<u64>(),
            ..Counters::default()
        });
        match equal(file, &object, &data) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            // The object cannot be read any more. If the file cannot either, copying it reports that.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::IO) => Ok(false),
            other => other,
        }
    }

    /// Drops the object of a try that did not hold; what it leaves on failure goes with its round.
    fn forget(&self, object: u64, old: Option<&Inode>) {
        if object != 0 && old.is_none_or(|old| old.object != object) {
            let _ = match Pack::of(object) {
                Some((pack, place)) => self.packer.forget(pack, place),
                None => object_at(self.pool.dir(), object).remove_file(),
            };
        }
    }
}

fn is_full(layout: &Layout) -> bool {
    layout.segments().iter().all(|segment| segment.kind == SegmentKind::Data)
}

/// Makes the file of an object, which shares the blocks of another where it can.
pub(crate) fn store(
    file: &File,
    layout: &Layout,
    size: u64,
    spot: &Spot,
    monitor: &Monitor,
) -> io::Result<()> {
    let target = create(spot)?;
    if snapsync_sys::clone_file(file, &target).is_ok() {
        return Ok(());
    }
    target.set_len(size)?;
    for range in layout.ranges(SegmentKind::Data) {
        match snapsync_sys::copy_range(file, range.offset, range.length, &target, range.offset) {
            // Cut meanwhile, which its times tell: it is read again.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            other => other?,
        }
        monitor.count(Counters { bytes_read: range.length, ..Counters::default() });
    }
    Ok(())
}

/// It is not where it was, or something is in its way: a file that has the name of a directory, a link, a
/// mount.
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error.errno(), Some(2 | 20 | 40 | 18))
}

/// Whether somebody holds a lease on it.
pub(crate) fn is_held(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if is_leased(source))
}

/// Whether an entry, whose name is the last one of `path`, was removed.
pub(crate) fn is_removed(root: &Root, path: &RelPath, link: &Link, ino: u64) -> bool {
    let Some((above, _)) = path.split() else { return false };
    let Ok(dir) = root.directory(&above) else { return false };
    let is_parent = above.is_root() || stat_of(&dir).is_ok_and(|stat| stat.ino == link.parent);
    is_parent
        && match stat_at(&dir, OsStr::from_bytes(&link.name)) {
            Err(e) => e.kind() == io::ErrorKind::NotFound,
            Ok(stat) => stat.ino != ino,
        }
}

fn equal(a: &File, b: &Content, ranges: &[Range]) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    for range in ranges {
        let mut at = range.offset;
        while at < range.end() {
            let length = (range.end() - at).min(left.len() as u64) as usize;
            a.read_exact_at(&mut left[..length], at)?;
            b.read_exact_at(&mut right[..length], at)?;
            if left[..length] != right[..length] {
                return Ok(false);
            }
            at += length as u64;
        }
    }
    Ok(true)
}

/// The number of inodes and the sum of their files' sizes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Counts {
    pub(crate) fn remove(&mut self, inode: &Inode) {
        self.entries = self.entries.saturating_sub(1);
        let bytes = if inode.kind == Kind::File { inode.attributes.size } else { 0 };
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(crate) fn add(&mut self, inode: &Inode) {
        self.entries += 1;
        let bytes = if inode.kind == Kind::File { inode.attributes.size } else { 0 };
        // Holes count too.
        self.bytes = self.bytes.saturating_add(bytes);
    }
}
