//! Reads small files before they are asked for, when somebody reads one after the other.
//!
//! Each file that the kernel asks for takes a request and an answer, and the reader waits for two switches
//! between processes. What this gives the kernel beforehand takes none.

use crate::answers::{Answers, At, number_of};
use crate::index::Index;
use fuser::{Errno, INodeNo, Notifier};
use snapsync_model::{Inode, Kind, locked};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

/// In a larger file the kernel reads ahead by itself.
const SMALL: u64 = 128 << 10;
/// After so many files in a row the next ones are read.
const SURE: u32 = 4;
/// How many are read at first, and at most.
const FEW: usize = 16;
const MANY: usize = 256;
/// What is planned at a time has no more bytes than this together.
const BYTES: u64 = 8 << 20;
/// Among so many that follow it, the next small files of a directory are looked for.
const NEAR: usize = 4096;

/// In which order somebody reads the files of a directory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Name,
    /// As `cp` and others do, for the sake of disks.
    Number,
}

/// A file that will be asked for.
struct Planned {
    rank: usize,
    /// Whether it is still to be read. One in the middle is left for the kernel to ask for: that tells how
    /// far the reader is.
    waits: bool,
}

/// A directory, by its slot and rank.
type Directory = (u64, usize);

/// What is known of the one who reads.
struct Reader {
    directory: Directory,
    /// The file that it has asked for last.
    last: usize,
    order: Order,
    /// How many it has asked for in this order.
    row: u32,
    /// What it will ask for next, or find in memory.
    planned: VecDeque<Planned>,
    width: usize,
}

/// Guesses what will be asked for.
pub(crate) struct Ahead {
    reader: Arc<Mutex<Option<Reader>>>,
    wake: SyncSender<()>,
}

/// What the thread has that reads.
pub(crate) struct Errands {
    reader: Arc<Mutex<Option<Reader>>>,
    awake: Receiver<()>,
    answers: Arc<Answers>,
}

pub(crate) fn new(answers: Arc<Answers>) -> (Ahead, Errands) {
    let (wake, awake) = sync_channel(1);
    let reader = Arc::new(Mutex::new(None));
    (Ahead { reader: reader.clone(), wake }, Errands { reader, awake, answers })
}

impl Ahead {
    /// The kernel has asked for the beginning of a file.
    pub(crate) fn asked(&self, at: &At) {
        let index = &at.loaded.index;
        let Some(parent) = index.get(at.rank).filter(|inode| is_small(inode)).and(index.parent(at.rank))
        else {
            return;
        };
        let directory = (at.slot.number, parent);
        let mut known = locked(&self.reader);
        let reader = known.get_or_insert_with(|| Reader::new(directory, at.rank));
        reader.goes_to(index, directory, at.rank);
        if reader.row >= SURE && reader.planned.len() <= reader.width / 2 {
            reader.plan(index);
            // If there is no room, it has been woken.
            let _ = self.wake.try_send(());
        }
    }
}

impl Reader {
    fn new(directory: Directory, last: usize) -> Reader {
        Reader { directory, last, order: Order::Name, row: 0, planned: VecDeque::new(), width: FEW }
    }

    fn goes_to(&mut self, index: &Index, directory: Directory, rank: usize) {
        if directory != self.directory {
            // Who has read one directory in order begins the next one at its first file.
            let row = if self.row > SURE { SURE } else { 0 };
            *self = Reader { order: self.order, row, ..Reader::new(directory, rank) };
        } else if let Some(at) = self.planned.iter().position(|planned| planned.rank == rank) {
            self.planned.drain(..=at);
            (self.last, self.row) = (rank, self.row + 1);
        } else {
            let next = |order| following(index, order, self.last).next() == Some(rank);
            match [self.order, Order::Name, Order::Number].into_iter().find(|order| next(*order)) {
                Some(order) if order == self.order => self.row += 1,
                Some(order) => (self.order, self.row) = (order, 1),
                None => self.row = 0,
            }
            (self.last, self.width) = (rank, FEW);
            self.planned.clear();
        }
    }

    fn plan(&mut self, index: &Index) {
        let from = self.planned.back().map_or(self.last, |planned| planned.rank);
        let mut bytes = 0;
        let more = following(index, self.order, from).take(self.width).take_while(|rank| {
            bytes += index.get(*rank).map_or(0, |inode| inode.attributes.size);
            bytes <= BYTES
        });
        let more: Vec<usize> = more.collect();
        let left = more.len() / 2;
        let more = more.into_iter().enumerate().map(|(at, rank)| Planned { rank, waits: at != left });
        self.planned.extend(more);
        self.width = (self.width * 2).min(MANY);
    }
}

impl Errands {
    /// Reads until the file system has ended.
    pub(crate) fn run(self, notifier: &Notifier) {
        while self.awake.recv().is_ok() {
            while let Some((ino, bytes)) = self.next() {
                // What cannot be given, or is not wanted, will be asked for.
                let _ = bytes.map(|bytes| notifier.store(ino, 0, &bytes));
            }
        }
    }

    fn next(&self) -> Option<(INodeNo, Result<Vec<u8>, Errno>)> {
        let (slot, rank) = {
            let mut known = locked(&self.reader);
            let reader = known.as_mut()?;
            let planned = reader.planned.iter_mut().find(|planned| planned.waits)?;
            planned.waits = false;
            (reader.directory.0, planned.rank)
        };
        let ino = number_of(slot, rank);
        Some((ino, self.whole(ino)))
    }

    /// A whole file: the kernel takes the end of what it is given for the end of the file.
    fn whole(&self, ino: INodeNo) -> Result<Vec<u8>, Errno> {
        let at = self.answers.inside(ino)?;
        let size = at.inode()?.attributes.size;
        let bytes = self.answers.read(&at, 0, size.min(SMALL) as u32)?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(Errno::EIO) }
    }
}

/// The small files that follow one in its directory.
fn following(index: &Index, order: Order, rank: usize) -> Box<dyn Iterator<Item = usize> + '_> {
    let small = |rank: &usize| index.get(*rank).is_some_and(is_small);
    match order {
        Order::Name => Box::new(index.names_after(rank).take(NEAR).filter(small)),
        Order::Number => Box::new(index.numbers_after(rank, NEAR).filter(small)),
    }
}

fn is_small(inode: &Inode) -> bool {
    inode.kind == Kind::File && (1..=SMALL).contains(&inode.attributes.size)
}
