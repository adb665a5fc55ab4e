//! The snapshots of a mount: which there are, what they are called, and those that are in memory.
//!
//! A snapshot has a number, which is not given again while it is mounted, and is read when somebody first
//! asks for what is in it. What nobody has asked about for a while is forgotten, and read again when needed.

use crate::index::Index;
use crate::source::Snapshots;
use snapsync_model::{Content, Error, Inode, Monitor, Result, Side, SnapshotInfo, can_name_snapshot, locked};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What stays in memory.
#[derive(Clone, Copy)]
struct Limits {
    /// How many inodes, of snapshots that nobody reads just now.
    most: usize,
    /// For how long a snapshot is being read after the last request.
    recent: Duration,
    /// After that nothing of a snapshot stays.
    idle: Duration,
}

const LIMITS: Limits =
    Limits { most: 1_000_000, recent: Duration::from_secs(5), idle: Duration::from_secs(300) };
/// How many files stay open that are read in pieces.
const OPEN: usize = 64;

/// A snapshot that is read.
pub(crate) struct Loaded {
    pub(crate) side: Box<dyn Side>,
    pub(crate) index: Index,
    pub(crate) since: Instant,
}

pub(crate) struct Slot {
    pub(crate) number: u64,
    pub(crate) info: SnapshotInfo,
    is_gone: AtomicBool,
    /// When it was asked about last, in milliseconds since the mount.
    used: AtomicU64,
    root: OnceLock<Inode>,
    order: OnceLock<u64>,
    loaded: Mutex<Option<Arc<Loaded>>>,
}

impl Slot {
    fn new(number: u64, info: SnapshotInfo) -> Slot {
        let (is_gone, used, root, order, loaded) = Default::default();
        Slot { number, info, is_gone, used, root, order, loaded }
    }

    pub(crate) fn known_root(&self) -> Option<&Inode> {
        self.root.get()
    }

    fn load(&self, source: &dyn Snapshots, monitor: &Monitor) -> Result<Arc<Loaded>> {
        let mut loaded = locked(&self.loaded);
        if let Some(loaded) = &*loaded {
            return Ok(loaded.clone());
        }
        let side = source.open(&self.info, monitor)?;
        let index = Index::new(&*side, monitor)?;
        if *self.order.get_or_init(|| index.order) != index.order {
            // The kernel knows its inodes by other ranks.
            self.is_gone.store(true, Relaxed);
            return Err(Error::failed(
                format!("snapshot {} has other inodes than it had", self.info.name),
                "mount it again",
            ));
        }
        let read = Arc::new(Loaded { side, index, since: Instant::now() });
        *loaded = Some(read.clone());
        Ok(read)
    }

    /// How many inodes of it are in memory; None while it is being read, or if it is not.
    fn size(&self) -> Option<usize> {
        self.loaded.try_lock().ok()?.as_ref().map(|loaded| loaded.index.len())
    }
}

/// By slot and rank.
type OpenFile = ((u64, usize), Arc<Content>);

#[derive(Default)]
struct Table {
    slots: HashMap<u64, Arc<Slot>>,
    next: u64,
    names: BTreeMap<String, u64>,
    /// The newest of the line.
    latest: Option<u64>,
}

pub(crate) struct Slots {
    source: Box<dyn Snapshots>,
    table: RwLock<Table>,
    /// When it was.
    listed: Mutex<Instant>,
    began: Instant,
    limits: Limits,
    /// The files that were read last and not to their end; the latest is first.
    open: Mutex<VecDeque<OpenFile>>,
}

