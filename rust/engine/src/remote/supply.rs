//! Chooses where the bytes of a snapshot are taken from: its own volume, or a standby that has it too.

use crate::delta::completed::Completed;
use crate::delta::incoming::nonsense;
use crate::delta::landing::{Content, Filling, RestoreTarget, lost_in};
use crate::delta::sides::Sides;
use crate::location::directory::{open_directory, open_volume};
use crate::location::text::{Address, Location};
use crate::options::{SshOptions, Supply, Terms};
use crate::remote::asked::ask_at;
use crate::remote::fetched::{Fetched, expect_kin};
use crate::remote::question::Question;
use crate::report::snapshots::Named;
use crate::volume::lost::MOST;
use crate::volume::replacement::Replacement;
use snapsync_model::{Error, Inode, Monitor, RelPath, Result, Side, SnapshotInfo};
use snapsync_snapshot::Volume;
use snapsync_sys::fault;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use uuid::Uuid;

/// The content of a snapshot, or of some paths of it: that of the standby that was named, else that of its
/// own volume, or of a recorded standby on this machine where the volume has lost some of it.
pub(crate) fn content<'a>(
    volume: &Volume,
    snapshot: &SnapshotInfo,
    paths: &[RelPath],
    supply: &'a Supply,
    monitor: &'a Monitor,
) -> Result<Box<dyn Filling + 'a>> {
    if let Some(standby) = &supply.standby {
        let location = Location::parse(standby)?;
        let Some(address) = location.there() else {
            return Ok(Box::new(on_this_machine(&location.whole(), volume, snapshot, paths, monitor)?));
        };
        let of = (volume.info().lineage, snapshot);
        let fetched = Fetched::ask(&address, &supply.ssh, of, paths, monitor)?;
        return Ok(Box::new(fetched.owned(volume.accounts_of(snapshot).cloned())));
    }
    let own = Content::new(volume, snapshot, paths, monitor)?;
    match own.expect_whole(monitor) {
        Ok(()) => Ok(Box::new(own)),
        Err(Error::Lost { what, .. }) => Ok(Box::new(recorded(what, volume, snapshot, paths, monitor)?)),
        Err(error) => Err(error),
    }
}

/// The snapshot that `[user@]host:VOLUME@SNAP` names, and the address of its volume.
pub(crate) fn named_there(
    location: &Location,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<(Address, Named)> {
    let whole = location.there().filter(|_| location.snapshot.is_some()).ok_or_else(|| {
        Error::usage(
            format!("{location} does not name a snapshot"),
            "write [user@]host:VOLUME@SNAP; `snapsync list` shows the snapshots there",
        )
    })?;
    let text = ask_at(&whole, Question::Snapshot, None, ssh, monitor)?;
    let host = Path::new(&whole.host.to_string()).to_path_buf();
    let named = serde_json::from_str(&text).map_err(|_| nonsense(&host, "what is no snapshot"))?;
    let path = location.path.as_os_str().as_bytes().to_vec();
    Ok((Address { path, ..whole }, named))
}

/// Its content, or that of some paths of it.
pub(crate) fn from_there<'a>(
    address: &Address,
    ssh: &SshOptions,
    named: &Named,
    paths: &[RelPath],
    monitor: &'a Monitor,
) -> Result<Box<dyn Filling + 'a>> {
    let of = (named.volume.lineage, &named.snapshot);
    Ok(Box::new(Fetched::ask(address, ssh, of, paths, monitor)?))
}

