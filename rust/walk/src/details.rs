//! Reads the details of one inode.

use snapsync_model::{Context, Details, Inode, Kind, Layout, RelPath, Result};
use snapsync_sys::{FileSystem, Root, flags_and_rare_of, xattrs_of};
use std::fs::File;
use std::io;

/// The flags, extended attributes and link target of the inode at `path`, all on `filesystem`.
pub fn details_of(root: &Root, path: &RelPath, kind: Kind, filesystem: FileSystem) -> Result<Details> {
    read_details(root, path, kind, filesystem).context_at("read the attributes of", || root.show(path))
}

/// The same for a file or directory that is open for reading.
pub fn details_of_open(file: &File, filesystem: FileSystem) -> io::Result<Details> {
    let (flags, rare) = flags_and_rare_of(file, filesystem)?;
    Ok(Details { flags, rare, xattrs: xattrs_of(file)?, ..Details::default() })
}

fn read_details(root: &Root, path: &RelPath, kind: Kind, filesystem: FileSystem) -> io::Result<Details> {
    match kind {
        Kind::File | Kind::Directory => details_of_open(&root.read(path)?, filesystem),
        Kind::Symlink => {
            let entry = root.entry(path)?;
            let target = rustix::fs::readlinkat(entry.fd(), "", Vec::new())?.into_bytes();
            Ok(Details { xattrs: entry.xattrs()?, symlink_target: Some(target.into()), ..Details::default() })
        }
        _ => Ok(Details { xattrs: root.entry(path)?.xattrs()?, ..Details::default() }),
    }
}

/// Where `file` holds data. Does not ask the file system about a file that occupies no blocks.
pub fn layout_of(file: &File, inode: &Inode, filesystem: FileSystem) -> io::Result<Layout> {
    if inode.attributes.size == 0 && inode.blocks == 0 {
        return Ok(Layout::default());
    }
    snapsync_sys::layout(file, inode.attributes.size, filesystem)
}
