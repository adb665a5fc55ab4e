//! Every place in a row that names a user or a group.

use snapsync_model::{Account, Attributes, Change, Result, Xattr};
use snapsync_sys::acl;

/// Gives another number for one.
pub(super) type Renumber<'r> = &'r mut dyn FnMut(Account, u32) -> Result<u32>;

pub(super) fn in_change(change: &mut Change, number: Renumber<'_>) -> Result<()> {
    for attributes in [&mut change.new, &mut change.old].into_iter().flatten() {
        in_attributes(attributes, number)?;
    }
    change.xattrs.iter_mut().try_for_each(|xattrs| in_xattrs(xattrs, number))
}

pub(super) fn in_attributes(attributes: &mut Attributes, number: Renumber<'_>) -> Result<()> {
    attributes.uid = number(Account::User, attributes.uid)?;
    attributes.gid = number(Account::Group, attributes.gid)?;
    Ok(())
}

/// Access lists name users and groups, too.
pub(super) fn in_xattrs(xattrs: &mut [Xattr], number: Renumber<'_>) -> Result<()> {
    for xattr in xattrs.iter_mut().filter(|xattr| acl::is_list(&xattr.name)) {
        if let Some(list) = acl::renumbered(&xattr.value, number)? {
            xattr.value = list.into();
        }
    }
    Ok(())
}
