//! Finds the holder of a lock by asking the kernel. Nothing is written down, so nothing can be out of date.

use std::fs::{File, Metadata, metadata, read_dir, read_to_string};
use std::os::unix::fs::MetadataExt;

/// The command and process id of the holder, if they can be found.
pub(crate) fn of(file: &File) -> Option<String> {
    let locked = file.metadata().ok()?;
    let locks = read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| pid_of(line, &locked).filter(|pid| has_open(pid, &locked)))?;
    Some(format!("{} (process {pid})", command_of(pid)?))
}

/// Parses `1: FLOCK  ADVISORY  WRITE 4711 00:2f:5678 0 EOF`. On Btrfs its device numbers differ from those of
/// stat(2).
fn pid_of<'a>(line: &'a str, locked: &Metadata) -> Option<&'a str> {
    let mut words = line.split_whitespace().skip(1);
    let (kind, pid, place) = (words.next()?, words.nth(2)?, words.next()?);
    let is_it = kind == "FLOCK" && place.rsplit(':').next()?.parse() == Ok(locked.ino());
    is_it.then_some(pid)
}

fn has_open(pid: &str, locked: &Metadata) -> bool {
    let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let mut open = read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.any(|entry| metadata(entry.path()).is_ok_and(|found| identity(&found) == identity(locked)))
}

/// `snapsync` with its verb; for another program only the name.
fn command_of(pid: &str) -> Option<String> {
    let line = read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split('\0').skip_while(|word| word.rsplit('/').next() != Some("snapsync")).skip(1);
    match words.find(|word| word.starts_with(|first: char| first.is_ascii_alphabetic())) {
        Some(verb) => Some(format!("snapsync {verb}")),
        None => read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned()),
    }
}