impl Slots {
    /// The first snapshot gets the number `first`.
    pub(crate) fn new(source: Box<dyn Snapshots>, first: u64) -> Result<Slots> {
        let found = source.list()?;
        let table = RwLock::new(Table { next: first, ..Table::default() });
        let (now, open) = (Instant::now(), Mutex::default());
        let slots = Slots { source, table, listed: Mutex::new(now), began: now, limits: LIMITS, open };
        slots.take(&found);
        Ok(slots)
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lasts(&self) -> Duration {
        self.source.lasts()
    }

    /// Lists again unless that was done just now. What cannot be listed stays as it was.
    pub(crate) fn refresh(&self) {
        let Ok(mut listed) = self.listed.try_lock() else { return };
        if listed.elapsed() < self.source.lasts() {
            return;
        }
        if let Ok(found) = self.source.list() {
            self.take(&found);
        }
        *listed = Instant::now();
    }

    fn take(&self, found: &[SnapshotInfo]) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut table.slots);
        let is_good = |slot: &&Arc<Slot>| !slot.is_gone.load(Relaxed);
        let known: HashMap<Uuid, &Arc<Slot>> =
            before.values().filter(is_good).map(|slot| (slot.info.id, slot)).collect();
        let mut numbers = Vec::new();
        for info in found {
            let slot = known
                .get(&info.id)
                .map_or_else(|| Arc::new(Slot::new(table.next, info.clone())), |slot| Arc::clone(slot));
            table.next = table.next.max(slot.number + 1);
            numbers.push(slot.number);
            table.slots.insert(slot.number, slot);
        }
        table.names = names_of(found).into_iter().zip(numbers.iter().copied()).collect();
        table.latest = found.iter().zip(&numbers).rfind(|(info, _)| !info.aside).map(|(_, number)| *number);
        let gone: Vec<Arc<Slot>> =
            before.into_values().filter(|slot| !table.slots.contains_key(&slot.number)).collect();
        drop(table);
        for slot in gone {
            slot.is_gone.store(true, Relaxed);
            self.forget(&slot);
        }
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<Slot>> {
        self.table().slots.get(&number).cloned()
    }

    pub(crate) fn named(&self, name: &str) -> Option<Arc<Slot>> {
        let table = self.table();
        table.slots.get(table.names.get(name)?).cloned()
    }

    /// The names of all after the one with the number `after`, in the order of their numbers.
    pub(crate) fn names(&self, after: u64) -> Vec<(Arc<Slot>, String)> {
        let table = self.table();
        let later = table.names.iter().filter(|(_, number)| **number > after);
        let named = |(name, number): (&String, &u64)| Some((table.slots.get(number)?.clone(), name.clone()));
        let mut names: Vec<_> = later.filter_map(named).collect();
        names.sort_unstable_by_key(|(slot, _)| slot.number);
        names
    }

    /// The newest of the line and its name.
    pub(crate) fn latest(&self) -> Option<(Arc<Slot>, String)> {
        let table = self.table();
        let number = table.latest?;
        let name = table.names.iter().find(|(_, named)| **named == number)?.0;
        Some((table.slots.get(&number)?.clone(), name.clone()))
    }

    pub(crate) fn len(&self) -> usize {
        self.table().slots.len()
    }

    /// Whether a snapshot is still there: asked after what was read of it.
    pub(crate) fn has(&self, slot: &Slot) -> bool {
        !slot.is_gone.load(Relaxed) && self.source.has(&slot.info)
    }

    pub(crate) fn loaded(&self, slot: &Slot, monitor: &Monitor) -> Result<Arc<Loaded>> {
        slot.used.store(self.now(), Relaxed);
        if let Ok(Some(loaded)) = slot.loaded.try_lock().as_deref() {
            return Ok(loaded.clone());
        }
        let loaded = slot.load(&*self.source, monitor)?;
        if slot.is_gone.load(Relaxed) {
            self.forget(slot);
        }
        self.make_room(slot.number);
        Ok(loaded)
    }

    /// The root of a snapshot, which need not be read for that everywhere.
    pub(crate) fn root(&self, slot: &Slot) -> Result<Inode> {
        if let Some(root) = slot.root.get() {
            return Ok(root.clone());
        }
        let root = match self.source.root(&slot.info)? {
            Some(root) => root,
            None => {
                let loaded = self.loaded(slot, &Monitor::default())?;
                let root = loaded.index.root();
                Inode { details: Some(Box::new(loaded.side.details(root)?)), ..root.clone() }
            }
        };
        Ok(slot.root.get_or_init(|| root).clone())
    }

