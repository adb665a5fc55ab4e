//! Makes a volume, or a log.

use crate::location::directory::open_directory;
use crate::location::logs;
use crate::report::volumes::Initialised;
use crate::volume::made::{can_be_kept, choose_history, tell_what_it_lies_in};
use crate::volume::recovery;
use snapsync_log::{Log, LogAddress};
use snapsync_model::{Error, History, Monitor, Result, Role};
use snapsync_snapshot::{Volume, is_vacant_in};
use std::path::Path;
use uuid::Uuid;

/// Makes a directory a volume, or changes how one is kept. With `read_only` a new one becomes a standby of
/// whichever primary is synced to it first.
/// `encrypt_to` are the recipients of age to whom a new log is encrypted.
/// `history` is what it keeps of older snapshots as a primary; a new one keeps nothing by itself where blocks
/// cannot be shared.
pub fn init(
    path: &Path,
    read_only: Option<bool>,
    history: Option<History>,
    encrypt_to: &[String],
    monitor: &Monitor,
) -> Result<Initialised> {
    if let Some(log) = LogAddress::parse(path)? {
        return begin_log(&log, read_only, history, encrypt_to);
    }
    if !encrypt_to.is_empty() {
        return Err(Error::usage(
            format!("{} is no log: only logs are encrypted", path.display()),
            "leave out --encrypt-to",
        ));
    }
    let root = open_directory(path)?;
    can_be_kept(&root, read_only == Some(true))?;
    let found = Volume::find_in(root.again()?)?;
    let is_new = found.is_none();
    if is_new {
        tell_what_it_lies_in(&root, monitor);
    }
    let volume = match found {
        Some(volume) => volume,
        None if read_only == Some(true) => {
            if !is_vacant_in(&root)? {
                return Err(Error::refused(
                    format!("{} is not empty, and a standby begins empty", root.title().display()),
                    "name an empty directory; a primary is made without --read-only",
                ));
            }
            Volume::init_in(root, Role::Standby, Uuid::nil(), 1)?
        }
        None => Volume::init_in(root, Role::Primary, Uuid::new_v4(), 1)?,
    };
    let (mut volume, recovered) = recovery::lock(&volume, monitor)?;
    if let Some(read_only) = read_only {
        volume.set_read_only(read_only)?;
    }
    let chosen = match history {
        Some(history) => volume.set_history(history),
        None if is_new && volume.info().role == Role::Primary => choose_history(&mut volume, monitor),
        None => Ok(()),
    };
    if let Err(error) = chosen {
        if is_new {
            volume.remove_store()?;
        }
        return Err(error);
    }
    let (volume, read_only) = (volume.info(), volume.is_read_only());
    Ok(Initialised { verb: "init", volume, read_only, recovered, notes: monitor.take_notes() })
}

fn begin_log(
    log: &LogAddress,
    read_only: Option<bool>,
    history: Option<History>,
    encrypt_to: &[String],
) -> Result<Initialised> {
    if read_only.is_some() || history.is_some() {
        return Err(Error::usage(
            format!("{log} is a log: what is kept of a tree is a matter of volumes"),
            "leave out --read-only and --history",
        ));
    }
    let log = Log::init(log, encrypt_to)?;
    let newest = log.head()?.map(|(newest, _)| newest);
    let volume = logs::info(&log, newest.as_ref(), Role::Standby);
    let key = log.key_path();
    let advice =
        if log.is_encrypted() { "an identity opens the copy in the log" } else { "keep a copy of it" };
    let notes = vec![format!("the key that signs for it is {}: {advice}", key.display())];
    Ok(Initialised { verb: "init", volume, read_only: false, recovered: Vec::new(), notes })
}
