//! Checks files that decide what is run, and as whom: they are read only if nobody but root and this user can
//! write them.

use rustix::fs::OFlags;
use snapsync_model::{Context, Error, Result};
use snapsync_sys::{Cause, Doubt, open_trusted};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Opens a file or a directory of files. `what` names it in messages, as in "the configuration".
pub fn trusted(what: &str, path: &Path) -> Result<OwnedFd> {
    believed(what, path, OFlags::RDONLY)?.context("open", path)
}

/// The path of a command's program.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = found(name).ok_or_else(|| {
        Error::usage(
            format!("there is no program {name}"),
            "install it, or name another one with its whole path",
        )
    })?;
    believed("the program", &path, OFlags::PATH)?.context("start", &path)?;
    Ok(path)
}

/// Checks the files that the words of a command name: identities, configurations, scripts.
pub(crate) fn files_named_in(words: &[String]) -> Result<()> {
    let pieces = words.iter().flat_map(|word| word.split(['=', ' ', '\t', ',', '"', '\'']));
    for piece in pieces {
        // For example in `-i/root/key`.
        let path = match piece.as_bytes() {
            [b'/', ..] => piece,
            [b'-', letter, b'/', ..] if letter.is_ascii_alphabetic() => &piece[2..],
            _ => continue,
        };
        match believed("the file", Path::new(path), OFlags::PATH)? {
            // The command itself reports a missing file.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            other => drop(other.context("look at", path)?),
        }
    }
    Ok(())
}

fn believed(what: &str, path: &Path, flags: OFlags) -> Result<io::Result<OwnedFd>> {
    match open_trusted(path, flags) {
        Ok(Ok(fd)) => Ok(Ok(fd)),
        Ok(Err(doubt)) => Err(refusal(what, path, &doubt)),
        Err(error) => Ok(Err(error)),
    }
}

fn refusal(what: &str, path: &Path, doubt: &Doubt) -> Error {
    let is_root = rustix::process::geteuid().is_root();
    let (culprit, path) = (doubt.path.display(), path.display());
    let (whose, who) = if is_root { ("root", "root") } else { ("you nor to root", "you and root") };
    let link = if doubt.is_link { "the link " } else { "" };
    let why = match doubt.cause {
        Cause::Owner(uid) if is_root => format!("{link}{culprit} belongs to user {uid}, and not to {whose}"),
        Cause::Owner(uid) => format!("{link}{culprit} belongs to user {uid}, neither to {whose}"),
        Cause::Mode(mode) => format!("others can write to {culprit}: its mode is {mode:04o}"),
    };
    let advice = match doubt.cause {
        Cause::Owner(_) => {
            format!("make it {who}'s where that is right, or put it where only {who} can write")
        }
        Cause::Mode(_) => format!("`chmod go-w {culprit}`, or put it where only {who} can write"),
    };
    Error::refused(format!("cannot trust {what} {path}: {why}"), advice)
}

/// The file that the name of a program leads to.
fn found(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    let places = std::env::var_os("PATH")?;
    let programs = std::env::split_paths(&places).map(|place| place.join(name));
    programs.filter(|path| path.is_absolute()).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
