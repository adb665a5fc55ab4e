//! The process that leads to another machine, and its children: none of them outlives the command.

use crate::process::overheard::Overheard;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use snapsync_model::{Context, Error, Monitor, Result, printable};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The time within which a process with nothing left to do ends.
const TO_END: Duration = Duration::from_secs(10);

/// A process that ends with its owner.
pub(crate) struct Process {
    child: Child,
    /// Whether it leads a process group of its own.
    leads: bool,
    /// Stops listening after the process has ended.
    _overheard: Option<Overheard>,
}

impl Process {
    /// Starts it with pipes for its input and output. Its standard error is shown as the words of `whom`.
    /// words.
    pub(crate) fn start(mut command: Command, whom: &str) -> Result<(Process, ChildStdin, ChildStdout)> {
        let program = command.get_program().to_owned();
        // If it may ask for a password, it stays in the group that may read the terminal.
        let leads = std::fs::File::open("/dev/tty").is_err();
        if leads {
            command.process_group(0);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start", &program)?;
        let said = child.stderr.take().map(|stderr| Overheard::of(stderr, printable(whom).into_owned()));
        let mut process = Process { child, leads, _overheard: said };
        match (process.child.stdin.take(), process.child.stdout.take()) {
            (Some(to), Some(from)) => Ok((process, to, from)),
            _ => Err(Error::failed(format!("cannot talk to {}", program.display()), "")),
        }
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Waits a reasonable time until it ends by itself, and returns its exit code. It is not reaped yet, so
    /// that no other process gets its number.
    pub(crate) fn wait(&self, monitor: &Monitor) -> Option<i32> {
        let deadline = Instant::now() + TO_END;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while monitor.check().is_ok() && Instant::now() < deadline {
            match waitid(WaitId::Pid(self.pid()?), options) {
                Ok(Some(status)) => return status.exit_status(),
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return None,
            }
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let (true, Some(pid)) = (self.leads, self.pid()) {
            // Its children may still exist though it has ended.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
