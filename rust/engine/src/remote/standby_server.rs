//! Serves the standby's half of a round whose primary is at the other end of a channel.

use crate::delta::incoming::{Delta, fetch, nonsense};
use crate::delta::staging::{Again, IncomingDelta, Spare};
use crate::keep::Keep;
use crate::options::{Options, Terms};
use crate::remote::channels::Channels;
use crate::remote::digests;
use crate::remote::messages::{Answer, Ask, Failure};
use crate::remote::pulled::{Came, Seen};
use crate::remote::wire::Wire;
use crate::round::guard;
use crate::round::sizes::size_after;
use crate::round::standby::Local;
use crate::round::steps::{Adopt, OpenRequest, Outlook, Prospect, StandbyEnd};
use crate::volume::copies::{self, Stretch};
use crate::volume::pieces::Piece;
use crate::volume::retention;
use serde_json::value::RawValue;
use snapsync_manifest::ManifestReader;
use snapsync_model::{AccountNames, Counts, Error, Monitor, Naming, Result, SnapshotInfo, Stage, Subset};
use snapsync_stream::wire::ManifestHead;
use uuid::Uuid;

/// Whose options count in a round.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RoundOptions<'o> {
    /// Those of the primary's end, which started the round. It may delete old snapshots only if `prunes`
    /// allows it.
    Asked { prunes: bool },
    /// Those of this end, which started the round, whatever the other end asks for.
    Own(&'o Options),
}

/// The deltas of one round: an interrupted one, and the new one.
const MOST_DELTAS: usize = 2;
/// How often each of them may begin.
const MOST_BEGINS: usize = 64;
/// The most files, and bytes of them, that are read again if this end sets no limit.
const MOST_FILES: usize = 1 << 20;
/// The most stretches of changed files that are told of: of 64 TiB.
const MOST_STRETCHES: usize = 1 << 20;
/// The most bytes that a round reads again beyond its limit.
const SLACK: u64 = 1 << 28;

/// Answers until the round is done; returns what was done, and the other end's report. A failure here is sent
/// to the other end too.
pub(crate) fn serve_standby<'a>(
    wire: &mut Wire<'a>,
    standby: &mut Local<'a>,
    channels: Channels<'_, 'a>,
    options: RoundOptions<'_>,
    monitor: &'a Monitor,
) -> Result<(Seen, Box<RawValue>)> {
    let seen = Seen::default();
    let (begun, turns) = (None, Turns::default());
    let mut serving = Serving { wire, standby, channels, options, seen, begun, turns, monitor };
    loop {
        let result = serving.next();
        match result {
            Ok(None) => {}
            Ok(Some(report)) => return Ok((serving.seen, report)),
            Err(error) => {
                let needed = serving.standby.failed(&error, Uuid::nil());
                serving.wire.fail(&error, needed);
                return Err(error);
            }
        }
    }
}

/// Counts the questions of each kind.
#[derive(Debug, Default)]
struct Turns {
    looks: usize,
    plans: usize,
    secrets: usize,
    records: usize,
    prunes: usize,
    stretches: usize,
    /// Of the delta that is not committed.
    begins: usize,
    files: usize,
    bytes: u64,
}

struct Serving<'r, 'f, 'o, 'a> {
    wire: &'r mut Wire<'a>,
    standby: &'r mut Local<'a>,
    channels: Channels<'f, 'a>,
    options: RoundOptions<'o>,
    seen: Seen,
    /// The delta that has arrived but is not committed.
    begun: Option<Came>,
    turns: Turns,
    monitor: &'a Monitor,
}

