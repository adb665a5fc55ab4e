//! Small frames pass from thread to thread together: a message for each would wake somebody for each.

use crate::budget::MEMORY;

/// The most frames of one message.
const MOST: usize = 64;
/// The bytes of data after which one ends.
const BYTES: u64 = 256 << 10;
/// The part of the memory for data that waits here, in all threads together: who waits for memory must not
/// wait for that.
const PART: u64 = 8;

/// The frames of the next message of one thread.
pub(crate) struct Together<T> {
    frames: Vec<T>,
    bytes: u64,
    most: u64,
}

impl<T> Together<T> {
    /// For one of so many threads.
    pub(crate) fn of(threads: usize) -> Together<T> {
        let most = BYTES.min(MEMORY / PART / threads.max(1) as u64);
        Together { frames: Vec::new(), bytes: 0, most }
    }

    /// Adds a frame with that many bytes. Returns all, if they are enough for a message.
    pub(crate) fn add(&mut self, frame: T, bytes: u64) -> Option<Vec<T>> {
        self.frames.push(frame);
        self.bytes += bytes;
        (self.frames.len() == MOST || self.bytes >= self.most).then(|| self.take())
    }

    pub(crate) fn take(&mut self) -> Vec<T> {
        self.bytes = 0;
        std::mem::take(&mut self.frames)
    }
}
