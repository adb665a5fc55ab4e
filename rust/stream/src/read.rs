//! Reads the data that a manifest names in parallel, hashes it, and hands it on.

use crate::budget::{Budget, Permit};
use crate::held::Held;
use crate::wire::Digest;
use crossbeam_channel::{Receiver, Sender, bounded};
use snapsync_model::{
    Change, Content, Context, Counters, Error, Inode, Inodes, Monitor, Packed, Range, Restless, Result, Side,
    Unread, locked, read_still, unlocked,
};
use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::{Arc, Mutex};

/// The most bytes of a frame.
pub const FRAME: u64 = 1 << 20;
/// The bytes that one worker reads of a file at a time: a large file is read by many workers.
const PIECE: u64 = 8 << 20;
/// The number of small files that one worker reads in a row. They are mostly in one directory, which only one
/// thread can write to at a time at the target.
const ERRAND: usize = 64;
/// The number of files that all workers together hold open. Most processes may have 1,024.
const OPEN: usize = 256;
/// The number of errands that wait for a worker.
const QUEUE: usize = 16;

/// A run of bytes of one changed file.
pub struct Frame {
    pub change: Arc<Change>,
    pub offset: u64,
    pub bytes: Vec<u8>,
    pub hash: Digest,
    /// The permit for these bytes, and for as many again.
    pub permit: Permit,
}

impl Frame {
    pub fn range(&self) -> Range {
        Range { offset: self.offset, length: self.bytes.len() as u64 }
    }
}

/// Takes the frames of one worker, and returns a buffer for the next bytes.
pub type Sink<'a> = Box<dyn FnMut(Frame) -> Result<Vec<u8>> + 'a>;

/// The data of a delta, and what of it is not read.
#[derive(Clone, Copy)]
pub struct Readable<'a> {
    pub side: &'a dyn Side,
    /// What the receiver already has.
    pub held: &'a Held,
    /// Takes the files whose bytes did not hold still, which are then left out, though some of their data may
    /// have been read before. Without it they are an error.
    pub restless: Option<&'a Restless>,
}

struct Piece {
    change: Arc<Change>,
    inode: Arc<Inode>,
    ranges: Vec<Range>,
}

impl Piece {
    fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.length).sum()
    }
}

/// Reads the data of `rows` from `from` with `jobs` workers within `budget`. Each worker has its own sink,
/// and frames come in no order. The first failure stops everything, except unreadable files, which make it
/// fail at the end.
pub fn run<'a>(
    rows: impl Iterator<Item = Result<Change>> + Send,
    from: Readable<'_>,
    jobs: usize,
    budget: &Arc<Budget>,
    monitor: &Monitor,
    make_sink: &(dyn Fn() -> Sink<'a> + Sync),
) -> Result<()> {
    read_all(rows, from, jobs, budget, (monitor, true), make_sink)
}

/// The same; without `tells` whoever takes the frames tells how far they are.
pub(crate) fn read_all<'a>(
    rows: impl Iterator<Item = Result<Change>> + Send,
    from: Readable<'_>,
    jobs: usize,
    budget: &Arc<Budget>,
    (monitor, tells): (&Monitor, bool),
    make_sink: &(dyn Fn() -> Sink<'a> + Sync),
) -> Result<()> {
    let (files, unread) = ((OPEN / jobs.max(1)).clamp(1, ERRAND), &Unread::default());
    let reader = Reader { from, files, budget, unread, monitor, tells };
    let (give, take) = bounded::<Vec<Piece>>(QUEUE);
    let failed = Mutex::new(None);
    let fail = |error: Error| {
        locked(&failed).get_or_insert(error);
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let take = take.clone();
            let fail = &fail;
            scope.spawn(move || reader.work(&take, make_sink()).unwrap_or_else(fail));
        }
        // If all workers end, nobody takes errands any more, and the feeder must notice.
        drop(take);
        feed(rows, from, &give).unwrap_or_else(&fail);
        drop(give);
    });
    unlocked(failed).map_or_else(|| unread.finish(), Err)
}

/// Joins the rows with the inodes of the target, both sorted, and divides their data into errands, with small
/// files together.
fn feed(
    rows: impl Iterator<Item = Result<Change>>,
    from: Readable<'_>,
    give: &Sender<Vec<Piece>>,
) -> Result<()> {
    let mut inodes = from.side.inodes()?.peekable();
    let (mut errand, mut bytes) = (Vec::new(), 0);
    for change in rows {
        let change = change?;
        let left = from.held.left(&change);
        if left.is_empty() {
            continue;
        }
        let inode = Arc::new(advance_to(&mut inodes, change.ino)?);
        let change = Arc::new(change);
        for ranges in pieces(&left) {
            let piece = Piece { change: change.clone(), inode: inode.clone(), ranges };
            bytes += piece.bytes();
            errand.push(piece);
            if errand.len() == ERRAND || bytes >= FRAME {
                bytes = 0;
                if give.send(std::mem::take(&mut errand)).is_err() {
                    // All workers have failed and reported why.
                    return Ok(());
                }
            }
        }
    }
    // A failed worker reports why.
    let _ = give.send(errand);
    Ok(())
}

fn advance_to(inodes: &mut Peekable<Inodes<'_>>, ino: u64) -> Result<Inode> {
    while inodes.next_if(|i| i.as_ref().is_ok_and(|i| i.ino < ino)).is_some() {}
    match inodes.next() {
        Some(Ok(inode)) if inode.ino == ino => Ok(inode),
        Some(Err(e)) => Err(e),
        _ => Err(Error::integrity(
            format!("the manifest names inode {ino}, which its target does not have"),
            "make the manifest again from its snapshots",
        )),
    }
}

