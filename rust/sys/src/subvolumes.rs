//! Finds subvolumes of Btrfs: by their UUIDs, as `btrfs receive` does, and those that lie in a directory.

use crate::btrfs::{Key, ROOT_TREE, Search, UUID_TREE, filesystem_id, subvolume, u16_at, u64_at};
use crate::ioctl;
use crate::mounts::{Mount, mounts};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const INO_LOOKUP: u64 = 0xd000_9412;
const GET_SUBVOL_ROOTREF: u64 = 0xd000_943d;
const INO_LOOKUP_USER: u64 = 0xd000_943e;
/// The top-level subvolume, which contains all others.
const TOP: u64 = 5;
const ROOT_BACKREF: u32 = 144;
const OWN: u32 = 251;
const RECEIVED: u32 = 252;

#[repr(C)]
struct InodeLookup {
    tree: u64,
    ino: u64,
    path: [u8; 4080],
}

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
struct Nested {
    from: u64,
    /// Each with its tree and the directory that it is in.
    found: [(u64, u64); 255],
    count: u8,
    unused: [u8; 7],
}

/// `struct btrfs_ioctl_ino_lookup_user_args`.
#[repr(C)]
struct NestedName {
    directory: u64,
    tree: u64,
    name: [u8; 256],
    path: [u8; 3824],
}

/// The paths of the subvolumes below the directory `fd`, from there on, but not of those inside of others.
/// One below a directory that this user may not enter is left out. Needs no privilege.
pub fn subvolumes_beneath(fd: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut paths = Vec::new();
    let mut request = Nested { from: 0, found: [(0, 0); 255], count: 0, unused: [0; 7] };
    loop {
        // SAFETY: GET_SUBVOL_ROOTREF reads and writes a struct of 4,096 bytes that is plain integers.
        let is_last = match unsafe { ioctl::call(&fd, GET_SUBVOL_ROOTREF, &mut request) } {
            Err(e) if e.raw_os_error() == Some(libc::EOVERFLOW) => false,
            other => other.map(|_| true)?,
        };
        for (tree, directory) in &request.found[..usize::from(request.count)] {
            paths.extend(path_beneath(&fd, *tree, *directory)?);
        }
        if is_last {
            return Ok(paths);
        }
    }
}

/// None for one that is not below the directory, may not be reached, or was removed meanwhile.
fn path_beneath(fd: impl AsFd, tree: u64, directory: u64) -> io::Result<Option<Vec<u8>>> {
    let mut request = NestedName { directory, tree, name: [0; 256], path: [0; 3824] };
    // SAFETY: INO_LOOKUP_USER reads and writes a struct of 4,096 bytes that is plain integers.
    match unsafe { ioctl::call(fd, INO_LOOKUP_USER, &mut request) } {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EACCES)) => return Ok(None),
        other => other?,
    };
    let text = |bytes: &[u8]| bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    // The path ends with a slash unless it is empty.
    Ok(Some([text(&request.path), text(&request.name)].concat()))
}

/// The paths of the subvolumes on the file system of `fd` that have `uuid` or were received with it, each
/// once, if a mount leads to them. Needs CAP_SYS_ADMIN.
pub fn subvolumes_known_as(fd: impl AsFd, uuid: [u8; 16]) -> io::Result<Vec<PathBuf>> {
    let filesystem = filesystem_id(&fd)?;
    let mut trees = trees(&fd, RECEIVED, uuid)?;
    trees.append(&mut self::trees(&fd, OWN, uuid)?);
    let mut found = Vec::new();
    for tree in trees {
        let places = path_of(&fd, tree)?.map_or_else(|| Ok(Vec::new()), |path| reached(&path))?;
        // Another file system, or another mount over it, may be at that path.
        let is_it = |place: &PathBuf| {
            let dir = File::open(place)?;
            io::Result::Ok(filesystem_id(&dir)? == filesystem && subvolume(&dir)?.tree == tree)
        };
        found.extend(places.into_iter().find(|place| is_it(place).unwrap_or(false)));
    }
    Ok(found)
}

/// The trees that the UUID tree lists for one UUID.
fn trees(fd: impl AsFd, kind: u32, uuid: [u8; 16]) -> io::Result<Vec<u64>> {
    let halves = (u64_at(&uuid, 0), u64_at(&uuid, 8));
    let (Some(objectid), Some(offset)) = halves else { return Ok(Vec::new()) };
    let key = Key { objectid, kind, offset };
    let mut found = Vec::new();
    Search::of_tree(UUID_TREE).each(fd, (key, key), 0, &mut |_, item| {
        found.extend((0..item.len() / 8).filter_map(|at| u64_at(item, at * 8)));
        Ok(())
    })?;
    Ok(found)
}

/// The path of a subvolume from the top-level one; None if it has none, for example while it is being
/// deleted.
fn path_of(fd: impl AsFd, mut tree: u64) -> io::Result<Option<PathBuf>> {
    let mut names = Vec::new();
    while tree != TOP {
        let Some((parent, directory, name)) = place(&fd, tree)? else { return Ok(None) };
        let mut request = InodeLookup { tree: parent, ino: directory, path: [0; 4080] };
        // SAFETY: INO_LOOKUP reads and writes a struct btrfs_ioctl_ino_lookup_args of 4,096 bytes.
        unsafe { ioctl::call(&fd, INO_LOOKUP, &mut request) }?;
        let length = request.path.iter().position(|byte| *byte == 0).unwrap_or(0);
        // It ends with a slash unless it is empty.
        names.push([&request.path[..length], &name].concat());
        tree = parent;
    }
    names.reverse();
    Ok(Some(PathBuf::from(OsStr::from_bytes(&[b"/", &names.join(&b'/')[..]].concat()))))
}

/// The tree and the directory that hold a subvolume, and its name there: `struct btrfs_root_ref`.
fn place(fd: impl AsFd, tree: u64) -> io::Result<Option<(u64, u64, Vec<u8>)>> {
    let key = |offset| Key { objectid: tree, kind: ROOT_BACKREF, offset };
    let mut found = None;
    Search::of_tree(ROOT_TREE).each(fd, (key(0), key(u64::MAX)), 0, &mut |key, item| {
        let name = u16_at(item, 16).and_then(|length| item.get(18..18 + usize::from(length)));
        found = u64_at(item, 0).zip(name).map(|(directory, name)| (key.offset, directory, name.to_vec()));
        Ok(())
    })?;
    Ok(found)
}

/// The possible paths of a file system's path where it is mounted, on every Btrfs.
fn reached(path: &Path) -> io::Result<Vec<PathBuf>> {
    let beneath = |mount: Mount| Some(mount.point.join(path.strip_prefix(&mount.root).ok()?));
    Ok(mounts()?.into_iter().filter(|mount| mount.kind == b"btrfs").filter_map(beneath).collect())
}

const _: () = assert!(size_of::<InodeLookup>() == 4096);
const _: () = assert!(size_of::<Nested>() == 4096);
const _: () = assert!(size_of::<NestedName>() == 4096);
