//! What the primary records about the standby of a round.

use crate::report::rounds::Scrubbed;
use crate::round::held::LONG;
use crate::round::primary::{Brought, Driver};
use crate::round::steps::State;
use crate::round::{known, scrub};
use crate::secret::Secret;
use crate::volume::kept;
use snapsync_model::{Result, SnapshotInfo};
use snapsync_snapshot::{Scrub, Standby};

impl Driver<'_> {
    /// What is known about scrubs of this standby.
    pub(super) fn known(&self, state: &State) -> Option<Scrub> {
        self.primary.standbys().get(&state.volume.id).and_then(|standby| standby.scrub.clone())
    }

    pub(super) fn remember(&mut self, state: &State, brought: &Brought) -> Result<()> {
        // Files that were sent whole, whatever they differ in, did not all change; and what the standby had
        // lost came as if it were new.
        let brings_lost = self.lost.as_ref().is_some_and(|(_, lost)| !lost.is_empty());
        let is_plain = self.unlike.is_empty() && !brings_lost;
        let primary = self.primary.hold(LONG, self.monitor)?;
        if let Some(outgoing) = brought.outgoing.as_ref().filter(|_| is_plain) {
            let id = brought.snapshot.id;
            kept::keep(primary, kept::before(primary, id)?, id, &outgoing.manifest());
        }
        let mut scrub = self.known(state).unwrap_or_else(Scrub::begin);
        if brought.outgoing.is_some() {
            self.mended += self.unlike.len() as u64;
            std::mem::take(&mut self.unlike).iter().for_each(|ino| _ = scrub.pending.remove(ino));
        }
        if brought.outgoing.is_none()
            && self.standby.tells().is_some()
            && !self.is_known_to_hold(state, &brought.snapshot)
        {
            self.monitor.note(format!(
                "{} says that it holds snapshot {} already: nothing was sent",
                self.looked.path, brought.snapshot.name
            ));
            return Ok(());
        }
        self.note(state, &brought.snapshot, scrub)
    }

    fn is_known_to_hold(&self, state: &State, snapshot: &SnapshotInfo) -> bool {
        self.primary.standbys().get(&state.volume.id).is_some_and(|known| known.snapshot == snapshot.id)
    }

    fn note(&mut self, state: &State, snapshot: &SnapshotInfo, scrub: Scrub) -> Result<()> {
        let primary = self.primary.hold(LONG, self.monitor)?;
        primary.find_snapshot(&snapshot.id.to_string())?;
        self.rights.expect_place(primary, state.volume.id)?;
        let known = primary.standbys().get(&state.volume.id);
        if known.is_some_and(|known| self.noted.is_some_and(|noted| noted != known.snapshot)) {
            // Another round has brought the standby more meanwhile.
            return Ok(());
        }
        let standby = Standby {
            path: self.looked.path.clone(),
            snapshot: snapshot.id,
            name: snapshot.name.clone(),
            at: jiff::Timestamp::now().to_string(),
            filesystem: self.looked.filesystem.clone(),
            scrub: Some(scrub),
            secret: known.and_then(|known| known.secret.clone()),
            reads: self.rights.only_reads,
            claim: None,
        };
        if self.options.new_standby && self.rights.replaces {
            known::replace(primary, state.volume.id, &standby, self.monitor)?;
        }
        self.noted = Some(snapshot.id);
        primary.remember_standby(state.volume.id, standby)
    }

    /// Gives a secret to a standby that is new, or that an older version recorded. The standby stores it
    /// first.
    pub(super) fn make_known(&mut self, state: &State) -> Result<()> {
        let id = state.volume.id;
        if self.primary.standbys().get(&id).is_none_or(|known| known.secret.is_some()) {
            return Ok(());
        }
        let secret = Secret::new()?;
        self.primary.let_go();
        if !self.standby.keep_secret(&secret)? {
            return Ok(());
        }
        let primary = self.primary.hold(LONG, self.monitor)?;
        let Some(known) = primary.standbys().get(&id).cloned() else { return Ok(()) };
        primary.remember_standby(id, Standby { secret: Some(secret.hash()), ..known })
    }

    /// Reads a share of the common files again.
    pub(super) fn scrub(&mut self, state: &State, snapshot: &SnapshotInfo) -> Result<Scrubbed> {
        if self.options.scrub.period == 0 || !self.is_known_to_hold(state, snapshot) {
            return Ok(Scrubbed::default());
        }
        let mut scrub = self.known(state).unwrap_or_else(Scrub::begin);
        let before = scrub.clone();
        let (scrubbing, monitor) = (self.options.scrub, self.monitor);
        // A full disk has no space for the mark, and the share is read all the same.
        let _reading = self.primary.hold(LONG, monitor)?.read_out(snapshot.id, None).ok();
        self.primary.let_go();
        let (report, doubted) =
            scrub::scrub(&self.primary, self.standby, snapshot, scrubbing, &mut scrub, monitor)?;
        if scrub != before {
            self.note(state, snapshot, scrub)?;
            let primary = self.primary.hold(LONG, monitor)?;
            primary.doubt(primary.doubted().union(&doubted).copied().collect())?;
        }
        Ok(report)
    }
}
