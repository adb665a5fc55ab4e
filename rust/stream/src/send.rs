//! Sends frames over channels: the readers compress them, and one thread per channel writes.

use crate::budget::{Budget, Permit};
use crate::codec::{Codec, Compression, Compressor};
use crate::read::{Frame, Readable, read_all};
use crate::together::Together;
use crate::wire::{Digest, FrameHead, Sum, lift};
use crossbeam_channel::{Receiver, Sender, bounded};
use snapsync_model::{Change, Context, Error, Monitor, Result, locked, unlocked};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

/// A channel that frames go to, and its name for messages.
pub struct Outlet<'a> {
    pub to: Box<dyn Write + Send + 'a>,
    pub name: PathBuf,
}

/// The totals of all channels together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    pub frames: u64,
    /// Bytes of data, and their size as sent.
    pub raw: u64,
    pub stored: u64,
}

struct Packed {
    head: FrameHead,
    payload: Vec<u8>,
    _permit: Permit,
}

/// Sends the data of `rows` that is in `from`, and the end record on every channel. `seed` holds the digests
/// of head and manifest.
pub fn send(
    rows: impl Iterator<Item = Result<Change>> + Send,
    from: Readable<'_>,
    seed: [Digest; 2],
    outlets: Vec<Outlet<'_>>,
    compression: Compression,
    jobs: usize,
    monitor: &Monitor,
) -> Result<Transferred> {
    let failed = Mutex::new(None::<Error>);
    let sent = Mutex::new(Transferred::default());
    let budget = Budget::new(crate::budget::MEMORY);
    std::thread::scope(|scope| {
        // The budget limits what is packed; this only keeps workers from waiting for each other.
        let (give, take) = bounded::<Vec<Packed>>(4 * jobs.max(1));
        for outlet in outlets {
            let (take, failed, sent) = (take.clone(), &failed, &sent);
            scope.spawn(move || match write(outlet, &take, seed, failed, monitor) {
                Ok(more) => locked(sent).add(more),
                Err(error) => {
                    locked(failed).get_or_insert(error);
                }
            });
        }
        drop(take);
        // What waits for a slow channel is not sent yet.
        let read = read_all(rows, from, jobs, &budget, (monitor, false), &|| {
            pack(compression, Together::of(jobs), &give, &failed)
        });
        if let Err(error) = read {
            locked(&failed).get_or_insert(error);
        }
    });
    unlocked(failed).map_or_else(|| Ok(*locked(&sent)), Err)
}

impl Transferred {
    fn add(&mut self, more: Transferred) {
        self.frames += more.frames;
        self.raw += more.raw;
        self.stored += more.stored;
    }
}

/// What one worker has packed.
struct Packer<'a> {
    compressor: Compressor,
    together: Together<Packed>,
    give: &'a Sender<Vec<Packed>>,
    failed: &'a Mutex<Option<Error>>,
}

impl Packer<'_> {
    fn put(&mut self, frame: Frame) -> Result<Vec<u8>> {
        if locked(self.failed).is_some() {
            // The failed thread reported why.
            return Err(Error::Interrupted);
        }
        let (packed, memory) = pack_one(&mut self.compressor, frame)?;
        let bytes = packed.payload.len() as u64;
        match self.together.add(packed, bytes) {
            Some(all) => self.give.send(all).map(|()| memory).map_err(|_| Error::Interrupted),
            None => Ok(memory),
        }
    }
}

impl Drop for Packer<'_> {
    fn drop(&mut self) {
        // If the writers have ended, they have reported why.
        let _ = self.give.send(self.together.take());
    }
}

/// The sink of one worker.
fn pack<'a>(
    compression: Compression,
    together: Together<Packed>,
    give: &'a Sender<Vec<Packed>>,
    failed: &'a Mutex<Option<Error>>,
) -> crate::read::Sink<'a> {
    let packer = Compressor::new(compression).map(|compressor| Packer { compressor, together, give, failed });
    match packer {
        Ok(mut packer) => Box::new(move |frame| packer.put(frame)),
        Err(e) => {
            let why = format!("cannot compress: {e}");
            Box::new(move |_| Err(Error::failed(why.clone(), "use --compress none")))
        }
    }
}

/// Packs a frame, and returns its buffer for another.
fn pack_one(compressor: &mut Compressor, frame: Frame) -> Result<(Packed, Vec<u8>)> {
    let compressed =
        compressor.compress(&frame.bytes).context_at("compress", || frame.change.display_path())?;
    let raw = frame.bytes.len() as u32;
    let (codec, payload, memory) = match compressed {
        Some(payload) => (Codec::Zstd, payload, frame.bytes),
        None => (Codec::Stored, frame.bytes, Vec::new()),
    };
    let stored = payload.len() as u32;
    let mut permit = frame.permit;
    permit.shrink(stored.into());
    let head =
        FrameHead { codec, raw, stored, ino: frame.change.ino, offset: frame.offset, digest: frame.hash };
    Ok((Packed { head, payload, _permit: permit }, memory))
}

fn write(
    mut outlet: Outlet<'_>,
    take: &Receiver<Vec<Packed>>,
    seed: [Digest; 2],
    failed: &Mutex<Option<Error>>,
    monitor: &Monitor,
) -> Result<Transferred> {
    let mut sum = Sum::new(seed[0], seed[1]);
    let mut sent = Transferred::default();
    let mut put = |bytes: &[u8]| outlet.to.write_all(bytes).map_err(|e| lift(e, "write", &outlet.name));
    for packed in take.iter().flatten() {
        if locked(failed).is_some() {
            return Ok(sent);
        }
        put(&packed.head.to_bytes())?;
        put(&packed.payload)?;
        monitor.advance(packed.head.raw.into());
        sum.add(&packed.head);
        sent.add(Transferred { frames: 1, raw: packed.head.raw.into(), stored: packed.head.stored.into() });
    }
    // The feeder is done, or has failed: only the first may look like an end.
    if locked(failed).is_none() {
        put(&sum.end().to_bytes())?;
    }
    outlet.to.flush().map_err(|e| lift(e, "write", &outlet.name))?;
    Ok(sent)
}
