//! The data that a manifest names, read in parallel, hashed, and handed on.

use crate::wire::Digest;
use crate::{Budget, Held, Permit};
use crossbeam_channel::{Receiver, Sender, bounded};
use snapsync_model::{
    Change, Context, Counters, Error, Inode, Inodes, Monitor, Range, Result, Side, locked, unlocked,
};
use std::fs::File;
use std::iter::Peekable;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

/// Bytes of a frame at most.
pub const FRAME: u64 = 1 << 20;
/// Bytes that one worker reads of one file at a time: a large file is read by many.
const PIECE: u64 = 8 << 20;
/// Small files that one worker reads one after the other: they are mostly of one directory, which only one at a time
/// can write to at the target.
const ERRAND: usize = 64;
/// Errands that wait for a worker.
const QUEUE: usize = 16;

/// A run of bytes of one changed file.
pub struct Frame {
    pub change: Arc<Change>,
    pub offset: u64,
    pub bytes: Vec<u8>,
    pub hash: Digest,
    /// For the bytes, and as many again.
    pub permit: Permit,
}

impl Frame {
    /// Fails when the bytes are not the ones that were read at the source.
    pub fn verify(&self) -> Result<()> {
        if *blake3::hash(&self.bytes).as_bytes() == self.hash {
            return Ok(());
        }
        Err(Error::integrity(
            format!("the data of {} at {} was damaged on its way", self.change.display_path(), self.offset),
            "run the command again; if it happens again, check this machine's memory",
        ))
    }

    pub fn range(&self) -> Range {
        Range { offset: self.offset, length: self.bytes.len() as u64 }
    }
}

/// What takes the frames of one worker.
pub type Sink<'a> = Box<dyn FnMut(Frame) -> Result<()> + 'a>;

struct Piece {
    change: Arc<Change>,
    inode: Arc<Inode>,
    ranges: Vec<Range>,
}

/// Reads the data of `rows` that is not `held` from `side` with `jobs` workers, each with a sink of its own, within
/// `budget`. Frames come in no order. The first failure stops everything.
pub fn run<'a>(
    rows: impl Iterator<Item = Result<Change>> + Send,
    side: &dyn Side,
    held: &Held,
    jobs: usize,
    budget: &Arc<Budget>,
    monitor: &Monitor,
    make_sink: &(dyn Fn() -> Sink<'a> + Sync),
) -> Result<()> {
    let reader = Reader { side, budget, monitor };
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
        // Without workers left, nobody would take what is given: the feeder must notice.
        drop(take);
        feed(rows, side, held, &give).unwrap_or_else(&fail);
        drop(give);
    });
    unlocked(failed).map_or(Ok(()), Err)
}

/// Joins the rows with the inodes of the target, both sorted, and cuts their data into pieces, the small ones together.
fn feed(
    rows: impl Iterator<Item = Result<Change>>,
    side: &dyn Side,
    held: &Held,
    give: &Sender<Vec<Piece>>,
) -> Result<()> {
    let mut inodes = side.inodes()?.peekable();
    let (mut errand, mut bytes) = (Vec::new(), 0);
    for change in rows {
        let change = change?;
        let left = held.left(&change);
        if left.is_empty() {
            continue;
        }
        let inode = Arc::new(advance_to(&mut inodes, change.ino)?);
        let change = Arc::new(change);
        for ranges in pieces(&left) {
            bytes += ranges.iter().map(|range| range.length).sum::<u64>();
            errand.push(Piece { change: change.clone(), inode: inode.clone(), ranges });
            if errand.len() == ERRAND || bytes >= FRAME {
                bytes = 0;
                if give.send(std::mem::take(&mut errand)).is_err() {
                    // All workers have failed, and said why.
                    return Ok(());
                }
            }
        }
    }
    // Who fails says why.
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

#[derive(Clone, Copy)]
struct Reader<'a> {
    side: &'a dyn Side,
    budget: &'a Arc<Budget>,
    monitor: &'a Monitor,
}

impl Reader<'_> {
    fn work(&self, take: &Receiver<Vec<Piece>>, mut sink: Sink<'_>) -> Result<()> {
        for piece in take.iter().flatten() {
            self.monitor.check()?;
            let file = self.side.open(&piece.inode)?;
            for range in &piece.ranges {
                self.read(&file, &piece.change, *range, &mut sink)?;
            }
        }
        Ok(())
    }

    fn read(&self, file: &File, change: &Arc<Change>, range: Range, sink: &mut Sink<'_>) -> Result<()> {
        let mut at = range.offset;
        while at < range.end() {
            self.monitor.check()?;
            let length = FRAME.min(range.end() - at);
            let permit = self.budget.take(2 * length);
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, at).context("read", change.display_path())?;
            let hash = *blake3::hash(&bytes).as_bytes();
            self.monitor.count(Counters { bytes_read: length, bytes_sent: length, ..Counters::default() });
            sink(Frame { change: change.clone(), offset: at, bytes, hash, permit })?;
            self.monitor.advance(length);
            at += length;
        }
        Ok(())
    }
}
