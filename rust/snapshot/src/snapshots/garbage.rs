//! What snapshots alone hold, and so what their end frees.
//!
//! A file keeps the number of its object from one table of the line to the next for as long as its bytes do
//! not change, and then gets one that was never given before. So the snapshots of the line that name an
//! object stand side by side: it goes with those among them that begin and end it. Those kept aside are asked
//! one by one.

use crate::volume::handle::Volume;
use snapsync_manifest::{FILES, ObjectTable, Turnover, turnovers};
use snapsync_model::{Monitor, Provider, Result, SnapshotInfo};
use snapsync_sys::Spot;
use std::collections::BTreeSet;

/// The record of a snapshot, and what it is called from when its end has begun.
const RECORDS: [&str; 2] = ["snapshot.json", "deleted.json"];

/// A snapshot that goes.
pub(super) struct Doomed {
    /// None where its place in the line is not known.
    pub(super) info: Option<SnapshotInfo>,
    pub(super) dir: Spot,
}

/// A table in the line.
struct Place {
    info: SnapshotInfo,
    dir: Spot,
    is_doomed: bool,
}

impl Doomed {
    /// One whose end has begun.
    pub(super) fn in_dir(dir: &Spot) -> Doomed {
        let texts = RECORDS.iter().filter_map(|name| dir.join(name).read().ok());
        let info = texts.filter_map(|text| serde_json::from_slice(&text).ok()).next();
        Doomed { info, dir: dir.clone() }
    }
}

impl Volume {
    /// Objects that no other snapshot names.
    pub(super) fn objects_of_only(&self, doomed: &[Doomed], monitor: &Monitor) -> Result<BTreeSet<u64>> {
        // What one without its table alone had is not known any more, and stays.
        let doomed: Vec<&Doomed> =
            doomed.iter().filter(|going| going.dir.join(FILES[0]).is_there()).collect();
        let is_doomed = |info: &SnapshotInfo| {
            doomed.iter().any(|going| going.info.as_ref().is_some_and(|it| it.id == info.id))
        };
        let mut others = self.snapshots()?;
        others.retain(|other| other.provider == Provider::Pool && !is_doomed(other));
        let in_line = |info: &&SnapshotInfo| !info.aside;
        let mut line: Vec<Place> =
            others.iter().filter(in_line).map(|info| self.place(info.clone())).collect();
        let mut objects = BTreeSet::new();
        for going in doomed {
            match going.info.clone().filter(|info| !info.aside) {
                Some(info) => line.push(Place { info, dir: going.dir.clone(), is_doomed: true }),
                None => objects.append(&mut self.objects_not_in(&going.dir, &others, monitor)?),
            }
        }
        line.sort_by_key(|place| (place.info.sequence, place.info.id));
        let aside: Vec<SnapshotInfo> = others.iter().filter(|info| info.aside).cloned().collect();
        let mut from = 0;
        while let Some(begin) = line[from..].iter().position(|place| place.is_doomed).map(|at| from + at) {
            let end =
                line[begin..].iter().position(|place| !place.is_doomed).map_or(line.len(), |at| begin + at);
            let run = &line[begin.saturating_sub(1)..line.len().min(end + 1)];
            objects.append(&mut self.objects_of_run(run, &aside, monitor)?);
            from = end;
        }
        Ok(objects)
    }

    fn place(&self, info: SnapshotInfo) -> Place {
        let dir = self.dir_of(info.id);
        Place { info, dir, is_doomed: false }
    }

    /// What only those have that go, of some that stand side by side between two that stay.
    fn objects_of_run(
        &self,
        run: &[Place],
        aside: &[SnapshotInfo],
        monitor: &Monitor,
    ) -> Result<BTreeSet<u64>> {
        let stays: Vec<&Place> = run.iter().filter(|place| !place.is_doomed).collect();
        stays.iter().try_for_each(|place| self.expect_there(&place.info))?;
        let tables = run.iter().map(|place| {
            monitor.check()?;
            ObjectTable::open(&place.dir)
        });
        let turns = turnovers(tables)?;
        let (has_before, has_after) = (!run[0].is_doomed, !run[run.len() - 1].is_doomed);
        let begun = || turns[..turns.len() - usize::from(has_after)].iter().flat_map(|turn| &turn.begun);
        let ended = || turns[usize::from(has_before)..].iter().flat_map(|turn| &turn.ended);
        let mut objects: BTreeSet<u64> = match (has_before, has_after) {
            (true, false) => begun().copied().collect(),
            (false, true) => ended().copied().collect(),
            (true, true) => {
                let begun: BTreeSet<u64> = begun().copied().collect();
                ended().copied().filter(|object| begun.contains(object)).collect()
            }
            (false, false) => {
                let mut all: BTreeSet<u64> = begun().copied().collect();
                ObjectTable::open(&run[0].dir)?.each(|object| _ = all.insert(object))?;
                all
            }
        };
        let stays = stays.into_iter().map(|place| &place.info).chain(aside);
        self.remove_named(stays, &mut objects, monitor)?;
        Ok(objects)
    }

    /// What the table in `dir` names and none of these snapshots.
    fn objects_not_in(
        &self,
        dir: &Spot,
        others: &[SnapshotInfo],
        monitor: &Monitor,
    ) -> Result<BTreeSet<u64>> {
        let own = ObjectTable::open(dir)?;
        let mut like_it = None;
        for other in others {
            self.expect_there(other)?;
            let other = ObjectTable::open(&self.dir_of(other.id))?;
            if other.shares_whole_with(&own) {
                like_it = Some(other);
                break;
            }
        }
        let mut objects = BTreeSet::new();
        match like_it {
            Some(other) => {
                let turns = turnovers([Ok(own), Ok(other)])?;
                objects.extend(turns.into_iter().flat_map(|Turnover { ended, .. }| ended));
            }
            None => own.each(|object| _ = objects.insert(object))?,
        }
        self.remove_named(others, &mut objects, monitor)?;
        Ok(objects)
    }

    /// Takes what any of these snapshots names out of some objects.
    fn remove_named<'a>(
        &self,
        others: impl IntoIterator<Item = &'a SnapshotInfo>,
        objects: &mut BTreeSet<u64>,
        monitor: &Monitor,
    ) -> Result<()> {
        for other in others {
            if objects.is_empty() {
                break;
            }
            monitor.check()?;
            self.expect_there(other)?;
            ObjectTable::open(&self.dir_of(other.id))?.each(|object| _ = objects.remove(&object))?;
        }
        Ok(())
    }
}
