//! The users and groups that own files, by the numbers that a lineage has for them and by those of one volume.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    User,
    Group,
}

impl Account {
    pub fn name(self) -> &'static str {
        match self {
            Account::User => "user",
            Account::Group => "group",
        }
    }
}

/// Which numbers a volume has in place of those of its lineage, one to one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    users: Pairs,
    groups: Pairs,
}

/// Written as an object from the numbers of the lineage to those of the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<u32, u32>", into = "BTreeMap<u32, u32>")]
struct Pairs {
    here: BTreeMap<u32, u32>,
    there: BTreeMap<u32, u32>,
}

impl From<BTreeMap<u32, u32>> for Pairs {
    fn from(here: BTreeMap<u32, u32>) -> Pairs {
        let there = here.iter().map(|(there, here)| (*here, *there)).collect();
        Pairs { here, there }
    }
}

impl From<Pairs> for BTreeMap<u32, u32> {
    fn from(pairs: Pairs) -> BTreeMap<u32, u32> {
        pairs.here
    }
}

impl Accounts {
    fn of(&self, account: Account) -> &Pairs {
        match account {
            Account::User => &self.users,
            Account::Group => &self.groups,
        }
    }

    /// The volume's number for one of the lineage.
    pub fn here(&self, account: Account, there: u32) -> Option<u32> {
        self.of(account).here.get(&there).copied()
    }

    /// The lineage's number for one of the volume.
    pub fn there(&self, account: Account, here: u32) -> Option<u32> {
        self.of(account).there.get(&here).copied()
    }

    /// Adds a pair; false, and nothing is added, if either number has another one already.
    #[must_use]
    pub fn pair(&mut self, account: Account, there: u32, here: u32) -> bool {
        if self.here(account, there) == Some(here) {
            return true;
        }
        if self.here(account, there).is_some() || self.there(account, here).is_some() {
            return false;
        }
        let pairs = match account {
            Account::User => &mut self.users,
            Account::Group => &mut self.groups,
        };
        pairs.here.insert(there, here);
        pairs.there.insert(here, there);
        true
    }

    /// How many users, or groups, have a number.
    pub fn count(&self, account: Account) -> usize {
        self.of(account).here.len()
    }

    /// Whether this has all pairs of `other`.
    pub fn extends(&self, other: &Accounts) -> bool {
        [Account::User, Account::Group].into_iter().all(|account| {
            other.of(account).here.iter().all(|(there, here)| self.here(account, *there) == Some(*here))
        })
    }
}

/// The names of users and groups by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountNames {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    users: BTreeMap<u32, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<u32, String>,
}

impl AccountNames {
    pub fn get(&self, account: Account, number: u32) -> Option<&str> {
        let names = match account {
            Account::User => &self.users,
            Account::Group => &self.groups,
        };
        names.get(&number).map(String::as_str)
    }

    pub fn put(&mut self, account: Account, number: u32, name: String) {
        match account {
            Account::User => self.users.insert(number, name),
            Account::Group => self.groups.insert(number, name),
        };
    }

    /// Takes over the names of later changes.
    pub fn extend(&mut self, later: &AccountNames) {
        self.users.extend(later.users.clone());
        self.groups.extend(later.groups.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_one_to_one_and_read_back_as_they_were_written() {
        let mut accounts = Accounts::default();
        assert!(accounts.pair(Account::User, 1001, 1005));
        assert!(accounts.pair(Account::User, 1001, 1005));
        assert!(!accounts.pair(Account::User, 1001, 1006));
        assert!(!accounts.pair(Account::User, 1002, 1005));
        assert!(accounts.pair(Account::Group, 1002, 1005));
        let read: Accounts = serde_json::from_str(&serde_json::to_string(&accounts).unwrap()).unwrap();
        assert_eq!(read, accounts);
        assert_eq!(read.there(Account::User, 1005), Some(1001));
        assert!(read.extends(&accounts) && read.extends(&Accounts::default()));
        assert!(!Accounts::default().extends(&read));
    }
}
