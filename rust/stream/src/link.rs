//! Both directions of a channel to a process that may be far away and may vanish silently.
//!
//! Everything written is sent in packets: a length of two bytes, then the payload. An empty packet only says
//! that this end is alive; a thread sends one when nothing was written for a while. An end that hears nothing
//! for the agreed time gives the other end up.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use snapsync_model::{Error, locked};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an end waits for a byte from the other by default.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// An idle end sends a sign of life at least this often.
const BEAT: Duration = Duration::from_secs(10);
/// An end that is alive but makes no progress is waited for this many times longer: 12 hours instead of a
/// minute. It may be working on a large tree, but there has to be a limit.
const AT_WORK: u32 = 720;
/// The number of bytes, other than a whole message, that counts as progress.
pub(crate) const STEP: u64 = 1 << 16;
/// The bytes before the payload of a packet.
pub(crate) const HEAD: usize = 2;

/// Whether the other end is given up. All channels of a round share one, because none is useful without the
/// others.
pub type Fate = Arc<AtomicBool>;

/// The state that both directions of a channel share.
pub struct Connection {
    from: File,
    to: File,
    /// The name of the other end for messages.
    name: String,
    patience: AtomicU64,
    /// The number of bytes read.
    heard: AtomicU64,
    /// When something was last written. Whoever holds the lock may write.
    written: Mutex<Instant>,
    has_packets: AtomicBool,
    is_gone: Fate,
    is_done: Mutex<bool>,
    changed: Condvar,
}

impl Connection {
    /// From now on, writes packets and signs of life.
    pub fn speak_in_packets(&self) {
        self.has_packets.store(true, Relaxed);
        self.changed.notify_all();
    }

    pub(crate) fn has_packets(&self) -> bool {
        self.has_packets.load(Relaxed)
    }

    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Relaxed))
    }

    pub fn set_patience(&self, patience: Duration) {
        self.patience.store(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.changed.notify_all();
    }

    pub fn fate(&self) -> Fate {
        Arc::clone(&self.is_gone)
    }

    /// Gives the other end up.
    pub fn give_up(&self) {
        self.is_gone.store(true, Relaxed);
    }

    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_gone() { Err(io::Error::other(self.silent())) } else { Ok(()) }
    }

    /// Fails if the other end was silent since then for too long.
    pub(crate) fn expect_since(&self, since: Instant) -> io::Result<()> {
        if since.elapsed() >= self.patience() {
            self.give_up();
        }
        self.check()
    }

    /// Fails if the other end was waited for too long without progress.
    pub(crate) fn expect_within(&self, waited: Duration) -> io::Result<()> {
        if waited < self.patience() * AT_WORK {
            return Ok(());
        }
        self.give_up();
        Err(io::Error::other(Error::Cut {
            what: format!("{} is there, and has said nothing for {} s", self.name, waited.as_secs()),
            advice: "see what it is doing, and run the same command again: what has arrived is kept, and it \
                goes on from \
                     there; --timeout waits for longer"
                .to_owned(),
        }))
    }

    fn silent(&self) -> Error {
        Error::Cut {
            what: format!("nothing was heard of {} for {} s", self.name, self.patience().as_secs_f64()),
            advice: "see whether it and the way to it are there, and run the same command again: what has \
                     arrived is kept, and it goes on from there; --timeout waits for longer"
                .to_owned(),
        }
    }

    pub(crate) fn hear(&self, bytes: usize) {
        self.heard.fetch_add(bytes as u64, Relaxed);
    }

    /// The bytes that have arrived, read or not: if their number grows, the other end is alive.
    fn come(&self) -> u64 {
        self.heard.load(Relaxed) + ioctl_fionread(&self.from).unwrap_or(0)
    }

    /// Writes a whole packet if there is space for it now.
    pub fn put(&self, packet: &[u8]) -> io::Result<bool> {
        let mut written = locked(&self.written);
        self.put_locked(packet, &mut written)
    }

    fn put_locked(&self, packet: &[u8], written: &mut Instant) -> io::Result<bool> {
        if !is_ready(self.to.as_fd(), PollFlags::OUT, Duration::ZERO)? {
            return Ok(false);
        }
        let mut rest = packet;
        let began = Instant::now();
        while !rest.is_empty() {
            match (&self.to).write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => rest = &rest[n..],
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    if rest.len() == packet.len() {
                        return Ok(false);
                    }
                    // Half of the packet is written, so nothing else may be written before the rest.
                    self.expect_since(began)?;
                    is_ready(self.to.as_fd(), PollFlags::OUT, Duration::from_millis(100))?;
                }
                Err(e) => return Err(e),
            }
        }
        *written = Instant::now();
        Ok(true)
    }

    /// Sends a sign of life if nothing was written for `after`.
    fn beat(&self, after: Duration) {
        let mut written = match self.written.try_lock() {
            Ok(written) => written,
            Err(TryLockError::Poisoned(broken)) => broken.into_inner(),
            // Another thread is writing.
            Err(TryLockError::WouldBlock) => return,
        };
        if written.elapsed() >= after {
            // Whoever waits for the other end will notice that it cannot be written to.
            let _ = self.put_locked(&[0; HEAD], &mut written);
        }
    }

    fn keep_beating(&self) {
        let mut is_done = locked(&self.is_done);
        while !*is_done {
            let after = BEAT.min(self.patience() / 6);
            if self.has_packets() {
                self.beat(after);
            }
            is_done = match self.changed.wait_timeout(is_done, after / 2) {
                Ok((is_done, _)) => is_done,
                Err(broken) => broken.into_inner().0,
            };
        }
    }
}