    /// What is in memory of a snapshot goes, and its files are closed.
    pub(crate) fn forget(&self, slot: &Slot) {
        locked(&slot.loaded).take();
        locked(&self.open).retain(|((number, _), _)| *number != slot.number);
    }

    /// Whatever else is due from time to time: files of deleted snapshots are closed, and those that nobody
    /// reads are forgotten.
    pub(crate) fn tidy(&self) {
        if self.in_memory().is_empty() {
            return;
        }
        self.refresh();
        for (slot, _, unused) in self.in_memory() {
            if unused > self.limits.idle {
                self.forget(&slot);
            }
        }
    }

    fn make_room(&self, except: u64) {
        let mut found = self.in_memory();
        found.sort_unstable_by_key(|(_, _, unused)| std::cmp::Reverse(*unused));
        let mut total: usize = found.iter().map(|(_, size, _)| size).sum();
        for (slot, size, unused) in found {
            if total <= self.limits.most || unused < self.limits.recent {
                return;
            }
            if slot.number != except {
                self.forget(&slot);
                total -= size;
            }
        }
    }

    /// What is in memory, how many inodes it has, and for how long nobody has asked for it.
    fn in_memory(&self) -> Vec<(Arc<Slot>, usize, Duration)> {
        let now = self.now();
        let unused = |slot: &Slot| Duration::from_millis(now.saturating_sub(slot.used.load(Relaxed)));
        let table = self.table();
        table.slots.values().filter_map(|slot| Some((slot.clone(), slot.size()?, unused(slot)))).collect()
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    pub(crate) fn opened(&self, slot: &Slot, rank: usize) -> Option<Arc<Content>> {
        let mut open = locked(&self.open);
        let at = open.iter().position(|(held, _)| *held == (slot.number, rank))?;
        open.remove(at).map(|(_, file)| file)
    }

    /// Keeps a file open for the next piece of it.
    pub(crate) fn keep_open(&self, slot: &Slot, rank: usize, file: Arc<Content>) {
        let mut open = locked(&self.open);
        // Under the lock: whoever forgets a snapshot that went says so first.
        if !slot.is_gone.load(Relaxed) {
            open.push_front(((slot.number, rank), file));
            open.truncate(OPEN);
        }
    }
}

/// What snapshots are called as directories: a name that several have, as a standby may know one that its
/// primary gave twice, is told apart by their ids, and so is what no volume would accept as a name.
fn names_of(found: &[SnapshotInfo]) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    found.iter().for_each(|info| *counts.entry(&info.name).or_default() += 1);
    let name = |info: &SnapshotInfo| match (can_name_snapshot(&info.name), counts[&*info.name]) {
        (true, 1) => info.name.clone(),
        (true, _) => format!("{}@{}", info.name, info.id),
        (false, _) => format!("@{}", info.id),
    };
    found.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::{
        Attributes, Details, Inodes, Kind, Layout, Link, Provider, ROOT, RelPath, Subset, locked,
    };

    /// Snapshots of a root and some files each.
    #[derive(Default)]
    struct Fake {
        listed: Arc<Mutex<Vec<SnapshotInfo>>>,
        opened: Arc<AtomicU64>,
    }

    struct Few;

    const INODES: usize = 10;

    fn inode(ino: u64) -> Inode {
        let links = if ino == ROOT { Vec::new() } else { vec![Link { parent: ROOT, name: [b'a'].into() }] };
        let kind = if ino == ROOT { Kind::Directory } else { Kind::File };
        let attributes = Attributes::default();
        let (generation, ctime, blocks, object, shared) = Default::default();
        Inode { ino, generation, kind, attributes, ctime, blocks, links, details: None, object, shared }
    }

