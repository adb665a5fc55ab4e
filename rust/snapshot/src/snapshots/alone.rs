//! What each snapshot holds by itself, what all of them cost, and which have lost bytes: told by tables and
//! the files of the pool, and not by looking into the tree.

use crate::pool::before::Stack;
use crate::pool::hand_over::has_before_images;
use crate::pool::pack::Pool;
use crate::pool::weight::{Weight, of_object, of_tree};
use crate::volume::handle::Volume;
use rayon::prelude::*;
use serde::Serialize;
use snapsync_manifest::{ObjectTable, Turnover, turnovers};
use snapsync_model::{Context, Provider, Result, SnapshotInfo};
use snapsync_sys::Spot;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use uuid::Uuid;

/// Whether a snapshot has all of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    Whole,
    /// Some are neither in the pool nor in the tree.
    Thinned,
    /// The same on a primary that keeps no history of its own.
    Light,
}

/// What deleting a snapshot, and no other, would free. Not known of a subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Alone {
    pub snapshot: Uuid,
    pub bytes: Option<u64>,
    pub inodes: Option<u64>,
    /// None where its table cannot be read.
    pub state: Option<Condition>,
}

/// The snapshots from the first to the last that name an object.
struct Span {
    object: u64,
    first: usize,
    last: usize,
}

/// The tables of a volume, and what their objects come to.
struct Tables<'a> {
    volume: &'a Volume,
    line: Vec<&'a SnapshotInfo>,
    aside: Vec<&'a SnapshotInfo>,
    /// Of objects that the newest of the line does not name.
    ended: Vec<Span>,
    /// The snapshots that alone name an object.
    owners: HashMap<u64, Uuid>,
    weights: HashMap<Uuid, Weight>,
    thinned: HashSet<Uuid>,
}

impl Volume {
    pub fn alone(&self, snapshots: &[SnapshotInfo]) -> Vec<Alone> {
        let is_there = |info: &&SnapshotInfo| info.provider == Provider::Pool && self.missing(info).is_none();
        let told = Tables::of(self, snapshots.iter().filter(is_there).collect());
        let alone = |info: &SnapshotInfo| {
            let none = Alone { snapshot: info.id, bytes: None, inodes: None, state: None };
            if self.missing(info).is_some() {
                return Alone { state: Some(Condition::Thinned), ..none };
            }
            if info.provider == Provider::Btrfs {
                return Alone { state: Some(Condition::Whole), ..none };
            }
            let Ok(told) = &told else { return none };
            let weight = told.weights.get(&info.id).copied().unwrap_or_default();
            let state = match told.thinned.contains(&info.id) {
                true if self.is_light() => Condition::Light,
                true => Condition::Thinned,
                false => Condition::Whole,
            };
            let (bytes, inodes) = (Some(weight.bytes), Some(weight.inodes));
            Alone { snapshot: info.id, bytes, inodes, state: Some(state) }
        };
        snapshots.iter().map(alone).collect()
    }

    /// What all snapshots take beside the tree; None where they are subvolumes, which share with it.
    pub fn weight_of_history(&self) -> Result<Option<Weight>> {
        if self.info().provider == Provider::Btrfs {
            return Ok(None);
        }
        let linked = Mutex::new(HashSet::new());
        let counts = |found: &std::fs::Metadata| {
            found.nlink() == 1 || snapsync_model::locked(&linked).insert((found.dev(), found.ino()))
        };
        let mut all = Weight::default();
        for name in ["pool", "snapshots"] {
            let dir = self.store().join(name);
            if dir.is_there() {
                all = all.and(of_tree(&dir, self.filesystem, &counts)?);
            }
        }
        Ok(Some(all))
    }
}

