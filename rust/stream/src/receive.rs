//! Receives frames from channels: one thread per channel reads, others decompress and verify.

use crate::budget::{Budget, Permit};
use crate::codec::{Codec, Decompressor};
use crate::together::Together;
use crate::wire::{DeltaEnd, Digest, FrameHead, Record, Sum, damaged, fill};
use crossbeam_channel::{Receiver, Sender, bounded};
use snapsync_model::{Error, Monitor, Range, Result, locked, unlocked};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A channel that frames come from, and its name for messages.
pub struct Arrivals<'a> {
    pub from: Box<dyn Read + Send + 'a>,
    pub name: PathBuf,
}

/// A frame whose bytes match its digest. The receiver must still look up the file it belongs to.
pub struct Arrived {
    pub ino: u64,
    pub offset: u64,
    pub bytes: Vec<u8>,
    pub hash: Digest,
    _permit: Permit,
}

impl Arrived {
    pub fn range(&self) -> Range {
        Range { offset: self.offset, length: self.bytes.len() as u64 }
    }
}

/// Takes the frames of one worker.
pub type Taker<'a> = Box<dyn FnMut(Arrived) -> Result<()> + 'a>;

struct Packed {
    head: FrameHead,
    payload: Vec<u8>,
    permit: Permit,
}

/// Takes frames up to the end record of every channel, and returns the number of their bytes. `skip` names
/// the frames that can be passed over. The first failure stops everything.
pub fn receive<'a>(
    arrivals: Vec<Arrivals<'_>>,
    seed: [Digest; 2],
    jobs: usize,
    monitor: &Monitor,
    skip: &(dyn Fn(u64, Range) -> bool + Sync),
    make_taker: &(dyn Fn() -> Taker<'a> + Sync),
) -> Result<DeltaEnd> {
    let failed = Mutex::new(None::<Error>);
    let fail = |error: Error| {
        locked(&failed).get_or_insert(error);
    };
    let total = Mutex::new(DeltaEnd { frames: 0, bytes: 0, digest: [0; 32] });
    let budget = Budget::new(crate::budget::MEMORY);
    std::thread::scope(|scope| {
        let (give, take) = bounded::<Vec<Packed>>(4 * jobs.max(1));
        for _ in 0..jobs.max(1) {
            let (take, fail) = (take.clone(), &fail);
            scope.spawn(move || unpack(&take, monitor, make_taker()).unwrap_or_else(fail));
        }
        drop(take);
        let channels = arrivals.len();
        for from in arrivals {
            let (give, fail, budget, failed, total) = (give.clone(), &fail, &budget, &failed, &total);
            scope.spawn(move || {
                let reader = Reader { budget, skip, monitor, failed };
                let mut together = Together::of(channels);
                let read = reader.read(from, seed, &mut together, &give);
                // What came before a failure has arrived. If all workers have ended, they have reported why.
                let _ = give.send(together.take());
                match read {
                    Ok(end) => {
                        let mut total = locked(total);
                        total.frames += end.frames;
                        total.bytes += end.bytes;
                    }
                    Err(error) => fail(error),
                }
            });
        }
    });
    unlocked(failed).map_or_else(|| Ok(unlocked(total)), Err)
}

struct Reader<'a> {
    budget: &'a Arc<Budget>,
    skip: &'a (dyn Fn(u64, Range) -> bool + Sync),
    monitor: &'a Monitor,
    failed: &'a Mutex<Option<Error>>,
}

impl Reader<'_> {
    fn read(
        &self,
        mut arrivals: Arrivals<'_>,
        seed: [Digest; 2],
        together: &mut Together<Packed>,
        give: &Sender<Vec<Packed>>,
    ) -> Result<DeltaEnd> {
        let (from, name) = (&mut arrivals.from, &arrivals.name);
        let mut sum = Sum::new(seed[0], seed[1]);
        loop {
            self.monitor.check()?;
            if locked(self.failed).is_some() {
                return Ok(sum.end());
            }
            let head = match Record::read(from, name)? {
                Record::Frame(head) => head,
                Record::End(end) if end == sum.end() => return Ok(end),
                Record::End(_) => return Err(damaged(name, "its frames are not those that its end counts")),
            };
            sum.add(&head);
            let range = Range { offset: head.offset, length: head.raw.into() };
            if (self.skip)(head.ino, range) {
                pass_over(from, head.stored, name)?;
                continue;
            }
            let permit = self.budget.take(u64::from(head.raw) + u64::from(head.stored));
            let mut payload = vec![0; head.stored as usize];
            fill(from, &mut payload, name)?;
            let all = together.add(Packed { head, payload, permit }, head.stored.into());
            if all.is_some_and(|all| give.send(all).is_err()) {
                // All workers have failed and reported why.
                return Ok(sum.end());
            }
        }
    }
}

fn pass_over(from: &mut impl Read, mut bytes: u32, name: &Path) -> Result<()> {
    let mut buffer = [0; 1 << 14];
    while bytes > 0 {
        let piece = bytes.min(buffer.len() as u32);
        fill(from, &mut buffer[..piece as usize], name)?;
        bytes -= piece;
    }
    Ok(())
}

fn unpack(take: &Receiver<Vec<Packed>>, monitor: &Monitor, mut taker: Taker<'_>) -> Result<()> {
    let mut decompressor = Decompressor::new().map_err(|e| no_memory(&e))?;
    for Packed { head, payload, permit } in take.iter().flatten() {
        monitor.check()?;
        let bytes = decompressor.decompress(head.codec, payload, head.raw as usize);
        let bytes = bytes.filter(|bytes| *blake3::hash(bytes).as_bytes() == head.digest);
        let Some(bytes) = bytes else { return Err(not_its_digest(&head)) };
        let length = bytes.len() as u64;
        taker(Arrived { ino: head.ino, offset: head.offset, bytes, hash: head.digest, _permit: permit })?;
        monitor.advance(length);
    }
    Ok(())
}

/// The bytes of one frame as it is stored; they are what its digest says.
pub fn unpacked(head: &FrameHead, payload: Vec<u8>) -> Result<Vec<u8>> {
    let mut decompressor = Decompressor::new().map_err(|e| no_memory(&e))?;
    let bytes = decompressor.decompress(head.codec, payload, head.raw as usize);
    let bytes = bytes.filter(|bytes| *blake3::hash(bytes).as_bytes() == head.digest);
    bytes.ok_or_else(|| not_its_digest(head))
}

fn no_memory(error: &std::io::Error) -> Error {
    Error::failed(format!("cannot decompress: {error}"), "free memory and try again")
}

fn not_its_digest(head: &FrameHead) -> Error {
    let how = if head.codec == Codec::Zstd { "cannot be unpacked to what" } else { "is not what" };
    Error::integrity(
        format!("the data of inode {} at {} {how} its digest says", head.ino, head.offset),
        "run this again; if it says the same, what it comes from is damaged: a file, an object of a log, the \
         network, or the memory of a machine",
    )
}
