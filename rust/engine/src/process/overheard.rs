//! Shows the standard error of ssh and of the other end line by line, with the name of the speaker, up to a
//! limit.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use snapsync_model::printable_bytes;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// The most bytes that are shown of one process, and of one line.
const SHOWN: usize = 16 << 10;
const LINE: usize = 1000;
/// The pause between two reads of output that is not shown any more.
const PAUSE: Duration = Duration::from_millis(20);
/// How long to wait for more once the process has ended: a master of ssh keeps the pipe open.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Listens until it is dropped, and then reads what is left.
pub(crate) struct Overheard {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<String>>,
}

impl Overheard {
    pub(crate) fn of(stderr: impl Read + AsFd + Send + 'static, whom: String) -> Overheard {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let listen = move || listen(stderr, Lines::new(whom, io::stderr()), &told);
        let thread = std::thread::Builder::new().name("overheard".into()).spawn(listen).ok();
        Overheard { is_over, thread }
    }

    /// Reads what is left, and returns the last line.
    pub(crate) fn last_words(mut self) -> String {
        self.end()
    }

    fn end(&mut self) -> String {
        self.is_over.store(true, Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Overheard {
    fn drop(&mut self) {
        // Its output is shown before this end's message about it.
        self.end();
    }
}

fn listen(mut stderr: impl Read + AsFd, mut lines: Lines<impl Write>, is_over: &AtomicBool) -> String {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let was_over = is_over.load(Relaxed);
        let mut fds = [PollFd::new(&stderr, PollFlags::IN)];
        match poll(&mut fds, Some(&TICK)) {
            // The rest is read to its end, unless it has none.
            Ok(0) if was_over => break,
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => break,
        }
        match stderr.read(&mut buffer) {
            Ok(count @ 1..) => lines.take(&buffer[..count]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break,
        }
        if lines.left == 0 {
            if was_over {
                break;
            }
            // Reading from a noisy peer is not progress: a round that does nothing else counts as stuck.
            std::thread::sleep(PAUSE);
        }
    }
    lines.end();
    lines.last
}

/// Lines of another process in printable form.
struct Lines<W> {
    whom: String,
    to: W,
    line: Vec<u8>,
    last: String,
    left: usize,
}

impl<W: Write> Lines<W> {
    fn new(whom: String, to: W) -> Lines<W> {
        Lines { whom, to, line: Vec::new(), last: String::new(), left: SHOWN }
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().take(self.left) {
            match byte {
                b'\n' | b'\r' => self.put(),
                _ => self.line.push(*byte),
            }
            if self.line.len() >= LINE {
                self.put();
            }
        }
        if self.left > 0 && bytes.len() >= self.left {
            self.put();
            self.line.extend(b"(it says more, which is not shown)");
            self.put();
        }
        self.left = self.left.saturating_sub(bytes.len());
    }

    fn end(&mut self) {
        if self.left > 0 {
            self.put();
        }
    }

    fn put(&mut self) {
        if !self.line.is_empty() {
            // If standard error cannot be written, nobody is told.
            self.last = printable_bytes(&self.line).to_string();
            let _ = writeln!(self.to, "{}: {}", self.whom, self.last);
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(said: &[&[u8]]) -> String {
        let mut lines = Lines::new("there".into(), Vec::new());
        said.iter().for_each(|piece| lines.take(piece));
        lines.end();
        String::from_utf8(lines.to).unwrap()
    }

    #[test]
    fn each_line_is_marked_and_printable() {
        assert_eq!(
            shown(&[b"on", b"e\r\ntwo\x1b]0;x\x07", b"\xff"]),
            "there: one\nthere: two\\x1b]0;x\\x07\\xff\n"
        );
    }

    #[test]
    fn what_has_no_end_is_cut() {
        let said = shown(&[&[b'x'; 4096][..]; 1000]);
        assert!(
            said.len() < SHOWN + 100 * "there: \n".len() && said.lines().all(|line| line.len() <= LINE + 7)
        );
        assert!(
            said.ends_with("there: (it says more, which is not shown)\n"),
            "{}",
            &said[said.len() - 99..]
        );
    }
}