fn pieces(left: &[Range]) -> Vec<Vec<Range>> {
    let mut pieces: Vec<Vec<Range>> = Vec::new();
    let mut room = 0;
    for range in left {
        let (mut at, end) = (range.offset, range.end());
        while at < end {
            if room == 0 {
                pieces.push(Vec::new());
                room = PIECE;
            }
            let length = room.min(end - at);
            if let Some(piece) = pieces.last_mut() {
                piece.push(Range { offset: at, length });
            }
            room -= length;
            at += length;
        }
    }
    pieces
}

/// The files that one worker will read next, with their data requested already: a snapshot's data is in no
/// cache, and waiting for each small file would take longer than everything else.
#[derive(Default)]
struct Ahead {
    files: VecDeque<(Data, Piece)>,
    bytes: u64,
}

/// Where the bytes of a piece are.
enum Data {
    File(Content),
    Memory(Packed),
}

impl Ahead {
    fn add(&mut self, data: Data, piece: Piece) {
        if let Data::File(file) = &data {
            for range in &piece.ranges {
                snapsync_sys::read_ahead(file, range.offset, range.length);
            }
        }
        self.bytes += piece.bytes();
        self.files.push_back((data, piece));
    }

    fn next(&mut self) -> Option<(Data, Piece)> {
        let next = self.files.pop_front()?;
        self.bytes -= next.1.bytes();
        Some(next)
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    from: Readable<'a>,
    /// The number of files that one worker holds open.
    files: usize,
    budget: &'a Arc<Budget>,
    unread: &'a Unread,
    monitor: &'a Monitor,
    tells: bool,
}

impl Reader<'_> {
    fn work(&self, take: &Receiver<Vec<Piece>>, mut sink: Sink<'_>) -> Result<()> {
        let (mut errand, mut ahead, mut memory) = (VecDeque::new(), Ahead::default(), Vec::new());
        loop {
            while ahead.files.len() < self.files && ahead.bytes < PIECE {
                if errand.is_empty() {
                    // Only an idle worker waits for more.
                    let more = if ahead.files.is_empty() { take.recv().ok() } else { take.try_recv().ok() };
                    errand = more.map_or_else(VecDeque::new, VecDeque::from);
                }
                let Some(piece) = errand.pop_front() else { break };
                if self.is_left_out(&piece) {
                    continue;
                }
                if let Some(data) = self.take(piece.change.ino, self.open(&piece))? {
                    ahead.add(data, piece);
                }
            }
            let Some((data, piece)) = ahead.next() else { return Ok(()) };
            memory = match data {
                Data::File(mut file) => {
                    for range in &piece.ranges {
                        if self.is_left_out(&piece) {
                            break;
                        }
                        memory = self.read(&mut file, &piece, *range, memory, &mut sink)?;
                    }
                    memory
                }
                Data::Memory(_) if self.is_left_out(&piece) => memory,
                Data::Memory(packed) => self.hand_on(&piece.change, packed, &mut sink)?,
            };
        }
    }

    fn open(&self, Piece { inode, ranges, .. }: &Piece) -> Result<Data> {
        let is_whole = matches!(&ranges[..], [all] if (all.offset, all.length) == (0, inode.attributes.size));
        let packed = if is_whole { self.from.side.packed(inode)? } else { None };
        packed.map_or_else(|| self.from.side.open(inode).map(Data::File), |packed| Ok(Data::Memory(packed)))
    }

    fn hand_on(
        &self,
        change: &Arc<Change>,
        Packed { bytes, hash }: Packed,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<u8>> {
        self.monitor.check()?;
        let length = bytes.len() as u64;
        let permit = self.budget.take(2 * length);
        self.monitor.count(Counters { bytes_read: length, bytes_sent: length, ..Counters::default() });
        let memory = sink(Frame { change: change.clone(), offset: 0, bytes, hash, permit })?;
        self.advance(length);
        Ok(memory)
    }

    fn advance(&self, length: u64) {
        if self.tells {
            self.monitor.advance(length);
        }
    }

    /// The value, or None for a file that cannot be read or is left out.
    fn take<T>(&self, ino: u64, result: Result<T>) -> Result<Option<T>> {
        match self.from.restless {
            Some(restless) => {
                let result = restless.take(ino, result);
                if let Err(error) = &result
                    && error.is_unreadable()
                    && self.monitor.passes_over()
                {
                    self.monitor.note_unread(ino, error);
                    restless.leave_out(ino);
                    return Ok(None);
                }
                Ok(self.unread.take(result)?.flatten())
            }
            None => self.unread.take(result),
        }
    }

    fn is_left_out(&self, piece: &Piece) -> bool {
        self.from.restless.is_some_and(|restless| restless.has(piece.change.ino))
    }

    fn read(
        &self,
        file: &mut Content,
        Piece { change, inode, .. }: &Piece,
        range: Range,
        mut bytes: Vec<u8>,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<u8>> {
        let mut at = range.offset;
        while at < range.end() {
            self.monitor.check()?;
            let length = FRAME.min(range.end() - at);
            let permit = self.budget.take(2 * length);
            bytes.resize(length as usize, 0);
            let read = read_still(self.from.side, inode, file, |file| {
                file.read_exact_at(&mut bytes, at).context_at("read", || change.display_path())
            });
            if self.take(change.ino, read)?.is_none() {
                // Data beyond the end is not looked for.
                return Ok(bytes);
            }
            let hash = *blake3::hash(&bytes).as_bytes();
            self.monitor.count(Counters { bytes_read: length, bytes_sent: length, ..Counters::default() });
            bytes = sink(Frame { change: change.clone(), offset: at, bytes, hash, permit })?;
            self.advance(length);
            at += length;
        }
        Ok(bytes)
    }
}