/// The descriptor that it reads from, to wait for it.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

/// Notices without reading whether the other end is alive.
pub struct Watch<'l> {
    link: &'l Connection,
    come: u64,
    since: Instant,
}

impl<'l> Watch<'l> {
    pub fn new(link: &'l Connection) -> Watch<'l> {
        Watch { link, come: link.come(), since: Instant::now() }
    }

    pub fn is_silent(&mut self) -> bool {
        self.is_alive().is_err()
    }

    pub(crate) fn is_alive(&mut self) -> io::Result<()> {
        let come = self.link.come();
        if come != self.come {
            (self.come, self.since) = (come, Instant::now());
        }
        self.link.expect_since(self.since)
    }
}

/// Sends signs of life until it is dropped.
pub struct Heart {
    link: Arc<Connection>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    pub fn new(
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: String,
        patience: Duration,
        fate: Fate,
    ) -> io::Result<Heart> {
        let link = Arc::new(Connection {
            from: from.try_clone_to_owned()?.into(),
            to: to.try_clone_to_owned()?.into(),
            name,
            patience: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            written: Mutex::new(Instant::now()),
            has_packets: AtomicBool::new(false),
            is_gone: fate,
            is_done: Mutex::new(false),
            changed: Condvar::new(),
        });
        link.set_patience(patience);
        let beating = Arc::clone(&link);
        let thread =
            std::thread::Builder::new().name("heart".to_owned()).spawn(move || beating.keep_beating())?;
        Ok(Heart { link, thread: Some(thread) })
    }

    pub fn link(&self) -> &Arc<Connection> {
        &self.link
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        *locked(&self.link.is_done) = true;
        self.link.changed.notify_all();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Waits at most `patience` until a descriptor is ready.
pub(crate) fn is_ready(fd: BorrowedFd<'_>, what: PollFlags, patience: Duration) -> io::Result<bool> {
    let tick = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&tick)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Extracts the payload of packets as it arrives.
pub(crate) struct Unpacker {
    raw: Vec<u8>,
    at: usize,
    end: usize,
    /// The bytes left of the current packet.
    left: usize,
}

impl Unpacker {
    pub(crate) fn new() -> Unpacker {
        Unpacker { raw: vec![0; 1 << 16], at: 0, end: 0, left: 0 }
    }

    /// Copies the payload that is there; returns 0 if more must arrive first.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) -> usize {
        while self.left == 0 {
            let Some(head) = self.raw[self.at..self.end].first_chunk::<HEAD>() else { return 0 };
            self.left = usize::from(u16::from_le_bytes(*head));
            self.at += HEAD;
        }
        let count = bytes.len().min(self.left).min(self.end - self.at);
        bytes[..count].copy_from_slice(&self.raw[self.at..self.at + count]);
        (self.at, self.left) = (self.at + count, self.left - count);
        count
    }

    /// Reads more; 0 means the end.
    pub(crate) fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        self.raw.copy_within(self.at..self.end, 0);
        (self.at, self.end) = (0, self.end - self.at);
        let count = read(&mut self.raw[self.end..])?;
        self.end += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_apart_wherever_they_are_cut() {
        let sent = [&[3, 0][..], b"abc", &[0, 0], &[0, 0], &[2, 0], b"de", &[0, 0]].concat();
        for piece in 1..=sent.len() {
            let (mut unpacker, mut got, mut from) = (Unpacker::new(), Vec::<u8>::new(), sent.as_slice());
            loop {
                let mut bytes = [0; 2];
                let count = unpacker.take(&mut bytes);
                got.extend(&bytes[..count]);
                if count == 0 {
                    let next = from.len().min(piece);
                    let (now, later) = from.split_at(next);
                    let filled = unpacker.fill(|room| {
                        room[..next].copy_from_slice(now);
                        Ok(next)
                    });
                    if filled.unwrap() == 0 {
                        break;
                    }
                    from = later;
                }
            }
            assert_eq!(got, b"abcde", "in pieces of {piece}");
        }
    }
}
