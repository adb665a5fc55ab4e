//! All inodes of a file system at once, in the order of its disk, where it can be asked for them.

use crate::pool::attempt::{Attempt, misfit};
use crate::pool::ground::Ground;
use crate::pool::store::PoolStore;
use rayon::prelude::*;
use snapsync_manifest::{Table, is_gone};
use snapsync_model::{Attributes, Context, Inode, Look, ROOT};
use snapsync_sys::ext4::{Tables, Unfit};
use snapsync_sys::xfs::{self, BulkStat};
use snapsync_sys::{FileSystem, Root, Stat, stat_of};
use std::collections::BTreeSet;
use std::io;

/// Numbers that are closer together than this are read in one call, with those between them.
const GAP: u64 = 64;
/// The number of inodes in one call.
const RUN: u64 = 512;
/// The rows of a patch that one thread reads.
const PART: usize = 256;

/// Where the attributes of inodes are read by number.
#[derive(Debug)]
pub(crate) enum Inodes {
    /// `XFS_IOC_BULKSTAT`.
    Xfs,
    /// The inode tables of ext4.
    Ext4(Tables),
}

/// The inodes that differ from the last table.
#[derive(Default)]
pub(crate) struct Differing {
    /// With their link counts.
    pub(crate) looks: Vec<(Look, u32)>,
    pub(crate) missing: Vec<u64>,
    /// Whether the tree is one to be walked: an inode is encrypted, and only a directory itself tells whether
    /// its key is there; or one has another owner and the same change time, so that numbers of users mean
    /// something else here than on the disk.
    pub(crate) is_unfit: bool,
}

impl Differing {
    pub(crate) fn len(&self) -> usize {
        self.looks.len() + self.missing.len()
    }
}

impl Inodes {
    /// Those of the volume's file system, with the identity of its mounting, if a scan of them proves
    /// anything against the last table; None if the tree is to be walked.
    pub(crate) fn of(
        store: &PoolStore,
        root: &Root,
        last: &Table,
        ground: &Ground,
    ) -> Attempt<Option<(Inodes, String)>> {
        let mounting = ground.mounting.clone().filter(|now| last.info().complete.as_ref() == Some(now));
        let Some(mounting) = mounting.filter(|_| root.is_bare()) else { return Ok(None) };
        let inodes = match store.filesystem.magic {
            FileSystem::XFS => Inodes::Xfs,
            FileSystem::EXT4 => match Tables::open(root.fd()) {
                Ok(tables) => Inodes::Ext4(tables),
                Err(Unfit::NoDevice) => return Ok(None),
                Err(Unfit::Unknown(why)) => {
                    return misfit(format!("its inodes cannot be read at once: {why}"));
                }
            },
            _ => return Ok(None),
        };
        // Checks permission, and that user ids mean the same inside and outside.
        let top = stat_of(root.fd()).context("read the attributes of", root.path())?;
        if !inodes
            .one(root, top.ino)
            .is_ok_and(|told| told.is_some_and(|(look, _)| look == look_of(&top, top.ino)))
        {
            return Ok(None);
        }
        if let Inodes::Ext4(tables) = &inodes {
            let dir = store.dir.directory().context("open", store.dir.show())?;
            if !inodes.told(root, tables.are_current(dir))? {
                return misfit("its block device does not show what was just changed");
            }
        }
        Ok(Some((inodes, mounting)))
    }

    /// Whether an inode has any name.
    pub(crate) fn has_name(&self, root: &Root, inode: &Inode) -> Attempt<bool> {
        let found = self.told(root, self.one(root, inode.ino))?;
        Ok(found.is_some_and(|(look, nlink)| look.generation == inode.generation && nlink > 0))
    }

    /// A walk does without the block device.
    fn told<T>(&self, root: &Root, found: io::Result<T>) -> Attempt<T> {
        match (self, found) {
            (Inodes::Ext4(_), Err(error)) => misfit(format!("its inodes cannot be read at once: {error}")),
            (_, found) => Ok(found.context("read the inodes of", root.path())?),
        }
    }

