//! How a new standby finds the owners of files.

use serde::{Deserialize, Serialize};
use snapsync_model::{Account, AccountNames};

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
    /// Whom the rules name for a number of the lineage.
    pub(crate) fn rule(&self, account: Account, there: u32, names: &AccountNames) -> Option<&Who> {
        let is_meant = |rule: &&Rule| {
            rule.account == account
                && match &rule.there {
                    Who::Number(number) => *number == there,
                    Who::Name(name) => names.get(account, there) == Some(name),
                }
        };
        self.rules.iter().find(is_meant).map(|rule| &rule.here)
    }
}
