//! Checks before staging whether the space suffices.

use snapsync_model::{Change, Context, Error, Kind, Monitor, Op, Result, count, size};
use snapsync_sys::{Root, Stat};

/// Of smaller files that change in place a whole copy is kept.
pub(crate) const WORTH: u64 = 256 << 10;
/// Files up to this size are copied and not cloned: XFS sets aside 128 KiB, by default, for what is written
/// into a clone, and gives them back only when it has time.
pub(crate) const SMALL: u64 = 128 << 10;

/// The bytes and inodes that staging, commit and the standby's snapshot take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Need {
    /// Whether the standby's snapshot and the commit copy data that they cannot share.
    pub(crate) copies: bool,
    /// Whether the data is already on this file system and stays where it is.
    pub(crate) shares: bool,
    /// Whether overwritten data is copied first, because blocks cannot be shared.
    pub(crate) saves: bool,
    /// Whether what older snapshots find in the tree gets an inode of its own before it is overwritten there.
    /// It is copied where blocks cannot be shared.
    pub(crate) displaces: bool,
    /// Of what changes in place only what is overwritten, where that is less than half.
    pub(crate) by_range: bool,
    /// The bytes of a block.
    pub(crate) block: u64,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Need {
    /// Adds what a row takes; `stat` is of its existing file.
    pub(crate) fn add(&mut self, change: &Change, stat: Option<&Stat>) {
        // A hostile manifest may claim more than 64 bits hold; the sum need not be exact then.
        let blocks = |bytes: u64| bytes.div_ceil(self.block).saturating_mul(self.block);
        let bytes_of = |takes_space: &dyn Fn(Op) -> bool| {
            let extents = change.extents.iter().filter(|e| takes_space(e.op));
            extents.fold(0, |sum: u64, e| sum.saturating_add(blocks(e.length)))
        };
        // If blocks cannot be shared, clones are copies.
        let copies_clones = self.copies || (self.displaces && self.saves);
        let staged = bytes_of(&|op| (op == Op::Data && !self.shares) || (copies_clones && op == Op::Clone));
        let reserved = bytes_of(&|op| op == Op::Unwritten);
        let copied = if self.copies && change.flags.created {
            staged
        } else if self.copies && change.flags.data {
            // The ranges go into the file, and the snapshot copies everything in it that is not a hole.
            let held = stat.map_or(u64::MAX, |stat| stat.blocks.saturating_mul(512));
            let size = blocks(change.new.map_or(0, |a| a.size));
            staged.saturating_add(size.min(held.saturating_add(staged)))
        } else {
            0
        };
        self.bytes = [staged, reserved, copied].into_iter().fold(self.bytes, u64::saturating_add);
        self.inodes += u64::from(change.flags.created);
        if self.saves && change.survives() && change.flags.data {
            self.save(change, stat.map_or(0, |stat| stat.blocks.saturating_mul(512)));
        }
        if let Some(stat) = stat.filter(|_| self.displaces && change.kind == Kind::File) {
            self.displace(change, stat);
        }
    }

    /// What goes takes nothing, but for a file that has names elsewhere.
    fn displace(&mut self, change: &Change, stat: &Stat) {
        let stays = change.survives() && change.flags.data;
        let has_others = change.flags.deleted && stat.nlink as usize > change.links_removed.len();
        if stays || has_others {
            self.inodes += 1;
            let is_copied = self.saves || stat.attributes.size <= SMALL;
            let held = if is_copied { stat.blocks.saturating_mul(512) } else { 0 };
            let touched = touched(change).saturating_add(self.block);
            let is_large = change.old.is_some_and(|old| old.size >= WORTH);
            let is_partly = self.by_range && stays && is_large && touched < held / 2;
            self.bytes = self.bytes.saturating_add(if is_partly { touched } else { held });
        }
    }

    /// Adds the copy of what a row overwrites, which is at most what the file takes now.
    fn save(&mut self, change: &Change, taken: u64) {
        self.bytes = self.bytes.saturating_add(touched(change).min(taken));
    }

    /// Refuses if the space does not suffice. `kept` bytes are taken already. With `packed`, data may shrink
    /// there.
    pub(crate) fn check(&self, root: &Root, kept: u64, packed: bool, monitor: &Monitor) -> Result<()> {
        let (bytes, show) = (self.bytes.saturating_sub(kept), root.path().display());
        let filesystem =
            snapsync_sys::filesystem(root.fd()).context("read the file system of", root.path())?;
        let free = filesystem.available;
        if bytes > free && packed && snapsync_sys::compresses(root.fd()) {
            monitor.note(format!(
                "{show} has {} free, and this round needs {}: it may fit, because data is compressed there",
                size(free),
                size(bytes)
            ));
        } else if bytes > free {
            return Err(no_space(
                format!("{show} has {} free, and this round needs {}", size(free), size(bytes)),
                "free space there, delete old snapshots of it, or name a larger target; --no-space-check \
                 tries it",
            ));
        }
        match filesystem.inodes_available {
            Some(free) if free < self.inodes => Err(no_space(
                format!(
                    "{show} has {} left, and this round needs {}",
                    count(free, "inode", "inodes"),
                    self.inodes
                ),
                "delete files or old snapshots there, or name a larger target; --no-space-check tries it",
            )),
            _ => Ok(()),
        }
    }
}

