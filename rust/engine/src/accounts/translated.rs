//! A side as it is seen with other numbers for users and groups.

use crate::accounts::rows::{in_attributes, in_xattrs};
use snapsync_model::{
    Account, Accounts, Address, Content, Details, Inode, Inodes, Layout, Link, Owners, Packed, RelPath,
    Result, Side,
};
use std::collections::BTreeSet;

/// What sets a number apart whose account no round has met yet, where another one has it at the other end.
const APART: u32 = 1 << 31;

/// Whose numbers are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Lineage,
    Volume,
}

impl Of {
    fn other(self) -> Of {
        match self {
            Of::Lineage => Of::Volume,
            Of::Volume => Of::Lineage,
        }
    }
}

pub(crate) struct Translated {
    side: Box<dyn Side>,
    accounts: Accounts,
    of: Of,
}

impl Translated {
    /// A side with the numbers `of` one end where it has those of the other, if there is a map.
    pub(crate) fn by(accounts: Option<&Accounts>, of: Of, side: Box<dyn Side>) -> Box<dyn Side> {
        match accounts {
            Some(accounts) => Box::new(Translated { side, accounts: accounts.clone(), of }),
            None => side,
        }
    }

    fn number(&self, of: Of, account: Account, number: u32) -> u32 {
        let apart = number ^ APART;
        match self.look_up(of, account, number) {
            (Some(known), _) => known,
            (None, Some(_)) => apart,
            // Back to what was set apart.
            (None, None) if matches!(self.look_up(of.other(), account, apart), (None, Some(_))) => apart,
            (None, None) => number,
        }
    }

    /// The number at the end that is shown, and that of the account which has this number there.
    fn look_up(&self, of: Of, account: Account, number: u32) -> (Option<u32>, Option<u32>) {
        let (here, there) = (self.accounts.here(account, number), self.accounts.there(account, number));
        if of == Of::Lineage { (there, here) } else { (here, there) }
    }

    fn inode(&self, of: Of, mut inode: Inode) -> Result<Inode> {
        let number = &mut |account, number| Ok(self.number(of, account, number));
        in_attributes(&mut inode.attributes, number)?;
        inode.details.iter_mut().try_for_each(|details| in_xattrs(&mut details.xattrs, number))?;
        Ok(inode)
    }

    /// As the side itself knows it.
    fn own(&self, inode: &Inode) -> Result<Inode> {
        self.inode(self.of.other(), inode.clone())
    }

    fn details_of(&self, mut details: Details) -> Result<Details> {
        in_xattrs(&mut details.xattrs, &mut |account, number| Ok(self.number(self.of, account, number)))?;
        Ok(details)
    }

    fn all<'a>(&'a self, inodes: Inodes<'a>) -> Inodes<'a> {
        Box::new(inodes.map(|inode| self.inode(self.of, inode?)))
    }
}

impl Side for Translated {
    fn inodes(&self) -> Result<Inodes<'_>> {
        Ok(self.all(self.side.inodes()?))
    }

    fn everything(&self) -> Result<Inodes<'_>> {
        Ok(self.all(self.side.everything()?))
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        self.side.path_of(link)
    }

    fn details(&self, inode: &Inode) -> Result<Details> {
        match &inode.details {
            Some(details) => Ok((**details).clone()),
            None => self.details_of(self.side.details(&self.own(inode)?)?),
        }
    }

    fn open(&self, inode: &Inode) -> Result<Content> {
        self.side.open(&self.own(inode)?)
    }

    fn details_and_data(&self, path: &RelPath, inode: &Inode) -> Result<(Details, Result<Content>)> {
        let (details, data) = self.side.details_and_data(path, &self.own(inode)?)?;
        Ok((self.details_of(details)?, data))
    }

    fn holds_still(&self, inode: &Inode, file: &Content) -> Result<()> {
        self.side.holds_still(&self.own(inode)?, file)
    }

    fn layout(&self, inode: &Inode, file: &Content) -> Result<Layout> {
        self.side.layout(&self.own(inode)?, file)
    }

    fn known_layout(&self, inode: &Inode) -> Result<Option<Layout>> {
        self.side.known_layout(&self.own(inode)?)
    }

    fn packed(&self, inode: &Inode) -> Result<Option<Packed>> {
        self.side.packed(&self.own(inode)?)
    }

    fn space(&self) -> Option<u128> {
        self.side.space()
    }

    fn owners(&self, address: Address) -> Result<Option<Owners>> {
        self.side.owners(address)
    }

    fn pick(&self, inos: &BTreeSet<u64>) -> Result<Vec<Inode>> {
        self.side.pick(inos)?.into_iter().map(|inode| self.inode(self.of, inode)).collect()
    }
}