    impl Side for Few {
        fn inodes(&self) -> Result<Inodes<'_>> {
            Ok(Box::new((0..INODES as u64).map(|ino| Ok(inode(ino)))))
        }
        fn path_of(&self, _: &Link) -> Result<RelPath> {
            Ok(RelPath::root())
        }
        fn details(&self, _: &Inode) -> Result<Details> {
            Ok(Details::default())
        }
        fn open(&self, _: &Inode) -> Result<Content> {
            Err(Error::failed("there is nothing in it", ""))
        }
        fn holds_still(&self, _: &Inode, _: &Content) -> Result<()> {
            Ok(())
        }
        fn layout(&self, _: &Inode, _: &Content) -> Result<Layout> {
            Err(Error::failed("there is nothing in it", ""))
        }
    }

    impl Snapshots for Fake {
        fn list(&self) -> Result<Vec<SnapshotInfo>> {
            Ok(locked(&self.listed).clone())
        }
        fn lasts(&self) -> Duration {
            Duration::ZERO
        }
        fn open(&self, _: &SnapshotInfo, _: &Monitor) -> Result<Box<dyn Side>> {
            self.opened.fetch_add(1, Relaxed);
            Ok(Box::new(Few))
        }
        fn root(&self, _: &SnapshotInfo) -> Result<Option<Inode>> {
            Ok(Some(inode(ROOT)))
        }
        fn has(&self, _: &SnapshotInfo) -> bool {
            true
        }
    }

    fn info(number: u64) -> SnapshotInfo {
        SnapshotInfo {
            id: Uuid::from_u128(number.into()),
            name: format!("s{number}"),
            sequence: number,
            parent: None,
            created: String::new(),
            provider: Provider::Pool,
            entries: None,
            bytes: None,
            subset: Subset::default(),
            aside: false,
        }
    }

    fn slots(limits: Limits) -> (Slots, Arc<Mutex<Vec<SnapshotInfo>>>, Arc<AtomicU64>) {
        let fake = Fake::default();
        *locked(&fake.listed) = (0..100).map(info).collect();
        let (listed, opened) = (fake.listed.clone(), fake.opened.clone());
        (Slots { limits, ..Slots::new(Box::new(fake), 1).unwrap() }, listed, opened)
    }

    fn read(slots: &Slots, number: u64) -> usize {
        slots.loaded(&slots.get(number).unwrap(), &Monitor::default()).unwrap().index.len()
    }

    #[test]
    fn however_many_are_read_few_stay_in_memory() {
        let recent = Duration::ZERO;
        let (slots, _, opened) = slots(Limits { most: 3 * INODES, recent, ..LIMITS });
        for number in 1..=100 {
            assert_eq!(read(&slots, number), INODES);
            assert!(slots.in_memory().len() <= 3, "{number}");
        }
        assert_eq!(opened.load(Relaxed), 100);
        assert_eq!(read(&slots, 100), INODES);
        assert_eq!(opened.load(Relaxed), 100);
        assert_eq!(read(&slots, 1), INODES);
        assert_eq!(opened.load(Relaxed), 101);
    }

    #[test]
    fn what_is_being_read_stays() {
        let (slots, _, opened) = slots(Limits { most: INODES, ..LIMITS });
        for number in [1, 2, 1, 2, 1, 2] {
            read(&slots, number);
        }
        assert_eq!(opened.load(Relaxed), 2);
    }

    #[test]
    fn nothing_of_what_nobody_reads_or_was_deleted_stays() {
        let (slots, listed, _) = slots(Limits { idle: Duration::ZERO, ..LIMITS });
        read(&slots, 1);
        std::thread::sleep(Duration::from_millis(5));
        slots.tidy();
        assert!(slots.in_memory().is_empty());
        let slots = Slots { limits: LIMITS, ..slots };
        let gone = slots.get(1).unwrap();
        read(&slots, 1);
        locked(&listed).remove(0);
        slots.tidy();
        assert!(slots.in_memory().is_empty() && slots.get(1).is_none() && !slots.has(&gone));
        assert!(slots.named("s0").is_none());
    }

    #[test]
    fn a_number_is_not_given_again() {
        let (slots, listed, _) = slots(LIMITS);
        let mut infos = locked(&listed).clone();
        infos.pop();
        *locked(&listed) = infos.clone();
        slots.refresh();
        infos.push(info(200));
        *locked(&listed) = infos;
        slots.refresh();
        assert_eq!(slots.named("s200").unwrap().number, 101);
        assert_eq!(slots.named("s98").unwrap().number, 99);
        assert_eq!(slots.latest().unwrap().1, "s200");
    }
}
