//! What proves that an inode is the same on both sides.

/// What proves, without opening it, that an inode is the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Both sides are pool snapshots of one volume: the tables hold everything, and the same object is the
    /// same data.
    Objects,
    /// Both sides are snapshots of one subvolume: equal attributes prove it for a change time clearly older
    /// than `before` (ns since 1970), when the base was taken; of files all but the data, which a write that
    /// was under way then goes on changing under the time at which it began.
    Times { before: i64 },
    /// Nothing does: everything is read.
    Nothing,
}

/// A change within one clock tick keeps its time; and clocks differ a little between what is compared.
pub(crate) const TICK: i64 = 100_000_000;