impl<'a> Tables<'a> {
    fn of(volume: &'a Volume, snapshots: Vec<&'a SnapshotInfo>) -> Result<Tables<'a>> {
        let (aside, line) = snapshots.into_iter().partition(|info| info.aside);
        let mut tables = Tables {
            volume,
            line,
            aside,
            ended: Vec::new(),
            owners: HashMap::new(),
            weights: HashMap::new(),
            thinned: HashSet::new(),
        };
        tables.find_spans()?;
        tables.ask_those_aside()?;
        tables.weigh()?;
        Ok(tables)
    }

    fn open(&self, info: &SnapshotInfo) -> Result<ObjectTable> {
        ObjectTable::open(&self.volume.dir_of(info.id))
    }

    /// Finds where objects of the line begin and end. What the newest alone names begins there.
    fn find_spans(&mut self) -> Result<()> {
        let Some(newest) = self.line.last().copied() else { return Ok(()) };
        let turns = turnovers(self.line.iter().map(|info| self.open(info)))?;
        let mut begun = HashMap::new();
        for (at, turn) in turns.iter().enumerate() {
            begun.extend(turn.begun.iter().map(|object| (*object, at + 1)));
        }
        for (last, turn) in turns.iter().enumerate() {
            for object in turn.ended.iter().copied() {
                self.ended.push(Span { object, first: begun.get(&object).copied().unwrap_or(0), last });
            }
        }
        for span in self.ended.iter().filter(|span| span.first == span.last) {
            self.owners.insert(span.object, self.line[span.first].id);
        }
        match turns.last() {
            Some(turn) => self.owners.extend(turn.begun.iter().map(|object| (*object, newest.id))),
            None => {
                let table = self.open(newest)?;
                table.each(|object| _ = self.owners.insert(object, newest.id))?;
            }
        }
        if let Some(absent) = self.volume.absent().filter(|absent| absent.snapshot == newest.id) {
            let last = self.line.len() - 1;
            let first = |object: &u64| begun.get(object).copied().unwrap_or(0);
            let spans =
                absent.objects.iter().map(|object| Span { object: *object, first: first(object), last });
            self.ended.extend(spans);
        }
        Ok(())
    }

    /// What those have that are kept aside, the line has not alone; what they have alone it has not at all.
    fn ask_those_aside(&mut self) -> Result<()> {
        let ended: HashSet<u64> = self.ended.iter().map(|span| span.object).collect();
        for aside in &self.aside {
            let own = self.open(aside)?;
            own.each(|object| _ = self.owners.remove(&object))?;
        }
        let mut owners = Vec::new();
        for aside in &self.aside {
            let others = || self.line.iter().chain(&self.aside).filter(|other| other.id != aside.id);
            let own = self.open(aside)?;
            let like_it = others()
                .map(|other| self.open(other))
                .find(|other| other.as_ref().map_or(true, |other| own.shares_whole_with(other)));
            let mut alone = HashSet::new();
            match like_it {
                Some(other) => {
                    let turns = turnovers([Ok(own), other])?;
                    alone.extend(turns.into_iter().flat_map(|Turnover { ended, .. }| ended));
                }
                None => own.each(|object| _ = alone.insert(object))?,
            }
            alone.retain(|object| !ended.contains(object));
            for other in self.line.last().into_iter().chain(self.aside.iter().filter(|it| it.id != aside.id))
            {
                self.open(other)?.each(|object| _ = alone.remove(&object))?;
            }
            owners.extend(alone.into_iter().map(|object| (object, aside.id)));
        }
        self.owners.extend(owners);
        Ok(())
    }

    /// Looks at the objects that one snapshot alone has, or the newest has not.
    fn weigh(&mut self) -> Result<()> {
        let (pool, filesystem) = (Pool::new(self.volume.store().join("pool")), self.volume.filesystem);
        let look = |object: u64| of_object(&pool, object, filesystem).context("look at", pool.dir().show());
        let owned: Vec<(u64, Uuid)> = self.owners.iter().map(|(object, owner)| (*object, *owner)).collect();
        let owned: Vec<(Uuid, Option<Weight>)> =
            owned.into_par_iter().map(|(object, owner)| Ok((owner, look(object)?))).collect::<Result<_>>()?;
        let hanging = self.over_nothing(&pool)?;
        let is_lost = |span: &&Span| {
            hanging.contains(&span.object) || !look(span.object).is_ok_and(|weight| weight.is_some())
        };
        let lost: Vec<&Span> = self.ended.par_iter().filter(is_lost).collect();
        let lost_objects: HashSet<u64> = lost.iter().map(|span| span.object).collect();
        for span in &lost {
            self.thinned.extend(self.line[span.first..=span.last].iter().map(|info| info.id));
        }
        let newest = self.line.last().map(|info| info.id);
        for (owner, weight) in owned {
            match weight {
                Some(weight) => {
                    let sum = self.weights.entry(owner).or_default();
                    *sum = sum.and(weight);
                }
                // The tree has what is the newest's.
                None if Some(owner) == newest && self.volume.is_partly_in_tree() => {}
                None => _ = self.thinned.insert(owner),
            }
        }
        for aside in &self.aside {
            let mut is_thinned = false;
            self.open(aside)?.each(|object| is_thinned |= lost_objects.contains(&object))?;
            self.thinned.extend(is_thinned.then_some(aside.id));
        }
        for info in self.line.iter().chain(&self.aside) {
            let own = self.weight_of_table(&self.volume.dir_of(info.id))?;
            let sum = self.weights.entry(info.id).or_default();
            *sum = sum.and(own);
        }
        Ok(())
    }

    /// Objects that have before-images over one that neither the pool has nor the newest table names.
    fn over_nothing(&self, pool: &Pool) -> Result<HashSet<u64>> {
        if !has_before_images(pool.dir()) {
            return Ok(HashSet::new());
        }
        let on = self.ended.par_iter().filter_map(|span| {
            let bottom = Stack::of(pool, span.object).ok()??.bottom;
            (!pool.has_whole(bottom)).then_some((span.object, bottom))
        });
        let on: Vec<(u64, u64)> = on.collect();
        let mut gone: HashSet<u64> = on.iter().map(|(_, bottom)| *bottom).collect();
        if let Some(newest) = self.line.last() {
            self.open(newest)?.each(|object| _ = gone.remove(&object))?;
        }
        Ok(on.into_iter().filter(|(_, bottom)| gone.contains(bottom)).map(|(object, _)| object).collect())
    }

    /// Most of a table belongs to several.
    fn weight_of_table(&self, dir: &Spot) -> Result<Weight> {
        of_tree(dir, self.volume.filesystem, &|found| found.nlink() == 1)
    }
}