impl Serving<'_, '_, '_, '_> {
    fn next(&mut self) -> Result<Option<Box<RawValue>>> {
        let ask = self.wire.hear()?;
        if !self.is_in_turn(&ask) {
            return Err(nonsense(&self.wire.peer, "a request out of turn"));
        }
        match ask {
            Ask::Look { lineage, plan } => {
                let looked = self.standby.look(lineage, plan)?;
                self.wire.tell(&Answer::Looked(Box::new(looked)))?;
            }
            Ask::Foresee { strict, no_space_check, spares, subset, names, owners } => {
                self.foresee(self.terms(strict, no_space_check), spares, subset.as_ref(), (names, owners))?;
            }
            Ask::Open { lineage, epoch, promotions, join, drift, adopt, owners } => {
                let opening = OpenRequest { lineage, epoch, promotions, drift, owners, adopt, store: None };
                self.open(self.asked(opening), join)?;
            }
            Ask::Records { reading } => {
                let side = self.standby.adopted_side()?;
                digests::tell_side(self.wire, &*side, reading, self.monitor)?;
            }
            Ask::Begin { strict, has_manifest, no_space_check, spare, again } => {
                self.begin(self.terms(strict, no_space_check), has_manifest, (spare, again))?;
            }
            Ask::Copies { stretches } => {
                self.monitor.start(Stage::Compare, 0);
                let copied = self.standby.copies(&stretches, &mut || Ok(()))?;
                self.wire.tell(&Answer::Copied(copied))?;
            }
            Ask::Commit => self.commit()?,
            Ask::Secret { secret } if secret.is_sound() => {
                self.standby.keep_secret(&secret)?;
                self.wire.tell(&Answer::Kept)?;
            }
            Ask::Secret { .. } => return Err(nonsense(&self.wire.peer, "a secret that is none")),
            Ask::Scrub { pieces } => {
                self.monitor.start(Stage::Scrub, 0);
                // The other end does the work that could be done meanwhile.
                let seen = self.standby.scrub(&pieces, &mut || Ok(()))?;
                self.wire.tell(&Answer::Scrubbed(seen))?;
            }
            Ask::Prune { keep, needed } => self.prune(keep, &needed)?,
            Ask::Failed(failure) => return Err(self.wire.told(failure)),
            Ask::Done { report } => return Ok(Some(report)),
        }
        Ok(None)
    }

    /// Whether a question comes in the right order, and not too often.
    fn is_in_turn(&mut self, ask: &Ask) -> bool {
        let is_open = self.seen.state.is_some();
        let is_between = is_open && self.begun.is_none();
        let turns = &mut self.turns;
        let first = |count: &mut usize| {
            *count += 1;
            *count == 1
        };
        match ask {
            Ask::Look { .. } => !is_open && first(&mut turns.looks),
            Ask::Foresee { .. } => !is_open && turns.looks == 1 && first(&mut turns.plans),
            Ask::Open { .. } => !is_open,
            Ask::Begin { again, .. } => {
                turns.begins = if self.begun.is_some() { turns.begins + 1 } else { 1 };
                is_open
                    && self.seen.came.len() < MOST_DELTAS
                    && turns.begins <= MOST_BEGINS
                    && again.as_ref().is_none_or(|again| again.unlike.len() <= Again::MOST)
            }
            Ask::Records { .. } => is_between && first(&mut turns.records),
            // The changes are found again before a delta begins again.
            Ask::Copies { stretches } => is_open && turns.may_tell(stretches),
            Ask::Commit => self.begun.is_some(),
            Ask::Secret { .. } => is_between && first(&mut turns.secrets),
            Ask::Prune { .. } => is_between && first(&mut turns.prunes),
            Ask::Scrub { pieces } => is_between && turns.may_scrub(pieces, self.options),
            Ask::Failed(_) => true,
            Ask::Done { .. } => is_between,
        }
    }

    /// How the standby is opened: as its own end says, if that started the round.
    fn asked(&self, opening: OpenRequest) -> OpenRequest {
        let RoundOptions::Own(own) = self.options else { return opening };
        let subset = opening.adopt.map(|adopt| adopt.subset).unwrap_or_default();
        let adopt = own.adopt.map(|reading| Adopt { reading, subset });
        OpenRequest { drift: own.drift, owners: own.owners.clone(), adopt, ..opening }
    }

