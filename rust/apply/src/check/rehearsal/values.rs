//! Times, projects, hints and access lists: whether the target holds a value, which some values tell of
//! others.

use crate::check::rehearsal::trial::{REMEMBERED, Rehearsal};
use crate::check::rehearsal::unseen::Unseen;
use crate::limits::RarePart;
use snapsync_model::{Attributes, Change, Rare, Result, Xattr};
use snapsync_sys::{Entry, acl, set_rare_of};
use std::fs::File;

impl Rehearsal<'_> {
    pub(super) fn time(&mut self, change: &Change, new: &Attributes) -> Result<()> {
        let (grain, time) = (self.grain()?, new.time());
        if grain == 0 {
            self.limits.mtime = true;
            self.lose("modification time", change);
            return Ok(());
        }
        let whole = time - time.rem_euclid(grain);
        if whole != time {
            self.limits.mtime = true;
            self.lose(&format!("modification time finer than the target's grain of {grain} ns"), change);
        }
        let held = match self.times.held(whole) {
            Some(known) => known,
            None => {
                let held = self.kept_time(&new.at_time(whole))? == Some(whole);
                self.times.learn(whole, held);
                held
            }
        };
        if !held {
            self.limits.mtime = true;
            self.lose("modification time outside the target's range", change);
        }
        Ok(())
    }

    /// The time that the target keeps for this one; None if it keeps none.
    pub(crate) fn kept_time(&self, wanted: &Attributes) -> Result<Option<i128>> {
        if self.grain()? == 0 { Ok(None) } else { self.try_time(wanted) }
    }

    fn try_time(&self, wanted: &Attributes) -> Result<Option<i128>> {
        self.with_file(|file| {
            let entry = Entry::from_open(file.try_clone()?);
            let is_set = entry.set_time(wanted).is_ok();
            Ok(if is_set { Some(entry.stat()?.attributes.time()) } else { None })
        })
    }

    fn grain(&self) -> Result<i128> {
        // An odd second with a fraction that differs at every power of ten.
        const FINE: i128 = 1_600_000_001_987_654_321;
        if let Some(grain) = self.times.grain.get() {
            return Ok(*grain);
        }
        let kept = self.try_time(&Attributes::default().at_time(FINE))?;
        let grains = (0..10).map(|power| 10_i128.pow(power)).chain([2_000_000_000]);
        let grain = grains.into_iter().find(|grain| kept == Some(FINE - FINE % grain)).unwrap_or(0);
        Ok(*self.times.grain.get_or_init(|| grain))
    }

    pub(super) fn rare(&mut self, is_dir: bool, change: &Change, rare: Rare) -> Result<()> {
        for part in RarePart::ALL {
            let wanted = part.of(rare, Rare::default());
            if wanted != Rare::default() && !self.holds_rare(is_dir, wanted)? {
                self.limits.rare.insert(part);
                self.lose(part.name(), change);
            }
        }
        Ok(())
    }

    fn holds_rare(&mut self, is_dir: bool, wanted: Rare) -> Result<bool> {
        // One project stands for all.
        let wanted = Rare { project: wanted.project.min(1), ..wanted };
        if let Some(known) = self.rare.get(&(is_dir, wanted)) {
            return Ok(*known);
        }
        let tried = if is_dir && self.unseen.is_some() { Unseen::rare_to_try(wanted) } else { wanted };
        let attempt = |file: &File| Ok(set_rare_of(file, tried).is_ok());
        let held = if is_dir { self.with_dir(attempt)? } else { self.with_file(attempt)? };
        if self.rare.len() < REMEMBERED {
            self.rare.insert((is_dir, wanted), held);
        }
        Ok(held)
    }

    /// The access list that goes with the mode, for one that does not: the two were read between two changes.
    pub(super) fn beside(&mut self, change: &Change, xattr: &Xattr, mode: u32) -> Option<Xattr> {
        let differs = *xattr.name == *acl::ACCESS && acl::mode_of(&xattr.value)? != mode & 0o777;
        differs.then(|| {
            self.lose("access list that differs from the mode", change);
            Xattr { value: acl::beside(&xattr.value, mode).into(), ..xattr.clone() }
        })
    }

    /// Whether the target has access lists at all.
    pub(super) fn holds_access_lists(&self) -> Result<bool> {
        self.with_file(|file| {
            Ok(Entry::from_open(file.try_clone()?).set_xattr(acl::ACCESS, acl::SMALLEST).is_ok())
        })
    }
}
