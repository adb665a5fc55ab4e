//! The standby's half of a round whose primary is at the other end of a channel.

use crate::Terms;
use crate::protocol::{Answer, Ask, Failure, Wire, nonsense};
use crate::receive::Delta;
use crate::remote::Further;
use crate::retention::{self, Keep};
use crate::standby::{Local, Offer, Opening, Spare, StandbyEnd};
use serde_json::value::RawValue;
use snapsync_model::{Error, Monitor, Result, Stage};
use uuid::Uuid;

/// Whether the other end may have old snapshots of the standby deleted after a round.
#[derive(Clone, Debug)]
pub(crate) enum Pruning {
    AsAsked,
    /// All but this, whatever it asks.
    Own(Keep),
    Never,
}

/// Answers until the round is done; its report. A failure here is told to the other end as well.
pub(crate) fn attend<'a>(
    wire: &mut Wire<'a>,
    standby: &mut Local<'a>,
    further: Further<'_, 'a>,
    pruning: Pruning,
    monitor: &'a Monitor,
) -> Result<Box<RawValue>> {
    let mut attending = Attending { wire, standby, further, pruning, has_committed: false, monitor };
    loop {
        let result = attending.next();
        match result {
            Ok(None) => {}
            Ok(Some(report)) => return Ok(report),
            Err(error) => {
                let needed = attending.standby.failed(&error, Uuid::nil());
                attending.wire.fail(&error, needed);
                return Err(error);
            }
        }
    }
}

struct Attending<'r, 'f, 'a> {
    wire: &'r mut Wire<'a>,
    standby: &'r mut Local<'a>,
    further: Further<'f, 'a>,
    pruning: Pruning,
    has_committed: bool,
    monitor: &'a Monitor,
}

impl Attending<'_, '_, '_> {
    fn next(&mut self) -> Result<Option<Box<RawValue>>> {
        match self.wire.hear()? {
            Ask::Look { lineage } => {
                let looked = self.standby.look(lineage)?;
                self.wire.tell(&Answer::Looked(looked))?;
            }
            Ask::Open { lineage, epoch, promotions, join, care } => {
                self.open(Opening { lineage, epoch, promotions, care, store: None }, join)?;
            }
            Ask::Begin { strict, has_manifest, no_space_check, spare } => {
                self.begin(Terms { strict, no_space_check }, has_manifest, spare)?;
            }
            Ask::Commit => {
                let snapshot = Box::new(self.standby.commit()?);
                self.has_committed = true;
                self.wire.tell(&Answer::Committed { snapshot, notes: self.monitor.take_notes() })?;
            }
            Ask::Secret { secret } if secret.is_sound() => {
                self.standby.keep_secret(&secret)?;
                self.wire.tell(&Answer::Kept)?;
            }
            Ask::Secret { .. } => return Err(nonsense(&self.wire.peer, "a secret that is none")),
            Ask::Scrub { pieces } => {
                self.monitor.start(Stage::Scrub, 0);
                // What it would do meanwhile is done at the other end.
                let seen = self.standby.scrub(&pieces, &mut || Ok(()))?;
                self.wire.tell(&Answer::Scrubbed(seen))?;
            }
            Ask::Prune { keep, needed } => {
                let pruned = self.may_prune(keep).and_then(|keep| self.standby.prune(&keep, &needed));
                let answer = match pruned {
                    Ok(pruned) => Answer::Pruned(pruned),
                    Err(error) if retention::is_bearable(&error) => {
                        Answer::Unpruned(Failure::of(&error, false))
                    }
                    Err(error) => return Err(error),
                };
                self.wire.tell(&answer)?;
            }
            Ask::Failed(failure) => return Err(failure.into_error(&self.wire.peer)),
            Ask::Done { report } => return Ok(Some(report)),
        }
        Ok(None)
    }

    fn open(&mut self, opening: Opening, join: Option<Uuid>) -> Result<()> {
        let mut state = self.standby.open(opening)?;
        self.further.open(join, self.wire.link(), self.monitor)?;
        state.join = self.further.announce(self.standby.store())?;
        // Paths that are not text would not come through.
        state.volume.path = state.volume.path.to_string_lossy().into_owned().into();
        self.wire.tell(&Answer::Opened(Box::new(state)))
    }

    /// What is kept, where the other end wants to keep `keep`: what this end allows.
    fn may_prune(&self, keep: Keep) -> Result<Keep> {
        if keep.is_empty() || keep.check().is_err() || !self.has_committed {
            return Err(nonsense(&self.wire.peer, "a request to delete what the standby holds"));
        }
        match &self.pruning {
            Pruning::AsAsked => Ok(keep),
            Pruning::Own(own) => Ok(own.clone()),
            Pruning::Never => Err(Error::refused(
                "it does not let this client delete any",
                "its administrator can prune there, or start its server with --allow-prune",
            )),
        }
    }

    /// What stays where old snapshots are to make room: what this end allows.
    fn may_spare(&self, spare: Spare) -> Option<Spare> {
        match &self.pruning {
            Pruning::AsAsked => Some(spare).filter(|spare| spare.keep.check().is_ok()),
            Pruning::Own(keep) => Some(Spare { keep: keep.clone(), ..spare }),
            Pruning::Never => None,
        }
    }

    fn begin(&mut self, terms: Terms, has_manifest: bool, spare: Option<Spare>) -> Result<()> {
        let spare = spare.and_then(|spare| self.may_spare(spare));
        let Wire { from, peer, .. } = &mut *self.wire;
        let mut delta = Delta::read(from, peer.clone())?;
        let standby = &mut *self.standby;
        let mut begun = delta.offer(terms, has_manifest, |offer| standby.begin(Offer { spare, ..offer }))?;
        let (seed, total) = (delta.seed(), delta.header.totals.data_bytes);
        begun.held = begun.held.told();
        self.monitor.start(Stage::Receive, total);
        self.monitor.advance(begun.kept);
        self.wire.tell(&Answer::Begun(Box::new(begun)))?;
        let peer = self.wire.peer.clone();
        let mut arrivals = vec![self.wire.arrivals()];
        arrivals.extend(self.further.arrivals(&peer, self.monitor)?);
        self.standby.take(arrivals, seed)?;
        Ok(())
    }
}

/// An answer to another question than was asked.
pub(crate) fn out_of_turn(wire: &Wire<'_>) -> Error {
    nonsense(&wire.peer, "an answer to another question")
}
