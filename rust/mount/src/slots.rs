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

/// How many inodes are kept in memory of snapshots that nobody reads just now.
const MOST: usize = 1_000_000;
/// For how long a snapshot is being read after the last request.
const RECENT: Duration = Duration::from_secs(5);
/// After that nothing of a snapshot stays in memory.
const IDLE: Duration = Duration::from_secs(300);
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
    /// The files that were read last and not to their end, by slot and rank; the latest is first.
    open: Mutex<VecDeque<((u64, usize), Arc<Content>)>>,
}

impl Slots {
    /// The first snapshot gets the number `first`.
    pub(crate) fn new(source: Box<dyn Snapshots>, first: u64) -> Result<Slots> {
        let found = source.list()?;
        let table = RwLock::new(Table { next: first, ..Table::default() });
        let (now, open) = (Instant::now(), Mutex::default());
        let slots = Slots { source, table, listed: Mutex::new(now), began: now, open };
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
            None => self.loaded(slot, &Monitor::default())?.index.root().clone(),
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
            if unused > IDLE {
                self.forget(&slot);
            }
        }
    }

    fn make_room(&self, except: u64) {
        let mut found = self.in_memory();
        found.sort_unstable_by_key(|(_, _, unused)| std::cmp::Reverse(*unused));
        let mut total: usize = found.iter().map(|(_, size, _)| size).sum();
        for (slot, size, unused) in found {
            if total <= MOST || unused < RECENT {
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
