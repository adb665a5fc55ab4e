//! Who may do what with a file while it changes: no more than before, and no more than after.

use snapsync_model::{Attributes, Change, Kind};
use snapsync_sys::acl;
use std::io;

/// Who may do what with it is not what it was.
pub(crate) fn changes(change: &Change) -> bool {
    let who = |side: Option<Attributes>| side.map(|a| (a.mode, a.uid, a.gid));
    change.survives()
        && change.kind != Kind::Symlink
        && (change.flags.xattrs || who(change.old) != who(change.new))
}

/// The mode of a file until it has its own, if not the old one. `list` reads the access list that it has now.
pub(crate) fn meanwhile(
    change: &Change,
    list: impl FnOnce() -> io::Result<Option<Vec<u8>>>,
) -> io::Result<Option<u32>> {
    let (Some(old), Some(new)) = (change.old, change.new) else { return Ok(None) };
    if !changes(change) {
        return Ok(None);
    }
    let wanted = change.xattrs.as_deref().and_then(acl::access_list);
    let changes_list = change.flags.xattrs
        && list()?.as_deref() != wanted.map(|list| acl::beside(list, new.mode)).as_deref();
    let (same_owner, same_group) = (old.uid == new.uid, old.gid == new.gid);
    let kept = match (same_owner, same_group) {
        (false, _) => 0,
        // Who is of the group, or in the list, may be another.
        (true, same_group) if changes_list || !same_group => 0o700,
        (true, _) => 0o777,
    };
    let set_id = if same_owner && same_group { 0o6000 } else { 0 };
    // Sticky takes rights away.
    let mode = old.mode & new.mode & (kept | set_id) | (old.mode | new.mode) & 0o1000;
    Ok(Some(mode).filter(|mode| *mode != old.mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::{ChangeFlags, RelPath, Xattr};

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

    #[test]
    fn meanwhile_nobody_may_more_than_before_or_after() {
        let mode = |old, new| meanwhile(&change(old, new), || Ok(None)).unwrap();
        assert_eq!(mode((0o644, 1, 1), (0o644, 1, 1)), None);
        assert_eq!(mode((0o600, 1, 1), (0o644, 1, 1)), None);
        assert_eq!(mode((0o4755, 1, 1), (0o4710, 1, 1)), Some(0o4710));
        assert_eq!(mode((0o640, 1, 1), (0o604, 1, 1)), Some(0o600));
        assert_eq!(mode((0o664, 1, 1), (0o664, 1, 2)), Some(0o600));
        assert_eq!(mode((0o6775, 1, 1), (0o6775, 2, 1)), Some(0));
        assert_eq!(mode((0o777, 1, 1), (0o1777, 1, 1)), Some(0o1777));
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
        assert_eq!(meanwhile(&with_list, || Ok(None)).unwrap(), Some(0o600));
        assert_eq!(meanwhile(&with_list, || Ok(Some(list.clone()))).unwrap(), None);
    }
}
