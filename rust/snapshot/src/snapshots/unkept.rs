//! What a promotion would have to do for bytes that only the tree has. Nothing is written but files without a
//! name, which are gone at once.

use crate::pool::pack::Pool;
use crate::pool::snapshot::PoolSnapshot;
use crate::volume::handle::Volume;
use rayon::prelude::*;
use serde::Serialize;
use snapsync_manifest::{ObjectTable, turnovers};
use snapsync_model::{Context, Error, Inode, Monitor, Result, Side, SnapshotInfo};
use snapsync_sys::{can_share, supports_reflinks};
use std::collections::HashSet;
use std::time::Instant;

/// So many files are cloned to know how long one takes.
const TRIALS: usize = 512;

/// Files of the newest snapshot that have no object.
#[derive(Debug, Default)]
pub struct Unkept {
    pub files: u64,
    pub bytes: u64,
    /// Whether a promotion makes objects of them, which share their blocks.
    pub is_kept: bool,
    /// How long that takes.
    pub seconds: Option<f64>,
    /// Otherwise the snapshots that have such files too, and lose those that change.
    pub thins: Vec<Thinning>,
}

/// A snapshot that loses what changes in the tree from now on.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Thinning {
    pub snapshot: SnapshotInfo,
    pub files: u64,
}

impl Volume {
    pub fn unkept(&self, newest: &SnapshotInfo, monitor: &Monitor) -> Result<Unkept> {
        if !self.is_partly_in_tree() {
            return Ok(Unkept::default());
        }
        let snapshot = self.open_pool(newest)?;
        let (mut unkept, mut trials) = (Unkept::default(), Vec::new());
        for row in snapshot.table.rows()? {
            monitor.check()?;
            let row = row?;
            if snapshot.is_without_object(&row) {
                (unkept.files, unkept.bytes) = (unkept.files + 1, unkept.bytes + row.blocks * 512);
                if trials.len() < TRIALS {
                    trials.push(row);
                }
            }
        }
        unkept.is_kept = self.store().directory().is_ok_and(supports_reflinks);
        if unkept.is_kept {
            unkept.seconds = Some(self.seconds_for(&snapshot, &trials)? * unkept.files as f64);
        } else {
            unkept.thins = self.thins(unkept.files)?;
        }
        Ok(unkept)
    }

    /// How long the clone of a file takes, on all threads.
    fn seconds_for(&self, snapshot: &PoolSnapshot, trials: &[Inode]) -> Result<f64> {
        let store = self.store().directory().context("open the directory", self.store().show())?;
        let begun = Instant::now();
        trials.par_iter().try_for_each(|row| {
            let file = match snapshot.open(row) {
                Err(Error::Lost { .. }) => return Ok(()),
                file => file?,
            };
            snapshot.layout(row, &file)?;
            file.bottom().map(|file| can_share(file, &store));
            Ok::<_, Error>(())
        })?;
        Ok(begun.elapsed().as_secs_f64() / trials.len().max(1) as f64)
    }

    /// The snapshots that name objects of the newest which have no file; that one does of `files`.
    fn thins(&self, mut files: u64) -> Result<Vec<Thinning>> {
        let (aside, line): (Vec<_>, Vec<_>) = self.snapshots()?.into_iter().partition(|info| info.aside);
        let (pool, open) = (Pool::new(self.store().join("pool")), |info: &SnapshotInfo| {
            ObjectTable::open(&self.dir_of(info.id))
        });
        let is_without = |object: &&u64| !pool.has(**object);
        let (mut thins, mut ended) = (Vec::new(), HashSet::<u64>::new());
        let turns = turnovers(line.iter().map(open))?;
        let before = turns.iter().rev().map(Some).chain([None]);
        for (info, turn) in line.iter().rev().zip(before) {
            thins.push(Thinning { snapshot: info.clone(), files });
            let Some(turn) = turn else { break };
            let begun = turn.begun.iter().filter(|object| !ended.contains(*object));
            files -= begun.filter(is_without).count() as u64;
            ended.extend(&turn.ended);
        }
        if let (false, Some(newest)) = (aside.is_empty(), line.last()) {
            let mut only_in_tree = HashSet::new();
            open(newest)?.each(|object| _ = is_without(&&object).then(|| only_in_tree.insert(object)))?;
            for snapshot in aside {
                let mut files = 0;
                open(&snapshot)?.each(|object| files += u64::from(only_in_tree.contains(&object)))?;
                thins.push(Thinning { snapshot, files });
            }
        }
        thins.retain(|thinning| thinning.files > 0);
        thins.sort_by_key(|thinning| (thinning.snapshot.sequence, thinning.snapshot.id));
        Ok(thins)
    }
}
