//! The steps of staging, from the checks to the seal.

use crate::check::drift::Check;
use crate::check::rehearsal::trial::Rehearsal;
use crate::check::space::Need;
use crate::journal::Phase;
use crate::known::{self, Recorder};
use crate::limits::{Limits, Loss};
use crate::stage::incoming::Incoming;
use crate::stage::received;
use crate::vet::manifest::vet;
use snapsync_model::{Context, Error, Kind, Result};
use snapsync_stream::Held;
use snapsync_sys::{Entry, fault, supports_reflinks, sync_filesystem};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the target cannot hold.
    pub losses: Vec<Loss>,
    /// The data that an interrupted run left in the stage, and its number of bytes.
    pub held: Held,
    pub kept: u64,
}

impl<'a> Incoming<'a> {
    /// Checks before staging what the target cannot hold, whether it is still the base, and how much space is
    /// needed. `copies` says that the standby's snapshot will copy data; `unlisted` that entries outside the
    /// base may come and go on the standby and change the times of their directories; `shares` that data
    /// takes no space.
    pub fn prepare(&mut self, copies: bool, unlisted: bool, shares: bool) -> Result<Report> {
        fault::point("stage.manifest");
        self.places = vet(&self.manifest(), self.monitor)?.into();
        let mut rehearsal = Rehearsal::new(&self.root, &self.staged("probe")?)?;
        // Where nothing was there before, the check needs no limits of rows to come: one pass does for both.
        let at_once = self.manifest_reader()?.creates_all()?;
        if !at_once {
            for change in self.manifest_reader()? {
                self.monitor.check()?;
                rehearsal.row(&change?)?;
            }
        }
        self.clear_the_way()?;
        let mut touched = Recorder::create(&self.root, &self.staged(known::FILE)?)?;
        let lost = rehearsal.limits().clone().and(Limits::remembered(&self.store)?);
        let saves = !supports_reflinks(self.root.fd());
        let Need { displaces, by_range, .. } = self.need;
        let need = Need { copies, shares, saves, displaces, by_range, block: self.block, ..Need::default() };
        let mut check = Check::new(&self.root, &self.places, lost, !unlisted, (&mut rehearsal, need))?;
        check.tree(&self.manifest(), Some(&mut touched), at_once)?;
        self.need = check.need;
        let (limits, losses) = rehearsal.finish();
        touched.finish()?;
        self.journal.limits = limits;
        if self.goes_on {
            self.take_up()?;
        }
        let kept = self.received.bytes();
        self.received.open(&self.stage())?;
        Ok(Report { losses, held: self.received.held().clone(), kept })
    }

    /// Refuses if there is not enough space. Data of an interrupted run has its space already. With `packed`,
    /// compression may make data smaller.
    pub fn has_room(&self, packed: bool) -> Result<()> {
        self.need.check(&self.root, self.received.bytes(), packed, self.monitor)
    }

    /// Removes whatever was put in the place of the stage's own files.
    fn clear_the_way(&self) -> Result<()> {
        for file in [known::FILE, received::FILE] {
            let path = self.staged(file)?;
            let is_file = |entry: Entry| entry.stat().is_ok_and(|stat| stat.kind == Kind::File);
            if !self.root.entry(&path).is_ok_and(is_file) {
                self.remove_staged(&path).context("remove", self.root.show(&path))?;
            }
        }
        Ok(())
    }

    /// Ends staging: everything that the manifest names is on the disk, and so is what the commit will
    /// overwrite. From here on the commit is completed or undone.
    pub fn seal(&mut self) -> Result<()> {
        self.monitor.check()?;
        let expected = self.manifest_reader()?.counts()?.data_bytes;
        let received = self.received.bytes();
        if received != expected || self.received.is_waiting() {
            return Err(Error::integrity(
                format!("{received} bytes of data arrived, and the manifest names {expected}"),
                "run the command again",
            ));
        }
        self.journal.known = true;
        self.learn()?;
        self.clones()?;
        self.further_names()?;
        self.note_staged()?;
        self.journal.saved = self.save()?;
        fault::point("save.done");
        self.copy_displaced()?;
        fault::point("displace.done");
        sync_filesystem(self.root.fd()).context("sync the file system of", self.root.path())?;
        self.journal.limits.remember(&self.store)?;
        fault::point("stage.done");
        self.set_phase(Phase::Committing)?;
        fault::point("commit.marked");
        self.is_fresh = true;
        Ok(())
    }
}
