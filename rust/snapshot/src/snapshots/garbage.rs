//! What a snapshot alone holds, and so what its end frees.
//!
//! A file keeps the number of its object from one table of the line to the next for as long as its bytes do
//! not change, and then gets one that was never given before. So the snapshots of the line that name an
//! object stand side by side: what neither neighbour names, no other of the line does. Those kept aside are
//! asked one by one.

use crate::volume::handle::Volume;
use snapsync_manifest::Table;
use snapsync_model::{Monitor, Provider, Result, SnapshotInfo};
use snapsync_sys::Spot;
use std::collections::BTreeSet;
use uuid::Uuid;

/// The record of a snapshot, and what it is called from when its end has begun.
const RECORDS: [&str; 2] = ["snapshot.json", "deleted.json"];

impl Volume {
    /// Objects that no other snapshot names than the one whose table is in `dir`.
    pub(super) fn unshared_objects(&self, id: Uuid, dir: &Spot, monitor: &Monitor) -> Result<BTreeSet<u64>> {
        if !dir.join("table.arrow").is_there() {
            // What it alone had is not known any more, and stays.
            return Ok(BTreeSet::new());
        }
        let own = Table::open(dir)?;
        let mut alone: Option<BTreeSet<u64>> = None;
        for other in self.that_may_share(id, dir)? {
            monitor.check()?;
            self.expect_there(&other)?;
            let other = Table::open(&self.dir_of(other.id))?;
            match &mut alone {
                Some(alone) if alone.is_empty() => break,
                // Few are left of a neighbour's differences: to look for them is all that there is to do.
                Some(alone) if !own.shares_whole_with(&other) => {
                    other.each_object(|object| _ = alone.remove(&object))?;
                }
                Some(alone) => {
                    let others = own.objects_not_in(&other)?;
                    alone.retain(|object| others.contains(object));
                }
                None => alone = Some(own.objects_not_in(&other)?),
            }
        }
        if let Some(alone) = alone {
            return Ok(alone);
        }
        let mut all = BTreeSet::new();
        own.each_object(|object| _ = all.insert(object))?;
        Ok(all)
    }

    /// The neighbours of a snapshot of the line, and those that were kept aside; every other one where its
    /// place in the line is not known. Those come first that most likely have their whole table in common.
    fn that_may_share(&self, id: Uuid, dir: &Spot) -> Result<Vec<SnapshotInfo>> {
        let mut others = self.snapshots()?;
        others.retain(|other| other.id != id && other.provider == Provider::Pool);
        let records = RECORDS.iter().filter_map(|name| dir.join(name).read().ok());
        let own = records.filter_map(|text| serde_json::from_slice::<SnapshotInfo>(&text).ok()).next();
        let Some(own) = own.filter(|own| own.id == id && !own.aside) else { return Ok(others) };
        let is_before = |other: &SnapshotInfo| other.sequence < own.sequence;
        let (mut line, aside): (Vec<_>, Vec<_>) = others.into_iter().partition(|other| !other.aside);
        let after = line.iter().position(|other| !is_before(other)).map(|at| line.swap_remove(at));
        let before = line.into_iter().filter(is_before).max_by_key(|other| other.sequence);
        Ok(before.into_iter().chain(after).chain(aside).collect())
    }
}
