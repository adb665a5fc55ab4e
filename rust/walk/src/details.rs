//! Reads the details of one inode.

use snapsync_model::{Context, Details, Inode, Kind, Layout, RelPath, Result};
use snapsync_sys::{FileSystem, Root, flags_of, rare_of, xattrs_of};
use std::fs::File;
use std::io;

/// The flags, extended attributes and link target of the inode at `path`.
pub fn details_of(root: &Root, path: &RelPath, kind: Kind) -> Result<Details> {
    read_details(root, path, kind).context("read the attributes of", root.show(path))
}

/// The same for a file or directory that is open for reading.
pub fn details_of_open(file: &File) -> io::Result<Details> {
    Ok(Details {
        flags: flags_of(file)?,
        rare: rare_of(file)?,
        xattrs: xattrs_of(file)?,
        ..Details::default()
    })
}

fn read_details(root: &Root, path: &RelPath, kind: Kind) -> io::Result<Details> {
    match kind {
        Kind::File | Kind::Directory => details_of_open(&root.read(path)?),
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
