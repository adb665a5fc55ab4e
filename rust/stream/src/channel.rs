//! A pipe, socket or file that one end of a stream holds. Waiting for the other end can be stopped.

use crate::link::{Connection, HEAD, STEP, Unpacker, Watch, is_ready};
use rustix::event::PollFlags;
use rustix::fs::{FileType, fstat};
use snapsync_model::{Monitor, locked};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The longest wait between two checks for a stop.
const TICK: Duration = Duration::from_millis(100);
/// The number of bytes that a writable pipe takes without blocking (PIPE_BUF).
const PIPE_BUF: usize = 4096;

/// One direction of a channel.
pub struct Channel<'a> {
    file: File,
    monitor: &'a Monitor,
    can_block: bool,
    limit: Option<Arc<Limit>>,
    deadline: Option<Instant>,
    /// The state shared with the other direction if both lead to the same process.
    link: Option<Arc<Connection>>,
    unpacker: Option<Unpacker>,
    /// The time spent waiting for the other end since the last step, and the bytes that came or went
    /// meanwhile.
    waited: Cell<Duration>,
    moved: u64,
}

impl<'a> Channel<'a> {
    pub fn new(fd: impl Into<OwnedFd>, monitor: &'a Monitor) -> io::Result<Channel<'a>> {
        let file = File::from(fd.into());
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        let can_block = kind != FileType::RegularFile;
        Ok(Channel {
            file,
            monitor,
            can_block,
            limit: None,
            deadline: None,
            link: None,
            unpacker: None,
            waited: Cell::default(),
            moved: 0,
        })
    }

    /// One direction of a connection, on which waiting for the other end has a limit.
    pub fn of(
        link: &Arc<Connection>,
        fd: impl Into<OwnedFd>,
        monitor: &'a Monitor,
    ) -> io::Result<Channel<'a>> {
        Ok(Channel { link: Some(Arc::clone(link)), can_block: true, ..Channel::new(fd, monitor)? })
    }

    /// Limits the rate of writes from now on.
    pub fn limit(&mut self, limit: Option<&Arc<Limit>>) {
        self.limit = limit.cloned();
    }

    /// Waits no longer than `patience` from now on.
    pub fn hurry(&mut self, patience: Duration) {
        self.deadline = Some(Instant::now() + patience);
    }

    /// Records that a whole message has come or gone.
    pub fn step(&mut self) {
        self.waited.set(Duration::ZERO);
        self.moved = 0;
    }

    fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
        if self.moved >= STEP {
            self.step();
        }
    }

    fn wait_for(&self, what: PollFlags) -> io::Result<()> {
        let began = Instant::now();
        let mut watch = self.link.as_deref().map(Watch::new);
        let waited = self.waited.get();
        loop {
            self.monitor.check().map_err(io::Error::other)?;
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let is_ready = is_ready(self.file.as_fd(), what, TICK)?;
            self.waited.set(waited + began.elapsed());
            // What has arrived may be only a sign of life.
            self.link.iter().try_for_each(|link| link.expect_within(self.waited.get()))?;
            if is_ready {
                return Ok(());
            }
            match (&self.link, &mut watch) {
                // The other end may be busy but still there.
                (_, Some(watch)) if what == PollFlags::OUT => watch.is_alive()?,
                (Some(link), _) => link.expect_since(began)?,
                _ => {}
            }
        }
    }

    /// Writes some of the bytes as one packet.
    fn put(&self, link: &Connection, bytes: &[u8]) -> io::Result<usize> {
        let mut packet = [0; PIPE_BUF];
        let count = bytes.len().min(PIPE_BUF - HEAD);
        packet[..HEAD].copy_from_slice(&(count as u16).to_le_bytes());
        packet[HEAD..HEAD + count].copy_from_slice(&bytes[..count]);
        loop {
            link.check()?;
            if link.put(&packet[..HEAD + count])? {
                return Ok(count);
            }
            self.wait_for(PollFlags::OUT)?;
        }
    }

    fn read_some(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(link) = &self.link {
                link.check()?;
            }
            if self.can_block {
                self.wait_for(PollFlags::IN)?;
            }
            match self.file.read(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(count) => {
                    self.link.iter().for_each(|link| link.hear(count));
                    return Ok(count);
                }
                other => return other,
            }
        }
    }
}

