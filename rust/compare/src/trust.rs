//! What proves that an inode is equal on both sides.

use snapsync_model::Inode;

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
    /// The base is what the receiver holds, known by its digests: a file whose data is the target's has the
    /// target's object and change time there. Its bytes are not at hand.
    Copy,
    /// Nothing does; everything is read.
    Nothing,
}

impl Trust {
    /// Whether a file that is there on both sides has the same data, preallocation aside.
    pub(crate) fn proves_data(self, base: &Inode, target: &Inode) -> bool {
        let is_one = base.object == target.object;
        match self {
            Trust::Objects => is_one && base.object != 0,
            Trust::Copy => is_one && base.ctime == target.ctime,
            Trust::Times { .. } | Trust::Nothing => false,
        }
    }
}

/// A second change within one clock tick keeps the time, and the clocks involved differ a little.
pub(crate) const TICK: i64 = 100_000_000;
