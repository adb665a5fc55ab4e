//! Owners on the way out: in the numbers of the lineage, with their names.

use crate::accounts::{rows, system};
use snapsync_model::{
    Account, AccountNames, Accounts, Change, Met, Monitor, Result, SnapshotInfo, printable,
};
use snapsync_snapshot::{LockedVolume, Volume};
use std::collections::BTreeMap;

/// Where numbers begin that the lineage has for accounts which came to be after a promotion, if their own
/// number is another account's in the lineage. No machine gives such numbers by itself.
const SPARE: u32 = 1 << 31;

/// The most bytes of names and numbers that are told.
const MOST_NAMES: usize = 2 << 20;
/// About how many bytes a name has around it.
const AROUND: usize = 16;

/// Turns the rows of a volume into those of its lineage, and remembers whose they are.
#[derive(Default)]
pub(crate) struct Leaving {
    /// None where both have the same numbers.
    accounts: Option<Accounts>,
    /// The sequence number of the snapshot.
    sequence: u64,
    has_grown: bool,
    /// The numbers of the lineage for those of the volume that occurred.
    met: BTreeMap<(Account, u32), u32>,
    /// The last ones, as most rows are like those before them.
    last: [Option<(u32, u32)>; 2],
}

impl Leaving {
    pub(crate) fn of(volume: &Volume, snapshot: &SnapshotInfo) -> Leaving {
        let accounts = volume.accounts_of(snapshot).cloned();
        Leaving { accounts, sequence: snapshot.sequence, ..Leaving::default() }
    }

    /// The same for the tree as it is.
    pub(crate) fn of_tree(volume: &Volume) -> Leaving {
        Leaving { accounts: volume.accounts().cloned(), ..Leaving::default() }
    }

    /// Whether the volume has other numbers than its lineage.
    pub(crate) fn is_by_name(&self) -> bool {
        self.accounts.is_some()
    }

    pub(crate) fn row(&mut self, change: &mut Change, monitor: &Monitor) -> Result<()> {
        rows::in_change(change, &mut |account, here| Ok(self.number(account, here, monitor)))
    }

    fn number(&mut self, account: Account, here: u32, monitor: &Monitor) -> u32 {
        let at = account as usize;
        if let Some((_, there)) = self.last[at].filter(|(last, _)| *last == here) {
            return there;
        }
        let known = self.met.get(&(account, here)).copied();
        let there = known.unwrap_or_else(|| self.there(account, here, monitor));
        self.met.insert((account, here), there);
        self.last[at] = Some((here, there));
        there
    }

    fn there(&mut self, account: Account, here: u32, monitor: &Monitor) -> u32 {
        let Some(accounts) = &mut self.accounts else { return here };
        if let Some(there) = accounts.there(account, here) {
            return there;
        }
        self.has_grown = true;
        let met = Met { here, since: self.sequence, name: None };
        let mut free = [here, here ^ SPARE].into_iter().chain(SPARE..u32::MAX);
        let there = free.find(|there| accounts.meet(account, *there, met.clone())).unwrap_or(here);
        if there != here {
            monitor.note(format!(
                "{} {here} of this volume is {there} at the other end, where {here} is another: the name \
                 tells who it is",
                account.name()
            ));
        }
        there
    }

    /// The names of all accounts in the rows; None if this machine cannot tell.
    pub(crate) fn names(&self, monitor: &Monitor) -> Option<AccountNames> {
        let told = self.all_names();
        told.inspect_err(|why| monitor.note(format!("no names of users and groups are sent: {why}"))).ok()
    }

    fn all_names(&self) -> Result<AccountNames, String> {
        let (mut names, mut bytes) = (AccountNames::default(), 0);
        for ((account, here), there) in &self.met {
            let Some(name) = self.name(*account, *here, *there).map_err(|error| error.sentence())? else {
                continue;
            };
            bytes += name.len() + AROUND;
            if bytes > MOST_NAMES {
                return Err("there are too many".to_owned());
            }
            names.put(*account, *there, name);
        }
        Ok(names)
    }

    /// What it was called where it came from, or what it is called here.
    fn name(&self, account: Account, here: u32, there: u32) -> Result<Option<String>> {
        let met = self.accounts.as_ref().and_then(|accounts| accounts.met(account, there));
        if let Some(name) = met.and_then(|met| met.name.clone()) {
            return Ok(Some(name));
        }
        Ok(system::name_of(account, here)?.filter(|name| *name == printable(name)))
    }

    pub(crate) fn has_grown(&self) -> bool {
        self.has_grown
    }

    /// Records the numbers that were found for accounts of this volume, before anybody else learns them.
    pub(crate) fn remember(&self, volume: &mut LockedVolume) -> Result<()> {
        match &self.accounts {
            Some(accounts) if self.has_grown => volume.set_accounts(accounts.clone()),
            _ => Ok(()),
        }
    }
}
