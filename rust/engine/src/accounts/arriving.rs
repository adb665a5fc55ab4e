//! Owners on the way in: from the numbers of the lineage to those of a volume.

use crate::accounts::naming::{Naming, Who};
use crate::accounts::{rows, system};
use snapsync_manifest::{ManifestReader, ManifestWriter};
use snapsync_model::{Account, AccountNames, Accounts, Error, Monitor, Result, SnapshotInfo, printable};
use snapsync_snapshot::Volume;
use snapsync_sys::Named;
use std::collections::BTreeMap;
use std::path::Path;

/// The most accounts that a refusal lists.
const TOLD: usize = 5;

/// Turns rows of a lineage into those of a volume.
pub(crate) struct Arriving<'a> {
    pub(crate) accounts: Accounts,
    /// None if the other end tells no names.
    pub(crate) names: Option<&'a AccountNames>,
    pub(crate) naming: &'a Naming,
    /// Whether an account that this machine does not know is refused even if its number is free.
    pub(crate) is_strict: bool,
    /// What was found in vain, and why.
    pub(crate) refused: BTreeMap<(Account, u32), String>,
    /// Accounts that keep their number, as nobody here has their name.
    pub(crate) kept: Vec<String>,
}

impl<'a> Arriving<'a> {
    pub(crate) fn new(
        accounts: &Accounts,
        names: Option<&'a AccountNames>,
        naming: &'a Naming,
        is_strict: bool,
    ) -> Arriving<'a> {
        let accounts = accounts.clone();
        Arriving { accounts, names, naming, is_strict, refused: BTreeMap::new(), kept: Vec::new() }
    }

    /// Gives the rows of a manifest the owners that they have in the volume at `path`. Refuses owners that
    /// cannot be told.
    pub(crate) fn rewrite(&mut self, manifest: &dyn Named, path: &Path, monitor: &Monitor) -> Result<()> {
        let reader = ManifestReader::open(manifest)?;
        let header = reader.header()?;
        // The old file is still read while the new one already has its name.
        let mut writer = ManifestWriter::create(manifest, &header)?;
        for change in reader {
            monitor.check()?;
            let mut change = change?;
            rows::in_change(&mut change, &mut |account, there| self.number(account, there))?;
            writer.write(&change)?;
        }
        writer.finish()?;
        self.expect_known(path)?;
        self.tell_kept(path, monitor);
        Ok(())
    }

    fn number(&mut self, account: Account, there: u32) -> Result<u32> {
        if let Some(here) = self.accounts.here(account, there) {
            return Ok(here);
        }
        if self.refused.contains_key(&(account, there)) {
            return Ok(there);
        }
        let found = self.found(account, there)?.and_then(|here| {
            let is_free = self.accounts.pair(account, there, here);
            is_free.then_some(here).ok_or_else(|| format!("{here} is another {} already", account.name()))
        });
        match found {
            Ok(here) => Ok(here),
            Err(why) => {
                self.refused.insert((account, there), why);
                Ok(there)
            }
        }
    }

    /// The number for an account that was not met before, or why there is none.
    fn found(&mut self, account: Account, there: u32) -> Result<Result<u32, String>> {
        let no_names = AccountNames::default();
        let names = self.names.unwrap_or(&no_names);
        if let Some(who) = self.naming.rule(account, there, names) {
            return named(account, who);
        }
        if system::is_everywhere(there) {
            return Ok(Ok(there));
        }
        if self.names.is_none() {
            return Ok(Err("the other end does not tell its name".to_owned()));
        }
        let name = names.get(account, there);
        if let Some(name) = name
            && let Some(here) = system::number_of(account, name)?
        {
            return Ok(Ok(here));
        }
        if let Some(other) = system::name_of(account, there)? {
            return Ok(Err(format!("here {there} is {}", printable(&other))));
        }
        match name {
            Some(name) if self.is_strict => {
                Ok(Err(format!("there is no {} {} here", account.name(), printable(name))))
            }
            Some(name) => {
                self.kept.push(format!("{} {} ({there})", account.name(), printable(name)));
                Ok(Ok(there))
            }
            None => Ok(Ok(there)),
        }
    }

    fn expect_known(&self, path: &Path) -> Result<()> {
        if self.refused.is_empty() {
            return Ok(());
        }
        let one = |((account, there), why): (&(Account, u32), &String)| {
            let name = self.names.and_then(|names| names.get(*account, *there)).map(printable);
            match name {
                Some(name) => format!("{} {name} ({there}): {why}", account.name()),
                None => format!("{} {there}: {why}", account.name()),
            }
        };
        Err(Error::refused(
            format!(
                "whose files these are in {} is not clear: {}",
                path.display(),
                list(self.refused.iter().map(one))
            ),
            "make an account of that name on the standby's machine, or name one in the map file of --owners, \
             as in `user alice = bob`",
        ))
    }

    fn tell_kept(&self, path: &Path, monitor: &Monitor) {
        if !self.kept.is_empty() {
            monitor.note(format!(
                "{} has no account for these, whose files keep the number, even if one is made later: {}",
                path.display(),
                list(self.kept.iter().cloned())
            ));
        }
    }
}

fn list(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(TOLD);
    let told = all.take(TOLD).collect::<Vec<_>>().join("; ");
    if more > 0 { format!("{told}; and {more} more") } else { told }
}

fn named(account: Account, who: &Who) -> Result<Result<u32, String>> {
    match who {
        Who::Number(number) => Ok(Ok(*number)),
        Who::Name(name) => Ok(system::number_of(account, name)?.ok_or_else(|| {
            format!("the map names {}, and there is no such {} here", printable(name), account.name())
        })),
    }
}

/// The map of a volume that has kept the numbers of its lineage so far: all that own something in this
/// snapshot keep theirs.
pub(crate) fn as_held(volume: &Volume, snapshot: &SnapshotInfo, monitor: &Monitor) -> Result<Accounts> {
    let mut accounts = Accounts::default();
    let side = volume.open_snapshot(snapshot, monitor)?;
    let mut keep = |account, number| {
        // Equal numbers are always one to one.
        let _ = accounts.pair(account, number, number);
        Ok(number)
    };
    for inode in side.inodes()? {
        monitor.check()?;
        let mut inode = inode?;
        rows::in_attributes(&mut inode.attributes, &mut keep)?;
        rows::in_xattrs(&mut side.details(&inode)?.xattrs, &mut keep)?;
    }
    Ok(accounts)
}