    fn one(&self, root: &Root, ino: u64) -> io::Result<Option<(Look, u32)>> {
        match self {
            Inodes::Xfs => xfs::look_at(root.fd(), ino),
            Inodes::Ext4(tables) => tables.steady(ino),
        }
    }

    /// Those that are not as the last table says, or are `doubted`.
    pub(crate) fn differing(
        &self,
        root: &Root,
        top: &Stat,
        last: &Table,
        doubted: &BTreeSet<u64>,
    ) -> Attempt<Differing> {
        let compared = |looks: &[Look]| self.told(root, self.compare(root, top, looks, doubted));
        let batches = (0..last.batches()?).into_par_iter().map(|at| compared(&last.looks_at(at)?));
        let mut parts: Vec<Differing> = batches.collect::<Attempt<_>>()?;
        let patch: Vec<Look> = last.patch().iter().filter(|row| !is_gone(row)).map(Look::from).collect();
        parts.extend(patch.par_chunks(PART).map(compared).collect::<Attempt<Vec<_>>>()?);
        let mut all = Differing::default();
        for mut part in parts {
            all.looks.append(&mut part.looks);
            all.missing.append(&mut part.missing);
            all.is_unfit |= part.is_unfit;
        }
        Ok(all)
    }

    /// `rows` are sorted.
    fn compare(
        &self,
        root: &Root,
        top: &Stat,
        mut rows: &[Look],
        doubted: &BTreeSet<u64>,
    ) -> io::Result<Differing> {
        let mut found = Differing::default();
        if let Some((row, others)) = rows.split_first().filter(|(row, _)| row.ino == ROOT) {
            rows = others;
            let look = look_of(top, ROOT);
            found.looks.extend((*row != look).then_some((look, top.nlink)));
        }
        let differs = |row: &Look, now: Option<(Look, u32)>| match now {
            None => found.missing.push(row.ino),
            Some((look, nlink)) if *row != look || doubted.contains(&row.ino) => {
                found.is_unfit |= differs_in_owner_alone(row, &look);
                found.looks.push((look, nlink));
            }
            Some(_) => {}
        };
        match self {
            Inodes::Xfs => in_bulk(root, rows, differs)?,
            Inodes::Ext4(tables) => {
                let mut reader = tables.reader();
                reader.each(rows, differs)?;
                found.is_unfit |= reader.has_encrypted;
            }
        }
        Ok(found)
    }
}

/// Calls `act` with each row, and with the inode that has its number now.
fn in_bulk(
    root: &Root,
    mut rows: &[Look],
    mut act: impl FnMut(&Look, Option<(Look, u32)>),
) -> io::Result<()> {
    let mut bulk = BulkStat::default();
    while let Some(first) = rows.first() {
        let is_near = |two: &&[Look]| two[1].ino - two[0].ino <= GAP && two[1].ino - first.ino < RUN;
        let (run, others) = rows.split_at(1 + rows.windows(2).take_while(is_near).count());
        rows = others;
        let mut expected = run.iter().peekable();
        bulk.each(root.fd(), first.ino, run[run.len() - 1].ino, |look, nlink| {
            while let Some(row) = expected.next_if(|row| row.ino < look.ino) {
                act(row, None);
            }
            if let Some(row) = expected.next_if(|row| row.ino == look.ino) {
                act(row, Some((look, nlink)));
            }
        })?;
        expected.for_each(|row| act(row, None));
    }
    Ok(())
}

/// Another owner would have another change time.
fn differs_in_owner_alone(row: &Look, look: &Look) -> bool {
    let Attributes { uid, gid, .. } = row.attributes;
    *row != *look && *row == Look { attributes: Attributes { uid, gid, ..look.attributes }, ..*look }
}

pub(crate) fn look_of(stat: &Stat, ino: u64) -> Look {
    Look::of(ino, stat.generation, stat.kind, stat.attributes, stat.ctime, stat.blocks)
}