/// Brings the bytes that a volume has lost of the target of two of its snapshots, into a place in its store
/// that the next command clears.
pub(crate) fn complete(
    sides: Sides,
    volume: &Volume,
    snapshot: &SnapshotInfo,
    supply: &Supply,
    monitor: &Monitor,
) -> Result<Sides> {
    let lost = lost_in(&*sides.target, usize::MAX, monitor)?;
    if lost.is_empty() {
        return Ok(sides);
    }
    let stage = Replacement::make(volume)?;
    let (mut brought, mut rest) = (Vec::new(), lost.as_slice());
    while !rest.is_empty() {
        let paths = fitting(&*sides.target, rest)?;
        let (now, later) = rest.split_at(paths.len());
        let directory = stage.root.make_directory(OsStr::new(&brought.len().to_string()))?;
        let mut content = content(volume, snapshot, &paths, supply, monitor)?;
        RestoreTarget::made(directory.again()?).fill(&mut *content, Terms::default(), monitor)?;
        fault::point("restore.fetched");
        brought.push((directory, now));
        rest = later;
    }
    Ok(sides.with_target(|target| {
        let mut completed = Completed::new(target);
        brought.into_iter().for_each(|(directory, inodes)| completed.take(directory, inodes));
        Box::new(completed)
    }))
}

/// The paths of the first of some files: as many as are told in one message.
fn fitting(side: &dyn Side, inodes: &[Inode]) -> Result<Vec<RelPath>> {
    let (mut paths, mut bytes) = (Vec::new(), 0);
    for inode in inodes {
        let path = side.path(inode)?;
        bytes += path.as_bytes().len();
        if bytes >= MOST && !paths.is_empty() {
            break;
        }
        paths.push(path);
    }
    Ok(paths)
}

fn on_this_machine(
    standby: &Path,
    volume: &Volume,
    snapshot: &SnapshotInfo,
    paths: &[RelPath],
    monitor: &Monitor,
) -> Result<Content> {
    let standby = open_volume(standby)?;
    let (own, theirs) = (volume.info(), standby.info());
    expect_kin(&theirs, own.lineage)?;
    if own.id == theirs.id {
        return Err(Error::usage(
            format!("{} is the volume itself, or a copy of it", theirs.path.display()),
            "name a standby of it",
        ));
    }
    let Some(held) = standby.snapshots()?.into_iter().find(|held| held.id == snapshot.id) else {
        return Err(Error::usage(
            format!("{} does not have snapshot {}", theirs.path.display(), snapshot.name),
            format!("`snapsync list {}` shows what it has", theirs.path.display()),
        ));
    };
    let content = Content::new(&standby, &held, paths, monitor)?.owned(Some(volume));
    content.expect_whole(monitor).map(|()| content)
}

/// The content of the first recorded standby here that has all of it. One on another machine is only named:
/// what a peer once said of itself is not called unasked.
fn recorded(
    lost: String,
    volume: &Volume,
    snapshot: &SnapshotInfo,
    paths: &[RelPath],
    monitor: &Monitor,
) -> Result<Content> {
    let (mut others, mut logs) = (Vec::new(), Vec::new());
    for (id, standby) in volume.standbys() {
        let location = Location::known(Path::new(&standby.path));
        if location.host.is_none() && is_volume(&location.whole(), *id) {
            if let Ok(content) = on_this_machine(&location.whole(), volume, snapshot, paths, monitor) {
                monitor.note(format!("{lost}: all is taken from {}", standby.path));
                return Ok(content);
            }
        } else if location.is_log {
            logs.push(format!("`snapsync restore {}@{} PATH --to DIR`", standby.path, snapshot.name));
        } else {
            others.push(format!("`--from {}`", standby.path));
        }
    }
    let (name, address) = (&snapshot.name, volume.address_of(&snapshot.name));
    let address = address.display();
    let advice = if others.is_empty() && !logs.is_empty() {
        format!("take the paths from the log: {}", logs.join(" or "))
    } else if others.is_empty() {
        format!(
            "name a standby that has snapshot {name} with --from; if none has it, `snapsync delete \
             {address}` takes it off the list, and paths that are whole can be restored by themselves"
        )
    } else {
        format!("add {} to the command, if that standby has snapshot {name} whole", others.join(" or "))
    };
    Err(Error::Lost { what: lost, advice })
}

fn is_volume(path: &Path, id: Uuid) -> bool {
    let volume = open_directory(path).and_then(Volume::find_in);
    volume.is_ok_and(|volume| volume.is_some_and(|volume| volume.info().id == id))
}
