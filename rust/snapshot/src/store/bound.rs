//! The `.snapsync` of a directory and the store in it, which are opened once beneath the directory, and
//! checked before they are trusted.
//!
//! The owner of a volume's directory may put anything there under that name, or exchange it between two
//! system calls. So it is opened without following a link or entering a mount, the opened directory is
//! checked, and everything else is done beneath it.

use crate::store::mark::Mark;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use snapsync_model::{Context, Error, Kind, RelPath, Result};
use snapsync_sys::btrfs::{ROOT_INODE, is_subvolume, subvolume};
use snapsync_sys::{Root, Spot, filesystem_uuid, has_stable_numbers, is_own, read_dir, stat_of, traits_of};
use snapsync_walk::STORE;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// The path of a volume's store below its root.
const BELOW: &str = ".snapsync/store";

/// The directory in `.snapsync` for entries that others put in the way of a commit. snapsync never removes
/// it.
pub(crate) const ASIDE: &[u8] = b"aside";

/// The directory in `.snapsync` with a directory for each part of the tree, which has what `.snapsync` has.
pub(crate) const PARTS: &[u8] = b"parts";

/// Ignores that a directory cannot be removed because it is not empty.
pub(crate) fn if_in_use(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::DirectoryNotEmpty { Ok(()) } else { Err(error) }
}

/// The identity of a volume's root as its store records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    /// The id of the file system, if it reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filesystem: Option<String>,
    /// The subvolume that contains it, if it is not one itself. A snapshot of that subvolume has the same
    /// numbers and birth times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<Uuid>,
    #[serde(flatten)]
    mark: Mark,
}

impl Bound {
    /// None if no identity is sure to survive a remount.
    pub(crate) fn of(root: &Root) -> Result<Option<Bound>> {
        let mark = Mark::of(root)?;
        let show = root.path();
        let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", show)?;
        let is_stable = has_stable_numbers(root.fd(), filesystem).context("read the attributes of", show)?;
        let is_known = mark.subvolume.is_some() || (mark.birth != 0 && is_stable);
        let around = || subvolume(root.fd()).ok().map(|around| Uuid::from_bytes(around.uuid));
        let within = if mark.subvolume.is_some() { None } else { around() };
        Ok(is_known.then(|| Bound { filesystem: filesystem_uuid(root.fd()), within, mark }))
    }

    /// Whether both are the same root. A kernel that cannot identify file systems contradicts nothing.
    pub(crate) fn is(&self, other: &Bound) -> bool {
        let filesystems = self.filesystem.as_ref().zip(other.filesystem.as_ref());
        let are_others = filesystems.is_some_and(|(one, other)| one != other)
            || self.within.zip(other.within).is_some_and(|(one, other)| one != other);
        // A subvolume is identified by its UUID, with which it may have been sent to another file system.
        if self.mark.subvolume.is_some() {
            self.mark.subvolume == other.mark.subvolume
        } else {
            !are_others && self.mark == other.mark
        }
    }
}

/// The same directory, with its `.snapsync` held open if it has one, or what stands for it in a part.
pub fn hold(root: Root) -> Result<Root> {
    let Some(directory) = directory_of(&root, &RelPath::new(STORE.as_bytes())?)? else { return Ok(root) };
    if traits_of(root.fd()).folds && !is_named(&root)? {
        return Ok(root);
    }
    let Some(part) = root.part() else { return Ok(root.holding(STORE.as_bytes(), directory)) };
    let below = RelPath::new(PARTS)?.join(part.as_bytes())?;
    let own = Root::of(directory, root.path().join(STORE));
    if directory_of(&own, &RelPath::new(PARTS)?)?.is_none() {
        return Ok(root);
    }
    let Some(directory) = directory_of(&own, &below)? else { return Ok(root) };
    let around = own.in_own_mount().try_clone_to_owned().context("open", own.path())?;
    Ok(root.holding_within(STORE.as_bytes(), around, below, directory))
}

/// A directory that nobody else may write in; None if there is none.
fn directory_of(root: &Root, at: &RelPath) -> Result<Option<OwnedFd>> {
    match root.open_at(at, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(misplaced(root, at, e)),
        Ok(directory) => expect_own(&directory, &root.show(at)).map(|()| Some(directory)),
    }
}