    /// Tells what a plan would come to, whose manifest follows.
    fn foresee(
        &mut self,
        terms: Terms,
        spares: bool,
        subset: Option<&Subset>,
        (names, owners): (Option<AccountNames>, Option<Naming>),
    ) -> Result<()> {
        let spares = spares && matches!(self.options, RoundOptions::Asked { prunes: true });
        let Wire { from, peer, .. } = &mut *self.wire;
        let announced = ManifestHead::read(from, peer)?;
        let scratch = snapsync_sys::scratch()?;
        let manifest = scratch.path().join("manifest.arrow");
        fetch(from, announced, &manifest, peer)?;
        let found = self.standby.foresee(Prospect {
            manifest: &manifest,
            subset,
            names: names.as_ref(),
            owners: owners.as_ref(),
            terms,
            spares,
        })?;
        let outlook = Outlook { notes: self.monitor.take_notes(), ..found.unwrap_or_default() };
        self.wire.tell(&Answer::Foreseen(Box::new(outlook)))
    }

    /// The requirements for a target.
    fn terms(&self, strict: bool, no_space_check: bool) -> Terms {
        match self.options {
            RoundOptions::Own(own) => Terms { strict: own.strict, no_space_check: own.no_space_check },
            RoundOptions::Asked { .. } => Terms { strict, no_space_check },
        }
    }

    fn commit(&mut self) -> Result<()> {
        let snapshot = self.standby.commit()?;
        self.seen.set_aside = self.standby.kept().cloned();
        let notes = self.monitor.take_notes();
        self.seen.notes.extend(notes.iter().cloned());
        let came = self.begun.take().map(|came| Came { snapshot: snapshot.clone(), ..came });
        self.seen.came.extend(came);
        self.wire.tell(&Answer::Committed { snapshot: Box::new(snapshot), notes })
    }

    fn prune(&mut self, keep: Keep, needed: &[Uuid]) -> Result<()> {
        let pruned = self.may_prune(keep).and_then(|keep| self.standby.prune(&keep, needed));
        let answer = match pruned {
            Ok(pruned) => {
                self.seen.pruned.extend(pruned.iter().cloned());
                Answer::Pruned(pruned)
            }
            Err(error) if retention::is_bearable(&error) => Answer::Unpruned(Failure::of(&error, false)),
            Err(error) => return Err(error),
        };
        self.wire.tell(&answer)
    }

    fn open(&mut self, opening: OpenRequest, join: Option<Uuid>) -> Result<()> {
        let mut state = self.standby.open(opening)?;
        self.seen.state = Some(state.clone());
        self.channels.open(join, self.wire.link(), self.monitor)?;
        state.join = self.channels.announce(self.standby.store())?;
        // Paths that are not UTF-8 cannot be sent as text.
        state.volume.path = state.volume.path.to_string_lossy().into_owned().into();
        self.wire.tell(&Answer::Opened(Box::new(state)))
    }

    /// The rules to keep by, of which the other end asks for `keep`, as far as this end allows them.
    fn may_prune(&self, keep: Keep) -> Result<Keep> {
        if keep.is_empty() || keep.check().is_err() || self.seen.came.is_empty() {
            return Err(nonsense(&self.wire.peer, "a request to delete what the standby holds"));
        }
        match self.options {
            RoundOptions::Asked { prunes: true } => Ok(keep),
            RoundOptions::Own(own) if !own.keep.is_empty() => Ok(own.keep.clone()),
            RoundOptions::Asked { .. } | RoundOptions::Own(_) => Err(Error::refused(
                "it does not let this client delete any",
                "its administrator can prune there, or start its server with --allow-prune",
            )),
        }
    }

