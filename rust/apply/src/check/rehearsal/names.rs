//! Names that the target does not hold, or takes for another name in the same directory.

use crate::check::rehearsal::trial::Rehearsal;
use crate::check::rehearsal::unseen::Unseen;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use snapsync_model::{Change, Context, Error, Link, Result};
use snapsync_sys::{fold_names_in, read_dir, stat_at};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Names that file systems refuse or change for different reasons. The first contains every byte that a name
/// can have.
const REASONS: [&[u8]; 6] = [b"x.", b"x ", b" x", b"NUL", b"com1.txt", b"ABC.TXT"];
/// The longest name on any file system.
const LENGTH: usize = 255;
/// A character of three bytes.
const WIDE: &str = "\u{4e00}";

impl Rehearsal<'_> {
    /// Tries the names that a row adds.
    pub(super) fn names(&mut self, change: &Change) -> Result<()> {
        for link in &change.links_added {
            if !is_plain(&link.name) && !self.holds_all_names()? {
                let held = self.holds_name(&link.name)?;
                held.map_err(|e| self.impossible(change, &format!("the name {}", show(&link.name)), &e))?;
            }
            if self.folds()? {
                self.beside_others(change, link, false)?;
            }
        }
        Ok(())
    }

    /// Whether one name finds another, in directories that are made like the stage.
    pub(crate) fn folds(&mut self) -> Result<bool> {
        if let Some(known) = self.names.folds {
            return Ok(known);
        }
        if let Some(unseen) = &self.unseen {
            return Ok(unseen.folds);
        }
        let pairs = [("a", "A"), ("\u{e9}", "e\u{301}")];
        let mut folds = false;
        for (name, other) in pairs {
            folds |= self
                .with_name(name.as_bytes(), |dir| Ok(stat_at(dir, OsStr::new(other)).is_ok()))?
                .unwrap_or(false);
        }
        self.names.folds = Some(folds);
        Ok(folds)
    }

    /// Tries a name in a directory together with the other names that are added to its directory. `folded`
    /// says that this directory folds names though others may not.
    pub(crate) fn beside_others(&mut self, change: &Change, link: &Link, folded: bool) -> Result<()> {
        if let Some(unseen) = &mut self.unseen {
            let other = unseen.other(link.parent, &link.name);
            return other.map_or(Ok(()), |other| Err(self.taken_for(change, &other)));
        }
        let at = format!("names-{}{}", link.parent, if folded { "-folded" } else { "" });
        let at = OsStr::from_bytes(at.as_bytes());
        let attempt = || -> io::Result<OwnedFd> {
            match rustix::fs::mkdirat(&self.dir, at, Mode::from_raw_mode(0o700)) {
                Err(rustix::io::Errno::EXIST) | Ok(()) => {}
                Err(e) => return Err(e.into()),
            }
            Ok(openat(&self.dir, at, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
        };
        let dir = attempt().context("try out what can be held by", self.root.path())?;
        if self.names.made.insert(at.as_bytes().to_vec()) && folded {
            fold_names_in(&dir).context("try out what can be held by", self.root.path())?;
        }
        match create(&dir, &link.name) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let other = real_name(&dir, &link.name);
                Err(self.taken_for(change, other.as_deref().unwrap_or(&link.name)))
            }
            Err(e) => Err(self.impossible(change, &format!("the name {}", show(&link.name)), &e)),
        }
    }

    /// The error for two names in a directory that the target takes for one.
    pub(crate) fn taken_for(&self, change: &Change, other: &[u8]) -> Error {
        Error::refused(
            format!(
                "{} cannot hold {}: its directory takes that name for {}",
                self.root.path().display(),
                change.display_path(),
                show(other),
            ),
            "rename one of them on the source, or use a target that tells them apart; nothing was changed",
        )
    }

    fn holds_all_names(&mut self) -> Result<bool> {
        if let Some(known) = self.names.holds_all {
            return Ok(known);
        }
        let bytes: Vec<u8> = (1..=u8::MAX).filter(|byte| *byte != b'/').collect();
        let (long, wide) = (vec![b'a'; LENGTH], WIDE.repeat(LENGTH / WIDE.len()).into_bytes());
        let mut holds_all = true;
        for name in REASONS.into_iter().chain([&*bytes, &*long, &*wide]) {
            holds_all = holds_all && self.holds_name(name)?.is_ok();
        }
        self.names.holds_all = Some(holds_all);
        Ok(holds_all)
    }

    fn holds_name(&self, name: &[u8]) -> Result<io::Result<()>> {
        if self.unseen.is_some() {
            return Ok(Unseen::holds_name(&self.dir, name));
        }
        let told = self.with_name(name, |dir| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            read_dir(openat(dir, ".", flags, Mode::empty())?)
        })?;
        Ok(told.and_then(|entries| {
            let is_told = entries.iter().any(|entry| *entry.name == *name);
            if is_told { Ok(()) } else { Err(io::Error::other("it becomes another")) }
        }))
    }

    /// Calls `look` while there is a file of that name; or returns why it cannot be made.
    fn with_name<T>(
        &self,
        name: &[u8],
        act: impl FnOnce(&OwnedFd) -> io::Result<T>,
    ) -> Result<io::Result<T>> {
        self.with_dir(|dir| {
            let dir = OwnedFd::from(dir.try_clone()?);
            Ok(create(&dir, name).and_then(|()| {
                let found = act(&dir);
                unlinkat(&dir, OsStr::from_bytes(name), AtFlags::empty())?;
                found
            }))
        })
    }
}

/// Whether every file system holds it.
fn is_plain(name: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let stem = name.split(|byte| *byte == b'.').next().unwrap_or_default().to_ascii_uppercase();
    let is_device = match stem.split_last_chunk::<1>() {
        Some((b"COM" | b"LPT", [number])) => number.is_ascii_digit(),
        _ => matches!(&*stem, b"CON" | b"PRN" | b"AUX" | b"NUL"),
    };
    name.len() <= 200 && !name.ends_with(b".") && !is_device && name.iter().all(is_plain)
}

fn create(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(dir, OsStr::from_bytes(name), flags, Mode::from_raw_mode(0o600))?;
    Ok(())
}

/// The name that a directory lists for the entry found under `name`.
pub(crate) fn real_name(dir: impl AsFd, name: &[u8]) -> Option<Box<[u8]>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let ino_of = |name: &[u8]| stat_at(&dir, OsStr::from_bytes(name)).ok().map(|stat| stat.ino);
    let ino = ino_of(name)?;
    let listed = read_dir(openat(&dir, ".", flags, Mode::empty()).ok()?).ok()?;
    let listed: Vec<Box<[u8]>> = listed.into_iter().map(|entry| entry.name).collect();
    let find = |is_it: &dyn Fn(&[u8]) -> bool| listed.iter().find(|listed| is_it(listed)).cloned();
    // Some file systems give an inode another number for each name that finds it.
    let folded = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    find(&|listed| *listed == *name)
        .or_else(|| find(&|listed| ino_of(listed) == Some(ino)))
        .or_else(|| find(&|listed| folded(listed) == folded(name)))
}

fn show(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(name))
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn plain_names_are_those_that_no_file_system_minds() {
        for name in ["a", "README.md", ".profile", "x-1_2", "console", "com", "com10"] {
            assert!(is_plain(name.as_bytes()), "{name}");
        }
        let long = "a".repeat(201);
        for name in ["a:", "x.", "x ", "nul", "Aux.txt", "COM1", "lpt9.log", "\u{e9}", "a*", &long] {
            assert!(!is_plain(name.as_bytes()), "{name}");
        }
    }
}
