//! Rules that every row of a manifest must meet by itself.

use crate::vet::claim::Attempt;
use snapsync_model::{Attributes, Change, ChangeFlags, Kind, LONGEST_PATH, Link, ROOT, Rare, RelPath, Xattr};
use snapsync_sys::{NOCOW, REPLICATED_FLAGS, XFLAGS};

/// The kernel's limits for a name, a link's target, and an extended attribute.
const NAME: usize = 255;
const LINK_TARGET: usize = 4095;
const XATTR_NAME: usize = 255;
const XATTR_VALUE: usize = 64 << 10;
/// The name of the store at the root of a volume. No row may add it, at any depth; below the root it may be
/// removed, because older versions brought it there.
const STORE: &[u8] = b".snapsync";

pub(crate) fn vet(change: &Change) -> Attempt {
    paths(change)?;
    flags(change)?;
    names(change)?;
    change
        .new
        .iter()
        .chain(&change.old)
        .try_for_each(|attributes| self::attributes(change.kind, attributes))?;
    content(change)?;
    xattrs(change.xattrs.as_deref().unwrap_or_default())
}

fn paths(change: &Change) -> Attempt {
    for path in [&change.path, &change.old_path].into_iter().flatten() {
        let mut names = path.as_bytes().split(|byte| *byte == b'/');
        if path.is_root() != (change.ino == ROOT) {
            return Err("only inode 0 is the root");
        }
        if path.as_bytes().len() > LONGEST_PATH || names.clone().any(|name| name.len() > NAME) {
            return Err("its path is too long");
        }
        if names.next() == Some(STORE) {
            return Err("it is in the store");
        }
    }
    let is_in_a_store =
        |path: &RelPath| path.as_bytes().split(|byte| *byte == b'/').any(|name| name == STORE);
    if change.path.as_ref().is_some_and(is_in_a_store) {
        return Err("it would be in a store");
    }
    Ok(())
}

/// Checks that the flags agree with the rest of the row. Whether the right sides are present was checked
/// before.
fn flags(change: &Change) -> Attempt {
    let (created, deleted) = (change.flags.created, change.flags.deleted);
    let wanted = match (change.old, change.new) {
        (Some(old), Some(new)) => {
            let sizeless = |attributes| Attributes { size: 0, ..attributes };
            let (added, removed) = (change.links_added.len(), change.links_removed.len());
            ChangeFlags {
                renamed: added > 0 && removed > 0,
                links: added != removed,
                attributes: sizeless(old) != sizeless(new),
                data: change.kind == Kind::File && (!change.extents.is_empty() || old.size != new.size),
                // Some are sent though they did not change.
                xattrs: change.flags.xattrs && change.xattrs.is_some(),
                ..ChangeFlags::default()
            }
        }
        _ => ChangeFlags { created, deleted, ..ChangeFlags::default() },
    };
    if change.flags != wanted {
        return Err("its flags do not say what changed");
    }
    if change.xattrs.is_some() && deleted || change.xattrs.is_none() && created {
        return Err("it has not the extended attributes of its kind of change");
    }
    Ok(())
}

fn names(change: &Change) -> Attempt {
    change.links_removed.iter().try_for_each(name)?;
    change.links_added.iter().try_for_each(new_name)?;
    let (added, removed) = (change.links_added.len() as u64, change.links_removed.len() as u64);
    let (new, old) = (u64::from(change.nlink), u64::from(change.nlink_old));
    if change.ino == ROOT {
        let is_bare = (added, removed, new, old) == (0, 0, 0, 0);
        let is_root = change.kind == Kind::Directory && is_bare && !change.flags.deleted;
        return if is_root { Ok(()) } else { Err("the root has names, or goes, or is no directory") };
    }
    let is_sum = old + added == new + removed && removed <= old;
    let has_names = (new > 0) != change.flags.deleted && (old > 0) != change.flags.created;
    if !is_sum || !has_names {
        return Err("it has not as many names as it says");
    }
    if change.kind == Kind::Directory && new.max(old) > 1 {
        return Err("a directory has several names");
    }
    Ok(())
}

fn name(link: &Link) -> Attempt {
    if RelPath::root().join(&link.name).is_err() || link.name.len() > NAME {
        return Err("one of its names is none");
    }
    if link.parent == ROOT && *link.name == *STORE {
        return Err("it would be the store");
    }
    Ok(())
}

fn new_name(link: &Link) -> Attempt {
    if *link.name == *STORE { Err("it would be a store") } else { name(link) }
}

fn attributes(kind: Kind, attributes: &Attributes) -> Attempt {
    if attributes.mode > 0o7777 || attributes.flags & !REPLICATED_FLAGS != 0 {
        return Err("its mode or flags are none");
    }
    if attributes.uid == u32::MAX || attributes.gid == u32::MAX {
        return Err("nobody can own it");
    }
    let rare = attributes.rare;
    let has_rare = matches!(kind, Kind::File | Kind::Directory) && rare.project != u32::MAX;
    if rare.xflags & !XFLAGS != 0 || (!has_rare && rare != Rare::default()) {
        return Err("it cannot be of its project or be allocated like that");
    }
    if attributes.at_time(attributes.time()) != *attributes {
        return Err("its time is none");
    }
    if kind != Kind::File && attributes.size != 0 {
        return Err("only a file has a size");
    }
    Ok(())
}

/// Checks what only some kinds have.
fn content(change: &Change) -> Attempt {
    let target = change.symlink_target.as_deref();
    if target.is_some() != (change.kind == Kind::Symlink && !change.flags.deleted) {
        return Err("only a symbolic link points somewhere");
    }
    if target.is_some_and(|t| t.is_empty() || t.len() > LINK_TARGET || t.contains(&0)) {
        return Err("it cannot point there");
    }
    if !change.extents.is_empty() && (change.kind != Kind::File || change.flags.deleted) {
        return Err("only a file has data");
    }
    let (Some(old), Some(new)) = (change.old, change.new) else { return Ok(()) };
    let is_placed_otherwise =
        (old.flags ^ new.flags) & NOCOW != 0 || old.rare.extent_size != new.rare.extent_size;
    let cannot_change = change.kind == Kind::File && is_placed_otherwise;
    if cannot_change || old.rdev != new.rdev {
        return Err("an inode cannot change like that");
    }
    Ok(())
}

fn xattrs(xattrs: &[Xattr]) -> Attempt {
    let is_sound = |xattr: &Xattr| {
        let name = &xattr.name;
        let has_rest = name.iter().position(|byte| *byte == b'.').is_some_and(|dot| dot + 1 < name.len());
        has_rest && name.len() <= XATTR_NAME && !name.contains(&0) && xattr.value.len() <= XATTR_VALUE
    };
    if !xattrs.iter().all(is_sound) || !xattrs.is_sorted_by(|a, b| a.name < b.name) {
        return Err("its extended attributes are none");
    }
    Ok(())
}
