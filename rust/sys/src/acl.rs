//! POSIX access lists in the form that the kernel reads and writes. Setting the list sets the mode, and the
//! other way round. Only a crash, or mounting without lists, leaves two on the disk that differ.

use snapsync_model::{Account, Xattr};
use std::borrow::Cow;

/// The list that applies to the file itself. New entries of a directory get another one.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

/// The list that entries made in a directory begin with.
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// The capabilities of a program beyond those of its user.
pub const CAPABILITIES: &[u8] = b"security.capability";

const VERSION: [u8; 4] = [2, 0, 0, 0];
/// Mode 0600 as a list.
pub const SMALLEST: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 0, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255,
    255,
];
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;

#[derive(Clone, Copy)]
struct Rule {
    tag: u16,
    rights: u16,
    id: [u8; 4],
}

/// The entries of a list; None if it is not valid.
fn rules(list: &[u8]) -> Option<Vec<Rule>> {
    let (rules, rest) = list.strip_prefix(&VERSION)?.as_chunks::<8>();
    let rule = |bytes: &[u8; 8]| {
        let [a, b, c, d, id @ ..] = *bytes;
        Rule { tag: u16::from_le_bytes([a, b]), rights: u16::from_le_bytes([c, d]) & 7, id }
    };
    rest.is_empty().then(|| rules.iter().map(rule).collect())
}

fn rights_of(rules: &[Rule], tag: u16) -> Option<u16> {
    rules.iter().find(|rule| rule.tag == tag).map(|rule| rule.rights)
}

pub fn access_list(xattrs: &[Xattr]) -> Option<&[u8]> {
    xattrs.iter().find(|xattr| *xattr.name == *ACCESS).map(|xattr| &*xattr.value)
}

pub fn has_capabilities(xattrs: &[Xattr]) -> bool {
    xattrs.iter().any(|xattr| *xattr.name == *CAPABILITIES)
}

/// Whether an extended attribute of this name is a list.
pub fn is_list(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// The list with other numbers for the users and groups that it names; None if it is not valid.
pub fn renumbered<E>(
    list: &[u8],
    number: &mut dyn FnMut(Account, u32) -> Result<u32, E>,
) -> Result<Option<Vec<u8>>, E> {
    let Some(mut rules) = rules(list) else { return Ok(None) };
    for rule in &mut rules {
        let account = match rule.tag {
            USER => Account::User,
            GROUP => Account::Group,
            _ => continue,
        };
        rule.id = number(account, u32::from_le_bytes(rule.id))?.to_le_bytes();
    }
    Ok(Some(bytes_of(rules)))
}

fn bytes_of(rules: Vec<Rule>) -> Vec<u8> {
    let bytes = |rule: Rule| [&rule.tag.to_le_bytes()[..], &rule.rights.to_le_bytes(), &rule.id].concat();
    [VERSION.to_vec(), rules.into_iter().flat_map(bytes).collect()].concat()
}

/// The permission bits that a list gives its file; None if it is not valid.
pub fn mode_of(list: &[u8]) -> Option<u32> {
    let rules = rules(list)?;
    let group = rights_of(&rules, MASK).or_else(|| rights_of(&rules, OWNING_GROUP))?;
    let [owner, others] = [rights_of(&rules, OWNER)?, rights_of(&rules, OTHERS)?];
    Some(u32::from(owner) << 6 | u32::from(group) << 3 | u32::from(others))
}

/// The list nearest to this one that goes with `mode`: nobody gets more rights than both of them give.
pub fn beside(list: &[u8], mode: u32) -> Vec<u8> {
    let (Some(now), Some(mut rules)) = (mode_of(list), rules(list)) else { return list.to_vec() };
    if now == mode & 0o777 {
        return list.to_vec();
    }
    let class = |shift: u32| (mode >> shift & 7) as u16;
    let mask = rights_of(&rules, MASK);
    for rule in &mut rules {
        rule.rights = match rule.tag {
            OWNER => class(6),
            MASK => class(3),
            OTHERS => class(0),
            OWNING_GROUP if mask.is_none() => class(3),
            _ => rule.rights & mask.unwrap_or(7),
        };
    }
    bytes_of(rules)
}

/// The extended attributes, with a list that goes with `mode`.
pub(crate) fn all_beside(xattrs: &[Xattr], mode: u32) -> Cow<'_, [Xattr]> {
    let fits = access_list(xattrs).and_then(mode_of).is_none_or(|of_list| of_list == mode & 0o777);
    if fits {
        return Cow::Borrowed(xattrs);
    }
    let fitted = |xattr: &Xattr| match &*xattr.name {
        ACCESS => Xattr { value: beside(&xattr.value, mode).into(), ..xattr.clone() },
        _ => xattr.clone(),
    };
    Cow::Owned(xattrs.iter().map(fitted).collect())
}