/// The directories of parts in a directory whose `.snapsync` need not be held. One that a crash has left may
/// have nothing in it.
pub(crate) fn parts_in(root: &Root) -> Result<Vec<String>> {
    let (parts, whole) = (RelPath::new(STORE.as_bytes())?.join(PARTS)?, hold(root.whole()?)?);
    let directory = if whole.holds() { directory_of(&whole, &parts)? } else { None };
    let Some(directory) = directory else { return Ok(Vec::new()) };
    let entries = read_dir(&directory).context("list", whole.show(&parts))?;
    let names = entries.iter().filter_map(|entry| std::str::from_utf8(&entry.name).ok());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// Makes the directory of a part, and that of all parts.
fn make_part(root: Root, part: &str) -> Result<Root> {
    let whole = hold_or_make(root.whole()?)?;
    let mut at = RelPath::new(STORE.as_bytes())?;
    for name in [PARTS, part.as_bytes()] {
        at = at.join(name)?;
        match whole.create_dir(&at, 0o700) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(e).context("create the directory", whole.show(&at));
            }
            _ => {}
        }
    }
    hold(root)
}

/// Removes the empty directory of a part, and that of all parts if this was the last one.
pub(crate) fn remove_part(root: &Root, part: &str) -> Result<()> {
    let own = Spot::top(Arc::new(hold(root.whole()?)?)).join(STORE);
    let parts = own.join(PARTS);
    for spot in [parts.join(part), parts] {
        spot.remove_dir().or_else(if_in_use).context("remove", spot.show())?;
    }
    Ok(())
}

/// The same, but makes a private `.snapsync` if there is none.
pub(crate) fn hold_or_make(root: Root) -> Result<Root> {
    let own = RelPath::new(STORE.as_bytes())?;
    let show = root.show(&own);
    let root = if root.holds() { root } else { hold(root)? };
    let part = root.part().map(str::to_owned);
    let root = if root.holds() {
        root
    } else if let Some(part) = part {
        make_part(root, &part)?
    } else {
        match root.create_dir(&own, 0o700) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(e).context("create the directory", show);
            }
            _ => hold(root)?,
        }
    };
    let dir = root.open_at(&own, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).context("open", &show)?;
    rustix::fs::fchmod(dir, Mode::RWXU).context("set the mode of", show)?;
    Ok(root)
}

