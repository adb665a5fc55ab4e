//! What proves that an inode is equal on both sides.

/// What proves that an inode is equal on both sides without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Both sides are pool snapshots of one volume: the tables hold everything, and the same object means the
    /// same data.
    Objects,
    /// Both sides are snapshots of one subvolume. Equal attributes prove equality if the change time is
    /// clearly older than `before`, the time of the base in ns since 1970. For files they do not prove it for
    /// the data, because a write in progress continues under the time at which it began.
    Times { before: i64 },
    /// Nothing does; everything is read.
    Nothing,
}

/// A second change within one clock tick keeps the time, and the clocks involved differ a little.
pub(crate) const TICK: i64 = 100_000_000;