impl Read for Channel<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() || !self.link.as_ref().is_some_and(|link| link.has_packets()) {
            let count = self.read_some(bytes)?;
            self.moved(count);
            return Ok(count);
        }
        let mut unpacker = self.unpacker.take().unwrap_or_else(Unpacker::new);
        let taken = loop {
            match unpacker.take(bytes) {
                0 => match unpacker.fill(|room| self.read_some(room)) {
                    Ok(0) => break Ok(0),
                    Ok(_) => {}
                    Err(e) => break Err(e),
                },
                count => break Ok(count),
            }
        };
        self.unpacker = Some(unpacker);
        self.moved(*taken.as_ref().unwrap_or(&0));
        taken
    }
}

impl Write for Channel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = if self.can_block { PIPE_BUF - HEAD } else { bytes.len() };
        let bytes = &bytes[..bytes.len().min(most)];
        if let Some(limit) = &self.limit {
            limit.wait(bytes.len() as u64, self.monitor)?;
        }
        if let Some(link) = self.link.as_ref().filter(|link| link.has_packets()) {
            self.monitor.check().map_err(io::Error::other)?;
            let count = if bytes.is_empty() { 0 } else { self.put(link, bytes)? };
            self.moved(count);
            return Ok(count);
        }
        loop {
            if self.can_block {
                self.wait_for(PollFlags::OUT)?;
            }
            match self.file.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes a second that all channels of a stream, or all workers of a round on one machine, may write
/// together.
pub struct Limit {
    rate: u64,
    /// When everything written so far will have been due.
    due: Mutex<Instant>,
}

impl Limit {
    pub fn new(rate: u64) -> Arc<Limit> {
        Arc::new(Limit { rate: rate.max(1), due: Mutex::new(Instant::now()) })
    }

    /// Waits until this many more bytes may be written.
    pub fn wait(&self, bytes: u64, monitor: &Monitor) -> io::Result<()> {
        let until = {
            let mut due = locked(&self.due);
            // Unused time is not saved up beyond one tick.
            let start = (*due).max(Instant::now().checked_sub(TICK).unwrap_or(*due));
            *due = start + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.rate);
            start
        };
        loop {
            monitor.check().map_err(io::Error::other)?;
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(TICK)),
                _ => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Fate;
    use crate::link::Heart;
    use std::os::fd::AsFd;

    /// Reads from a writer that repeats `bytes` without pause; patience ends after 720 ms.
    fn held_by(bytes: &'static [u8]) -> (String, Duration) {
        let ((from, mut theirs), (_there, to)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let heart = Heart::new(
            from.as_fd(),
            to.as_fd(),
            "peer".to_owned(),
            Duration::from_millis(1),
            Fate::default(),
        );
        let (heart, monitor) = (heart.unwrap(), Monitor::default());
        heart.link().speak_in_packets();
        std::thread::spawn(move || {
            while theirs.write_all(bytes).is_ok() {
                std::thread::yield_now();
            }
        });
        let mut channel = Channel::of(heart.link(), from, &monitor).unwrap();
        let began = Instant::now();
        let mut byte = [0; 1];
        let error = loop {
            match channel.read(&mut byte) {
                Ok(_) => {}
                Err(error) => break error.to_string(),
            }
            // Reading takes no time in this test; only waiting counts.
            channel.waited.set(channel.waited.get() + Duration::from_millis(1));
        };
        (error, began.elapsed())
    }

    #[test]
    fn who_only_shows_signs_of_life_is_given_up() {
        let (error, took) = held_by(&[0, 0]);
        assert!(error.contains("is there, and has said nothing"), "{error}");
        assert!(took < Duration::from_secs(20));
    }

    #[test]
    fn who_says_next_to_nothing_is_given_up() {
        let (error, _) = held_by(&[1, 0, b'x', 0, 0, 0, 0]);
        assert!(error.contains("is there, and has said nothing"), "{error}");
    }
}