/// Whether its name is exact: if the file system ignores case, another name may be found.
fn is_named(root: &Root) -> Result<bool> {
    let dir = root.open_at(&RelPath::root(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    let entries = dir.and_then(read_dir).context("read the directory", root.path())?;
    Ok(entries.iter().any(|entry| *entry.name == *STORE.as_bytes()))
}

/// The store of a directory with its `.snapsync` held open; None if there is none.
pub(crate) fn store_in(root: &Root) -> Result<Option<Root>> {
    if !root.holds() {
        return Ok(None);
    }
    let (below, flags) = (RelPath::new(BELOW.as_bytes())?, OFlags::RDONLY | OFlags::DIRECTORY);
    let show = root.show(&below);
    match root.open_at(&below, flags, Mode::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(misplaced(root, &below, e)),
        Ok(directory) => {
            let above = root.open_at(&RelPath::new(STORE.as_bytes())?, flags, Mode::empty());
            let above = above.and_then(stat_of).context("read the attributes of", &show)?;
            // Nobody else can enter it if nobody else can enter its parent.
            match above.attributes.mode & 0o077 {
                0 => owned(&directory, &show).map(drop)?,
                _ => expect_own(&directory, &show)?,
            }
            Ok(Some(Root::of(directory, show)))
        }
    }
}

fn misplaced(root: &Root, at: &RelPath, error: io::Error) -> Error {
    let show = root.show(at);
    let is_link = || root.entry(at).and_then(|entry| entry.stat()).is_ok_and(|it| it.kind == Kind::Symlink);
    let why = match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => "is a link",
        Some(Errno::NOTDIR) if is_link() => "is a link",
        Some(Errno::NOTDIR) => "is no directory",
        Some(Errno::XDEV) => "is a mount",
        _ => return Error::Io { action: "open", path: show, source: error },
    };
    Error::refused(
        format!("{} {why}: a store lies in the directory it belongs to", show.display()),
        "somebody has put it there: look at it, and remove it or move it away",
    )
}

fn owned(directory: impl AsFd, show: &Path) -> Result<u32> {
    let stat = stat_of(&directory).context("read the attributes of", show)?;
    if is_own(&stat) {
        return Ok(stat.attributes.mode);
    }
    let show = show.display();
    Err(Error::refused(
        format!("{show} belongs to user {}, who could have written anything into it", stat.attributes.uid),
        format!(
            "run this as that user; or, if you know how it came there, give it with all that is in it to the \
             user who \
             runs snapsync (`chown -hR USER {show}`), and `snapsync recover VOLUME --adopt`"
        ),
    ))
}

/// An access list that lets others write shows in the group bits of the mode.
fn expect_own(directory: &OwnedFd, show: &Path) -> Result<()> {
    let mode = owned(directory, show)?;
    if mode & 0o022 == 0 || !keeps_modes(directory, mode).context("set the mode of", show)? {
        return Ok(());
    }
    let show = show.display();
    Err(Error::refused(
        format!("others may write in {show}, and could have put anything into it"),
        format!("look at what is in it, then `chmod 700 {show}`"),
    ))
}

/// Whether the file system keeps modes; otherwise whoever mounts it decides who may write. The trial uses a
/// bit that lets nobody in or out, because an interruption must not leave a directory that looks closed.
fn keeps_modes(directory: &OwnedFd, mode: u32) -> io::Result<bool> {
    let other = (mode & 0o7777) ^ 0o1000;
    let is_kept = match rustix::fs::fchmod(directory, Mode::from_raw_mode(other)) {
        Ok(()) => stat_of(directory)?.attributes.mode & 0o7777 == other,
        // The owner can set a mode if there are modes; for others this shows nothing.
        Err(Errno::PERM) => {
            return Ok(stat_of(directory)?.attributes.uid != rustix::process::geteuid().as_raw());
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => false,
        Err(e) => return Err(e.into()),
    };
    if is_kept {
        rustix::fs::fchmod(directory, Mode::from_raw_mode(mode & 0o7777))?;
    }
    Ok(is_kept)
}

/// Refuses a store that contains anything but files and directories of its owner, except the trees of its
/// snapshots, which are subvolumes, and the link that names the newest.
pub(crate) fn look_through(own: &Spot) -> Result<()> {
    let store = own.join("store");
    let mut waiting = vec![own.clone()];
    while let Some(dir) = waiting.pop() {
        let list = dir.list().context("list", dir.show())?;
        // Each part of the tree is looked through by itself.
        let is_other = |name: &[u8]| dir.rel() == own.rel() && matches!(name, b"latest" | PARTS);
        for entry in list.iter().filter(|entry| !is_other(&entry.name)) {
            let spot = dir.join(&entry.name);
            let stat = spot.stat().context("read the attributes of", spot.show())?;
            let may_be_one = stat.ino == ROOT_INODE && spot.rel() != store.rel();
            match stat.kind {
                Kind::Directory
                    if may_be_one
                        && spot.tree().is_ok_and(|tree| is_subvolume(tree.fd()).unwrap_or(false)) => {}
                Kind::Directory => waiting.push(spot),
                _ => drop(spot.open().context("open", spot.show())?),
            }
        }
    }
    Ok(())
}

/// The error for a store that belongs to another directory, or to none.
pub(crate) fn is_of_another(root: &Root) -> Error {
    let show = root.title().display();
    let own = root.path().join(STORE);
    let own = root.part().map_or_else(|| own.clone(), |part| own.join(OsStr::from_bytes(PARTS)).join(part));
    Error::refused(
        format!(
            "the store in {show} belongs to another directory: it was moved, copied or restored to where it \
             is"
        ),
        format!(
            "if that was you, and {show} is to go on with it, `snapsync recover {show} --adopt`; else `rm -r \
             {}` \
             takes that store away",
            own.display()
        ),
    )
}
