//! The users and groups that own files, by the numbers that a lineage and that one volume has for them.

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

/// A user or group in a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Who {
    Number(u32),
    Name(String),
}

/// Files that belong to `there` on the primary belong to `here` on the standby.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub account: Account,
    pub there: Who,
    pub here: Who,
}

/// Owners are found by their names; rules come before names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Naming {
    pub rules: Vec<Rule>,
}

impl Naming {
    /// Whom the rules name for an account of that number and name in the lineage.
    pub fn rule(&self, account: Account, there: u32, name: Option<&str>) -> Option<&Who> {
        let is_meant = |rule: &&Rule| {
            rule.account == account
                && match &rule.there {
                    Who::Number(number) => *number == there,
                    Who::Name(wanted) => name == Some(wanted),
                }
        };
        self.rules.iter().find(is_meant).map(|rule| &rule.here)
    }
}

/// An account that a volume has met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// Its number in the volume.
    pub here: u32,
    /// The sequence number of the first snapshot with something of it.
    pub since: u64,
    /// What it was called then where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Which numbers a volume has in place of those of its lineage, one to one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// The sequence number of the first snapshot that has them: earlier ones have the lineage's own.
    pub begun: u64,
    #[serde(default)]
    pub naming: Naming,
    users: Pairs,
    groups: Pairs,
}

/// Written as an object from the numbers of the lineage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<u32, Met>", into = "BTreeMap<u32, Met>")]
struct Pairs {
    met: BTreeMap<u32, Met>,
    there: BTreeMap<u32, u32>,
}

impl From<BTreeMap<u32, Met>> for Pairs {
    fn from(met: BTreeMap<u32, Met>) -> Pairs {
        let there = met.iter().map(|(there, met)| (met.here, *there)).collect();
        Pairs { met, there }
    }
}

impl From<Pairs> for BTreeMap<u32, Met> {
    fn from(pairs: Pairs) -> BTreeMap<u32, Met> {
        pairs.met
    }
}

const BOTH: [Account; 2] = [Account::User, Account::Group];

impl Accounts {
    pub fn begun(begun: u64) -> Accounts {
        Accounts { begun, ..Accounts::default() }
    }

    fn of(&self, account: Account) -> &Pairs {
        match account {
            Account::User => &self.users,
            Account::Group => &self.groups,
        }
    }

    fn of_mut(&mut self, account: Account) -> &mut Pairs {
        match account {
            Account::User => &mut self.users,
            Account::Group => &mut self.groups,
        }
    }

    /// What is known of an account of the lineage.
    pub fn met(&self, account: Account, there: u32) -> Option<&Met> {
        self.of(account).met.get(&there)
    }

    /// The volume's number for one of the lineage.
    pub fn here(&self, account: Account, there: u32) -> Option<u32> {
        self.met(account, there).map(|met| met.here)
    }

    /// The lineage's number for one of the volume.
    pub fn there(&self, account: Account, here: u32) -> Option<u32> {
        self.of(account).there.get(&here).copied()
    }

    /// Adds a pair; false, and nothing is added, if either number has another one already.
    #[must_use]
    pub fn meet(&mut self, account: Account, there: u32, met: Met) -> bool {
        match (self.here(account, there), self.there(account, met.here)) {
            (None, None) => {}
            (known, _) => return known == Some(met.here),
        }
        let pairs = self.of_mut(account);
        pairs.there.insert(met.here, there);
        pairs.met.insert(there, met);
        true
    }

    /// All accounts, with their numbers in the lineage.
    pub fn all(&self) -> impl Iterator<Item = (Account, u32, &Met)> {
        let of = |account| self.of(account).met.iter().map(move |(there, met)| (account, *there, met));
        BOTH.into_iter().flat_map(of)
    }

    /// What they were called where they came from.
    pub fn names(&self) -> AccountNames {
        let mut names = AccountNames::default();
        for (account, there, met) in self.all() {
            met.name.iter().for_each(|name| names.put(account, there, name.clone()));
        }
        names
    }

    /// Whether this has all pairs of `other`.
    pub fn extends(&self, other: &Accounts) -> bool {
        other.all().all(|(account, there, met)| self.here(account, there) == Some(met.here))
    }

    /// Those that a snapshot and the ones before it have: for later ones another volume may have used the
    /// same numbers. None if that snapshot is older than all of this.
    pub fn until(&self, sequence: u64) -> Option<Accounts> {
        if sequence + 1 < self.begun {
            return None;
        }
        let mut until = Accounts { users: Pairs::default(), groups: Pairs::default(), ..self.clone() };
        for (account, there, met) in self.all().filter(|(.., met)| met.since <= sequence) {
            // It was one to one before.
            let _ = until.meet(account, there, met.clone());
        }
        Some(until)
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
        let met = |here, since| Met { here, since, name: None };
        let mut accounts = Accounts::default();
        assert!(accounts.meet(Account::User, 1001, met(1005, 1)));
        assert!(accounts.meet(Account::User, 1001, met(1005, 2)));
        assert!(!accounts.meet(Account::User, 1001, met(1006, 2)));
        assert!(!accounts.meet(Account::User, 1002, met(1005, 2)));
        assert!(accounts.meet(Account::Group, 1002, met(1005, 3)));
        let read: Accounts = serde_json::from_str(&serde_json::to_string(&accounts).unwrap()).unwrap();
        assert_eq!(read, accounts);
        assert_eq!(read.there(Account::User, 1005), Some(1001));
        assert!(read.extends(&accounts) && read.extends(&Accounts::default()));
        assert!(!Accounts::default().extends(&read));
        let before = read.until(2).unwrap();
        assert_eq!((before.here(Account::User, 1001), before.here(Account::Group, 1002)), (Some(1005), None));
        assert_eq!(Accounts::begun(5).until(3), None);
        assert_eq!(Accounts::begun(5).until(4), Some(Accounts::begun(5)));
    }
}
