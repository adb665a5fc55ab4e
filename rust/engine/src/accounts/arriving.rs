//! Owners on the way in: from the numbers of the lineage to those of a volume.

use crate::accounts::{rows, system};
use snapsync_manifest::{ManifestReader, ManifestWriter};
use snapsync_model::{
    Account, AccountNames, Accounts, Error, Met, Monitor, Naming, Result, SnapshotInfo, Who, printable,
};
use snapsync_snapshot::Volume;
use snapsync_sys::Named;
use std::collections::BTreeMap;
use std::path::Path;

/// The most accounts that a refusal lists.
const TOLD: usize = 5;

/// How owners are found.
#[derive(Clone, Copy)]
pub(crate) struct Finding<'a> {
    /// What the other end tells; None if it cannot.
    pub(crate) names: Option<&'a AccountNames>,
    /// What is asked for; without it the volume's own rules hold.
    pub(crate) naming: Option<&'a Naming>,
    /// Whether an account that this machine does not know is refused even if its number is free.
    pub(crate) is_strict: bool,
    /// The sequence number of the snapshot that comes.
    pub(crate) sequence: u64,
}

/// Turns rows of a lineage into those of a volume.
pub(crate) struct Arriving<'a> {
    pub(crate) accounts: Accounts,
    finding: Finding<'a>,
    /// The numbers that were found or proved.
    found: BTreeMap<(Account, u32), u32>,
    /// What was found in vain, and why.
    refused: BTreeMap<(Account, u32), String>,
    /// Accounts that keep their number, as nobody here has their name.
    kept: Vec<String>,
}

impl<'a> Arriving<'a> {
    pub(crate) fn new(accounts: &Accounts, finding: Finding<'a>) -> Arriving<'a> {
        let mut accounts = accounts.clone();
        if let Some(naming) = finding.naming {
            accounts.naming = naming.clone();
        }
        let (found, refused) = (BTreeMap::new(), BTreeMap::new());
        Arriving { accounts, finding, found, refused, kept: Vec::new() }
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

    /// Whether what an interrupted round has found would be found again.
    pub(crate) fn finds_again(&mut self, then: &Accounts) -> Result<bool> {
        if then.naming != self.accounts.naming {
            return Ok(false);
        }
        let mut is_same = true;
        for (account, there, met) in then.all() {
            let now = self.number(account, there)?;
            is_same &= now == met.here && !self.refused.contains_key(&(account, there));
        }
        Ok(is_same)
    }

    fn number(&mut self, account: Account, there: u32) -> Result<u32> {
        if let Some(here) = self.found.get(&(account, there)) {
            return Ok(*here);
        }
        if self.refused.contains_key(&(account, there)) {
            return Ok(there);
        }
        let found = match self.accounts.met(account, there).cloned() {
            Some(met) => self.proved(account, there, &met)?,
            None => self.met(account, there)?,
        };
        match found {
            Ok(here) => {
                self.found.insert((account, there), here);
                Ok(here)
            }
            Err(why) => {
                self.refused.insert((account, there), why);
                Ok(there)
            }
        }
    }

    fn name(&self, account: Account, there: u32) -> Option<&'a str> {
        self.finding.names.and_then(|names| names.get(account, there))
    }

    /// The number of a known account, unless it is somebody else by now.
    fn proved(&self, account: Account, there: u32, met: &Met) -> Result<Result<u32, String>> {
        let (name, here) = (self.name(account, there), met.here);
        if let Some(who) = self.accounts.naming.rule(account, there, name) {
            return Ok(named(account, who)?.and_then(|asked| {
                let is_other = format!("the map says {asked}, and it was {here} until now");
                (asked == here).then_some(here).ok_or(is_other)
            }));
        }
        let Some(name) = name.filter(|name| met.name.as_deref() != Some(name)) else { return Ok(Ok(here)) };
        if system::is_everywhere(there) {
            return Ok(Ok(here));
        }
        Ok(match system::number_of(account, name)? {
            Some(other) if other != here => {
                let then = met.name.as_deref().map(|then| format!(" as {}", printable(then)));
                Err(format!("here it is {other}, and it was {here}{} until now", then.unwrap_or_default()))
            }
            _ => Ok(here),
        })
    }

    /// The number for an account that was not met before, or why there is none.
    fn met(&mut self, account: Account, there: u32) -> Result<Result<u32, String>> {
        let found = self.looked_up(account, there)?;
        let name = self.name(account, there).map(str::to_owned);
        let since = self.finding.sequence;
        Ok(found.and_then(|here| {
            let is_free = self.accounts.meet(account, there, Met { here, since, name });
            is_free.then_some(here).ok_or_else(|| format!("{here} is another {} already", account.name()))
        }))
    }

    fn looked_up(&mut self, account: Account, there: u32) -> Result<Result<u32, String>> {
        let name = self.name(account, there);
        if let Some(who) = self.accounts.naming.rule(account, there, name) {
            return named(account, who);
        }
        if system::is_everywhere(there) {
            return Ok(Ok(there));
        }
        if self.finding.names.is_none() {
            return Ok(Err("the other end does not tell its name".to_owned()));
        }
        if let Some(name) = name
            && let Some(here) = system::number_of(account, name)?
        {
            return Ok(Ok(here));
        }
        if let Some(other) = system::name_of(account, there)? {
            return Ok(Err(format!("here {there} is {}", printable(&other))));
        }
        let Some(name) = name else { return Ok(Ok(there)) };
        if self.finding.is_strict {
            return Ok(Err(format!("there is no {} {} here", account.name(), printable(name))));
        }
        self.kept.push(format!("{} {} ({there})", account.name(), printable(name)));
        Ok(Ok(there))
    }

    pub(crate) fn expect_known(&self, path: &Path) -> Result<()> {
        if self.refused.is_empty() {
            return Ok(());
        }
        let one = |((account, there), why): (&(Account, u32), &String)| match self
            .name(*account, *there)
            .map(printable)
        {
            Some(name) => format!("{} {name} ({there}): {why}", account.name()),
            None => format!("{} {there}: {why}", account.name()),
        };
        let all = list(self.refused.iter().map(one));
        Err(Error::refused(
            format!("whose files these are in {} is not clear: {all}", path.display()),
            "make an account of that name on the standby's machine, or say in the map file of --owners who \
             it is there, as in `user alice = bob` or `user 1001 = 5001`",
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

/// The map of a volume that has kept the numbers of its lineage up to this snapshot: all that own something
/// in that keep theirs.
pub(crate) fn as_held(volume: &Volume, snapshot: &SnapshotInfo, monitor: &Monitor) -> Result<Accounts> {
    let mut accounts = Accounts::begun(snapshot.sequence + 1);
    let side = volume.open_snapshot(snapshot, monitor)?;
    let mut keep = |account, here| {
        // Equal numbers are always one to one.
        let _ = accounts.meet(account, here, Met { here, since: snapshot.sequence, name: None });
        Ok(here)
    };
    for inode in side.inodes()? {
        monitor.check()?;
        let mut inode = inode?;
        rows::in_attributes(&mut inode.attributes, &mut keep)?;
        rows::in_xattrs(&mut side.details(&inode)?.xattrs, &mut keep)?;
    }
    Ok(accounts)
}
