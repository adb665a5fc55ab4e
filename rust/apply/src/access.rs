//! The rights to a file while it changes: nobody has more of them than before, or more than after.

use snapsync_model::{Attributes, Change, Kind, Xattr};
use snapsync_sys::{PROTECTIVE, acl};

/// Whether the row changes who may use the file.
pub(crate) fn changes(change: &Change) -> bool {
    let who = |side: Option<Attributes>| side.map(|a| (a.mode, a.uid, a.gid));
    change.survives()
        && change.kind != Kind::Symlink
        && (change.flags.xattrs || who(change.old) != who(change.new))
}

/// Whether running the file gives rights of its owner, its group, or its capabilities.
pub(crate) fn lends_rights(change: &Change) -> bool {
    let has_capabilities = |xattr: &Xattr| &*xattr.name == acl::CAPABILITIES;
    change.kind == Kind::File
        && change.survives()
        && (change.new.is_some_and(|new| new.mode & 0o6000 != 0)
            || change.xattrs.iter().flatten().any(has_capabilities))
}

/// The owner and mode of an inode between its old and its new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// It belongs to this process alone: an owner could open it again.
    Taken,
    /// The bits that its mode keeps, and those that it gets.
    Narrowed { kept: u32, gets: u32 },
}

/// None if it stays as it is. `moves` says that directories move, `lists` that the access list changes.
pub(crate) fn meanwhile(change: &Change, moves: bool, lists: bool) -> Option<Meanwhile> {
    if change.flags.deleted {
        return change.old.filter(|old| old.flags & PROTECTIVE != 0).map(|_| Meanwhile::Taken);
    }
    let (old, new) = change.old.zip(change.new)?;
    if !change.survives() || change.kind == Kind::Symlink {
        return None;
    }
    // While flags are cleared, nobody may get what they forbid.
    let is_protected = (old.flags | new.flags) & PROTECTIVE != 0;
    if old.uid != new.uid || is_protected || is_elsewhere(change, moves) {
        return Some(Meanwhile::Taken);
    }
    // With other bytes it is another program.
    let set_id = if change.flags.data || old.gid != new.gid { 0 } else { 0o6000 };
    // The members of the group or of the list may change.
    let class = if lists || old.gid != new.gid { 0o700 } else { 0o777 };
    let kept = old.mode & new.mode & (class | set_id);
    // The sticky bit takes rights away.
    let gets = (old.mode | new.mode) & 0o1000;
    Some(Meanwhile::Narrowed { kept, gets })
}

/// The attributes of something that belongs to this process alone.
pub(crate) fn taken(kind: Kind, attributes: &Attributes) -> Attributes {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Attributes { mode: rights_to_work(kind), uid, gid, ..*attributes }
}

/// The rights that the commit itself needs.
pub(crate) fn rights_to_work(kind: Kind) -> u32 {
    if kind == Kind::Directory { 0o700 } else { 0o600 }
}

/// Whether the readable content changes, or the directories that lead to it.
fn is_elsewhere(change: &Change, moves: bool) -> bool {
    let flags = change.flags;
    let has_names = !(change.links_added.is_empty() && change.links_removed.is_empty());
    change.kind != Kind::Directory && (flags.data || flags.xattrs) && (moves || has_names)
}

/// Whether somebody may be unable to use it meanwhile who can before or after.
pub(crate) fn is_narrowed(change: &Change, moves: bool) -> bool {
    let old = change.old.map_or(0, |old| old.mode);
    let is_other = match meanwhile(change, moves, change.flags.xattrs) {
        None => false,
        Some(Meanwhile::Taken) => true,
        Some(Meanwhile::Narrowed { kept, gets }) => old != kept | gets,
    };
    changes(change) || is_other
}

/// Whether the access list changes.
pub(crate) fn changes_list(change: &Change, now: Option<&[u8]>) -> bool {
    let mode = change.new.map_or(0, |new| new.mode);
    let wanted = change.xattrs.as_deref().and_then(acl::access_list).map(|list| acl::beside(list, mode));
    change.flags.xattrs && now != wanted.as_deref()
}

