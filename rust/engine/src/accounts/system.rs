//! The users and groups of this machine, as its name service knows them.

use nix::unistd::{Gid, Group, Uid, User};
use snapsync_model::{Account, Error, Result, printable};
use std::io;

/// The number that kernels show for owners who have none.
const NOBODY: u32 = 65534;

/// Whether a number means the same on every machine, whatever its name is there.
pub(super) fn is_everywhere(number: u32) -> bool {
    number == 0 || number == NOBODY
}

pub(super) fn name_of(account: Account, number: u32) -> Result<Option<String>> {
    let found = match account {
        Account::User => User::from_uid(Uid::from_raw(number)).map(|user| user.map(|user| user.name)),
        Account::Group => Group::from_gid(Gid::from_raw(number)).map(|group| group.map(|group| group.name)),
    };
    found.map_err(|e| failed(account, &number.to_string(), e))
}

pub(super) fn number_of(account: Account, name: &str) -> Result<Option<u32>> {
    if name.is_empty() || name.contains('\0') {
        return Ok(None);
    }
    let found = match account {
        Account::User => User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())),
        Account::Group => Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())),
    };
    found.map_err(|e| failed(account, &printable(name), e))
}

fn failed(account: Account, what: &str, error: nix::Error) -> Error {
    let why = io::Error::from(error);
    Error::failed(
        format!("cannot look up {} {what}: {why}", account.name()),
        "the name service of this machine does not answer: see that `getent` does, and run this again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_by_name_and_number() {
        for account in [Account::User, Account::Group] {
            assert_eq!(name_of(account, 0).unwrap().as_deref(), Some("root"));
            assert_eq!(number_of(account, "root").unwrap(), Some(0));
            assert_eq!(number_of(account, "no such\0name").unwrap(), None);
            assert_eq!(number_of(account, "").unwrap(), None);
        }
    }
}