    /// What is kept when old snapshots make space, as far as this end allows deleting any.
    fn may_spare(&self, spare: Spare) -> Option<Spare> {
        match self.options {
            RoundOptions::Asked { prunes: true } => Some(spare).filter(|spare| spare.keep.check().is_ok()),
            RoundOptions::Own(own) if !own.keep.is_empty() => Some(Spare { keep: own.keep.clone(), ..spare }),
            RoundOptions::Asked { .. } | RoundOptions::Own(_) => None,
        }
    }

    fn begin(
        &mut self,
        terms: Terms,
        has_manifest: bool,
        (spare, again): (Option<Spare>, Option<Again>),
    ) -> Result<()> {
        let spare = spare.and_then(|spare| self.may_spare(spare));
        let Wire { from, peer, .. } = &mut *self.wire;
        let mut delta = Delta::read(from, peer.clone())?;
        if self.begun.as_ref().is_some_and(|begun| begun.snapshot.id != delta.header.snapshot.id) {
            return Err(nonsense(peer, "another snapshot before it committed the one that had begun"));
        }
        let standby = &mut *self.standby;
        let take = |offer: IncomingDelta<'_>| standby.begin(IncomingDelta { spare, again, ..offer });
        let mut begun = delta.offer(terms, has_manifest, take)?;
        let (seed, total) = (delta.seed(), delta.header.totals.data_bytes);
        let counts = ManifestReader::open(&standby.incoming()?.manifest())?.counts()?;
        let base = standby.newest()?;
        if let (RoundOptions::Own(own), Some(base)) = (self.options, &base) {
            guarded(own, standby, &counts, (base, &delta.header.snapshot))?;
        }
        self.begun = Some(Came {
            base,
            snapshot: delta.header.snapshot.clone(),
            counts,
            kept: begun.kept,
            losses: begun.losses.clone(),
        });
        self.seen.pruned.extend(begun.pruned.iter().cloned());
        begun.held = begun.held.told();
        self.monitor.start(Stage::Receive, total);
        self.monitor.advance(begun.kept);
        self.wire.tell(&Answer::Begun(Box::new(begun)))?;
        let peer = self.wire.peer.clone();
        let mut arrivals = vec![self.wire.arrivals()];
        arrivals.extend(self.channels.arrivals(&peer, self.monitor)?);
        self.standby.take(arrivals, seed)?;
        Ok(())
    }
}

/// The primary judges its own changes, unless it is an older or another one than it should be. How much is
/// left is not believed either.
fn guarded(
    own: &Options,
    standby: &Local<'_>,
    counts: &Counts,
    (base, snapshot): (&SnapshotInfo, &SnapshotInfo),
) -> Result<()> {
    let Some(limits) = &own.guard else { return Ok(()) };
    let (entries, bytes) = size_after(Some(base), counts).unzip();
    let snapshot = SnapshotInfo { entries, bytes, ..snapshot.clone() };
    let incoming = standby.incoming()?;
    let path = incoming.root().path().display().to_string();
    guard::check(limits, &incoming.manifest(), counts, (base, &snapshot), &path)
}

impl Turns {
    /// Whether a primary may be told of these copies.
    fn may_tell(&mut self, stretches: &[Stretch]) -> bool {
        self.stretches = self.stretches.saturating_add(stretches.len());
        self.stretches <= MOST_STRETCHES && copies::fit(&stretches.iter())
    }

    /// Whether these pieces may be read again; the other end reads the same ones.
    fn may_scrub(&mut self, pieces: &[Piece], options: RoundOptions<'_>) -> bool {
        let limit = match options {
            RoundOptions::Own(own) if own.scrub.period == 0 => return false,
            RoundOptions::Own(own) => own.scrub.limit.saturating_add(SLACK),
            RoundOptions::Asked { .. } => u64::MAX,
        };
        self.files = self.files.saturating_add(pieces.len());
        self.bytes = pieces.iter().fold(self.bytes, |bytes, piece| bytes.saturating_add(piece.length()));
        !pieces.is_empty()
            && self.files <= MOST_FILES
            && self.bytes <= limit
            && pieces.iter().all(Piece::is_sound)
    }
}
