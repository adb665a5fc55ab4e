//! Finds subvolumes of a Btrfs file system by their UUIDs, as `btrfs receive` does.

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