/// The bytes that a row overwrites or cuts off.
fn touched(change: &Change) -> u64 {
    let (old, new) = (change.old.map_or(0, |a| a.size), change.new.map_or(0, |a| a.size));
    let cut = old.saturating_sub(new);
    change.extents.iter().fold(cut, |sum, e| sum.saturating_add(e.length))
}

fn no_space(what: String, advice: &str) -> Error {
    Error::NoSpace { what, advice: advice.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::{Attributes, ChangeFlags, Link};

    fn stat() -> Stat {
        let here = snapsync_sys::stat_at(rustix::fs::CWD, std::ffi::OsStr::new(".")).unwrap();
        Stat { kind: Kind::File, nlink: 1, blocks: 16, ..here }
    }

    fn change(flags: ChangeFlags) -> Change {
        let side = Some(Attributes { size: 8000, ..Attributes::default() });
        let link = Link { parent: 0, name: b"f"[..].into() };
        Change {
            ino: 5,
            generation: 0,
            kind: Kind::File,
            flags,
            path: None,
            old_path: None,
            links_added: Vec::new(),
            links_removed: if flags.deleted { vec![link] } else { Vec::new() },
            nlink: 1,
            nlink_old: 1,
            new: side.filter(|_| !flags.deleted),
            old: side,
            symlink_target: None,
            xattrs: None,
            extents: Vec::new(),
        }
    }

    #[test]
    fn what_is_displaced_takes_an_inode_and_where_blocks_are_not_shared_its_bytes() {
        let taken = |saves, flags, stat: Stat| {
            let mut need = Need { displaces: true, saves, block: 4096, ..Need::default() };
            need.add(&change(flags), Some(&stat));
            (need.bytes, need.inodes)
        };
        let data = ChangeFlags { data: true, ..ChangeFlags::default() };
        let deleted = ChangeFlags { deleted: true, ..ChangeFlags::default() };
        let mut large = stat();
        large.attributes.size = SMALL + 1;
        assert_eq!((taken(true, data, stat()), taken(false, data, stat())), ((8192, 1), (8192, 1)));
        assert_eq!((taken(true, data, large), taken(false, data, large)), ((8192, 1), (0, 1)));
        // What goes is its own object, unless it has names that do not go.
        assert_eq!(taken(true, deleted, stat()), (0, 0));
        assert_eq!(taken(true, deleted, Stat { nlink: 2, ..stat() }), (8192, 1));
        assert_eq!(taken(true, ChangeFlags::default(), stat()), (0, 0));
    }
}