/// Whether it may be a program with capabilities that becomes another.
pub(crate) fn loses_capabilities(change: &Change) -> bool {
    let flags = change.flags;
    let is_other = flags.data || flags.xattrs || changes(change);
    change.survives() && change.kind == Kind::File && change.xattrs.is_some() && is_other
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::ChangeFlags;
    use snapsync_model::RelPath;

    fn change(old: (u32, u32, u32), new: (u32, u32, u32)) -> Change {
        let side = |(mode, uid, gid)| Some(Attributes { mode, uid, gid, ..Attributes::default() });
        Change {
            ino: 5,
            generation: 0,
            kind: Kind::File,
            flags: ChangeFlags { attributes: true, ..ChangeFlags::default() },
            path: Some(RelPath::root()),
            old_path: Some(RelPath::root()),
            links_added: Vec::new(),
            links_removed: Vec::new(),
            nlink: 1,
            nlink_old: 1,
            new: side(new),
            old: side(old),
            symlink_target: None,
            xattrs: None,
            extents: Vec::new(),
        }
    }

    fn moves_data(mut change: Change, data: bool) -> Change {
        change.flags.data = data;
        change
    }

    #[test]
    fn meanwhile_nobody_may_more_than_before_or_after() {
        let mode = |old: (u32, u32, u32), new, data| {
            let change = moves_data(change(old, new), data);
            meanwhile(&change, false, false).map_or(old.0, |meanwhile| match meanwhile {
                Meanwhile::Taken => 0,
                Meanwhile::Narrowed { kept, gets } => kept | gets,
            })
        };
        assert_eq!(mode((0o644, 1, 1), (0o644, 1, 1), true), 0o644);
        assert_eq!(mode((0o600, 1, 1), (0o644, 1, 1), true), 0o600);
        assert_eq!(mode((0o4755, 1, 1), (0o4710, 1, 1), false), 0o4710);
        assert_eq!(mode((0o4755, 1, 1), (0o4755, 1, 1), true), 0o755);
        assert_eq!(mode((0o640, 1, 1), (0o604, 1, 1), false), 0o600);
        assert_eq!(mode((0o664, 1, 1), (0o664, 1, 2), false), 0o600);
        assert_eq!(mode((0o6775, 1, 1), (0o6775, 2, 1), false), 0);
        assert_eq!(mode((0o777, 1, 1), (0o1777, 1, 1), false), 0o1777);
    }

    #[test]
    fn what_changes_and_moves_is_nobodys() {
        let same = change((0o644, 1, 1), (0o644, 1, 1));
        let written = moves_data(same.clone(), true);
        assert!(!is_narrowed(&same, true));
        assert_eq!(meanwhile(&written, true, false), Some(Meanwhile::Taken));
        let name = snapsync_model::Link { parent: 2, name: b"f"[..].into() };
        let linked = Change { links_added: vec![name], ..written };
        assert_eq!(meanwhile(&linked, false, false), Some(Meanwhile::Taken));
        let mut fixed = change((0o666, 1, 1), (0o666, 1, 1));
        fixed.new = fixed.new.map(|new| Attributes { flags: PROTECTIVE, ..new });
        assert_eq!(meanwhile(&fixed, false, false), Some(Meanwhile::Taken));
    }

    #[test]
    fn another_list_lets_in_its_owner_alone() {
        let list = [
            &[2, 0, 0, 0][..],
            &[1, 0, 6, 0],
            &[255; 4],
            &[4, 0, 4, 0],
            &[255; 4],
            &[32, 0, 0, 0],
            &[255; 4],
        ];
        let list = list.concat();
        let mut with_list = change((0o640, 1, 1), (0o640, 1, 1));
        with_list.flags.xattrs = true;
        with_list.xattrs =
            Some(vec![Xattr { name: acl::ACCESS.into(), value: list.clone().into_boxed_slice() }]);
        let meanwhile = |now: Option<&[u8]>| meanwhile(&with_list, false, changes_list(&with_list, now));
        assert_eq!(meanwhile(None), Some(Meanwhile::Narrowed { kept: 0o600, gets: 0 }));
        assert_eq!(meanwhile(Some(&list)), Some(Meanwhile::Narrowed { kept: 0o640, gets: 0 }));
    }
}
