//! A command of the user's: it is believed before anything begins, runs in a process group of its own, and is
//! ended with that group when it takes too long.

use crate::process::overheard::Overheard;
use crate::process::trust;
use rustix::process::{Pid, Signal, kill_process_group};
use snapsync_model::{Context, Error, Monitor, Result};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(5);

/// A command that was found and is believed. Its output is shown after its name.
pub(super) struct Words {
    pub(super) name: &'static str,
    program: PathBuf,
    words: Vec<String>,
}

/// What a command is told, and how it is run.
pub(super) struct Running<'a> {
    pub(super) environment: Vec<(&'static str, String)>,
    /// What stands for something else in its words, in braces.
    pub(super) places: Vec<(&'static str, String)>,
    pub(super) patience: Duration,
    /// The option that says how long it may take.
    pub(super) option: &'static str,
    /// What is so if it fails.
    pub(super) then: &'static str,
    /// Where its standard output goes, if not to who runs this.
    pub(super) output: Option<File>,
    pub(super) monitor: &'a Monitor,
}

impl Words {
    pub(super) fn find(name: &'static str, words: &[String]) -> Result<Option<Words>> {
        let Some(program) = words.first() else { return Ok(None) };
        Ok(Some(Words { name, program: trust::program(program)?, words: words.to_vec() }))
    }

    /// Runs it, and fails where it does. A process that it has left in the background goes on.
    pub(super) fn run(&self, how: Running<'_>) -> Result<()> {
        let words: Vec<String> = self.words.iter().map(|word| filled(word, &how.places)).collect();
        let mut command = Command::new(&self.program);
        command.arg0(&words[0]).args(&words[1..]).envs(how.environment);
        let (ended, last_words) = self.wait_for(command, how.output, how.patience, how.monitor)?;
        let why = match ended {
            Some(status) if status.success() => return Ok(()),
            Some(status) => status.to_string(),
            None => format!("it took longer than {} seconds, and was ended", how.patience.as_secs()),
        };
        let said = if last_words.is_empty() { String::new() } else { format!(", and said: {last_words}") };
        Err(Error::failed(
            format!("{} `{}` failed ({why}){said}", self.name, words.join(" ")),
            format!("{}: try the command by hand; {} says how long it may take", how.then, how.option),
        ))
    }

    /// Its exit status, None where it took too long, and the last line that it wrote.
    fn wait_for(
        &self,
        mut command: Command,
        output: Option<File>,
        patience: Duration,
        monitor: &Monitor,
    ) -> Result<(Option<ExitStatus>, String)> {
        let (said, to) = std::io::pipe().context("make a pipe for", &self.program)?;
        let also = to.try_clone().context("make a pipe for", &self.program)?;
        command.stdin(Stdio::null()).stderr(to).process_group(0);
        command.stdout(output.map_or_else(|| Stdio::from(also), Stdio::from));
        let mut child = command.spawn().context("start", &self.program)?;
        // Its ends of the pipe are the child's alone from here on.
        drop(command);
        let said = Overheard::of(said, self.name.to_owned());
        let ended = wait(&mut child, patience, monitor);
        if !matches!(ended, Ok(Some(_))) {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
        }
        let last_words = said.last_words();
        Ok((ended?, last_words))
    }
}

/// A text with what its names in braces stand for.
pub(super) fn filled(text: &str, places: &[(&'static str, String)]) -> String {
    places.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// Waits until it ends; None if it takes too long.
fn wait(child: &mut Child, patience: Duration, monitor: &Monitor) -> Result<Option<ExitStatus>> {
    let started = Instant::now();
    while started.elapsed() < patience {
        if let Some(status) = child.try_wait().context("wait for", "a command")? {
            return Ok(Some(status));
        }
        monitor.check()?;
        std::thread::sleep(TICK);
    }
    Ok(None)
}