/// `mode` for a file that cannot have the list: its group and all others get no more rights than the list
/// gives any of them.
pub fn without(list: &[u8], mode: u32) -> u32 {
    let Some(rules) = rules(list) else { return mode };
    let least = |tags: u16| {
        let named = rules.iter().filter(|rule| rule.tag & tags != 0);
        named.fold(7, |least, rule| least & u32::from(rule.rights))
    };
    mode & !0o077 | mode & (least(OWNING_GROUP | USER) << 3 | least(USER | GROUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &[(u16, u16, u32)]) -> Vec<u8> {
        let bytes = |(tag, rights, id): &(u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        [VERSION.to_vec(), rules.iter().flat_map(bytes).collect()].concat()
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn the_mask_stands_for_the_group() {
        let plain = list(&[(OWNER, 6, NONE), (OWNING_GROUP, 4, NONE), (OTHERS, 0, NONE)]);
        assert_eq!(mode_of(&plain), Some(0o640));
        let masked = list(&[
            (OWNER, 6, NONE),
            (USER, 7, 9),
            (OWNING_GROUP, 4, NONE),
            (MASK, 7, NONE),
            (OTHERS, 1, NONE),
        ]);
        assert_eq!(mode_of(&masked), Some(0o671));
        assert_eq!((mode_of(b""), mode_of(&masked[..20])), (None, None));
    }

    #[test]
    fn a_list_beside_a_mode_gives_that_mode_and_nobody_more_than_before() {
        let old = list(&[
            (OWNER, 6, NONE),
            (USER, 7, 9),
            (OWNING_GROUP, 4, NONE),
            (MASK, 5, NONE),
            (OTHERS, 1, NONE),
        ]);
        assert_eq!(beside(&old, 0o4651), old);
        for mode in 0..0o1000 {
            assert_eq!(mode_of(&beside(&old, mode)), Some(mode));
        }
        let wanted = list(&[
            (OWNER, 7, NONE),
            (USER, 5, 9),
            (OWNING_GROUP, 4, NONE),
            (MASK, 7, NONE),
            (OTHERS, 7, NONE),
        ]);
        assert_eq!(beside(&old, 0o777), wanted);
        assert_eq!(beside(b"none", 0o777), b"none");
    }

    #[test]
    fn other_numbers_come_in_the_place_of_named_users_and_groups_alone() {
        let of = |user, group| {
            list(&[
                (OWNER, 6, NONE),
                (USER, 7, user),
                (OWNING_GROUP, 4, NONE),
                (GROUP, 1, group),
                (MASK, 7, NONE),
                (OTHERS, 1, NONE),
            ])
        };
        let mut number = |account, number| match account {
            Account::User => Ok::<u32, ()>(number + 1000),
            Account::Group => Ok(number + 2000),
        };
        assert_eq!(renumbered(&of(9, 9), &mut number), Ok(Some(of(1009, 2009))));
        assert_eq!(renumbered(b"none", &mut number), Ok(None));
        assert_eq!(renumbered(&of(9, 9), &mut |_, _| Err(1)), Err(1));
    }

    #[test]
    fn without_its_list_a_file_is_no_wider() {
        let shut = list(&[
            (OWNER, 6, NONE),
            (USER, 0, 9),
            (OWNING_GROUP, 4, NONE),
            (MASK, 7, NONE),
            (OTHERS, 4, NONE),
        ]);
        assert_eq!(without(&shut, 0o4674), 0o4600);
        let open = list(&[
            (OWNER, 6, NONE),
            (USER, 7, 9),
            (OWNING_GROUP, 4, NONE),
            (MASK, 7, NONE),
            (OTHERS, 4, NONE),
        ]);
        assert_eq!(without(&open, 0o674), 0o644);
    }
}
