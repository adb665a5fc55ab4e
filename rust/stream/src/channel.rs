//! A pipe, socket or file that one end of a stream holds: waiting for the other end can be stopped.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, fstat};
use snapsync_model::{Monitor, locked};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// After a wait of this long somebody may want to stop.
const TICK: Duration = Duration::from_millis(100);
/// What a pipe that can be written to takes without waiting (PIPE_BUF).
const PIPE_BUF: usize = 4096;

/// One direction of a channel.
pub struct Channel<'a> {
    file: File,
    monitor: &'a Monitor,
    can_block: bool,
    limit: Option<Arc<Limit>>,
    deadline: Option<Instant>,
}

impl<'a> Channel<'a> {
    pub fn new(fd: impl Into<OwnedFd>, monitor: &'a Monitor) -> io::Result<Channel<'a>> {
        let file = File::from(fd.into());
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        Ok(Channel { file, monitor, can_block: kind != FileType::RegularFile, limit: None, deadline: None })
    }

    /// From now on writes no more than the limit lets through.
    pub fn limit(&mut self, limit: Option<&Arc<Limit>>) {
        self.limit = limit.cloned();
    }

    /// From now on waits no longer than so long.
    pub fn hurry(&mut self, patience: Duration) {
        self.deadline = Some(Instant::now() + patience);
    }

    fn wait_for(&self, what: PollFlags) -> io::Result<()> {
        loop {
            self.monitor.check().map_err(io::Error::other)?;
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut fds = [PollFd::new(&self.file, what)];
            let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
            match poll(&mut fds, Some(&tick)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Read for Channel<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.can_block {
                self.wait_for(PollFlags::IN)?;
            }
            match self.file.read(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

impl Write for Channel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = if self.can_block { PIPE_BUF } else { bytes.len() };
        let bytes = &bytes[..bytes.len().min(most)];
        if let Some(limit) = &self.limit {
            limit.wait(bytes.len() as u64, self.monitor)?;
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

/// Bytes a second that all channels of a stream may write together.
pub struct Limit {
    rate: u64,
    /// When what was let through so far is due.
    due: Mutex<Instant>,
}

impl Limit {
    pub fn new(rate: u64) -> Arc<Limit> {
        Arc::new(Limit { rate: rate.max(1), due: Mutex::new(Instant::now()) })
    }

    fn wait(&self, bytes: u64, monitor: &Monitor) -> io::Result<()> {
        let until = {
            let mut due = locked(&self.due);
            // Time that passed unused is not saved up beyond a tick.
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
