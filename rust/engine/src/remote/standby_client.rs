//! Asks for the steps of the standby's half of a round over a channel.

use crate::delta::outgoing::announce;
use crate::delta::staging::{Again, Data, IncomingDelta, StageReport, is_cut, with_data, workers};
use crate::digest::{Reading, hex};
use crate::keep::Keep;
use crate::options::{DriftOptions, Terms, TransferOptions};
use crate::remote::channels::Channels;
use crate::remote::digests::Records;
use crate::remote::messages::{Answer, Ask, MOST_TOLD, named};
use crate::remote::wire::{Wire, out_of_turn};
use crate::report::rounds::Synced;
use crate::round::steps::{
    OpenRequest, Outlook, Pending, Prospect, StandbyEnd, StandbyInfo, State, TakeRecords,
};
use crate::secret::Secret;
use crate::volume::copies::{Copied, Stretch};
use crate::volume::pieces::{Piece, Seen};
use snapsync_model::{Error, Monitor, Result, SnapshotInfo, printable};
use snapsync_stream::wire::{lift, write_head};
use snapsync_stream::{Limit, Transferred, send};
use snapsync_sys::Named;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A peer that has failed says so within this time.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A standby at the other end of a channel.
pub(crate) struct Remote<'w, 'a> {
    wire: &'w mut Wire<'a>,
    transfer: &'w TransferOptions,
    channels: Channels<'w, 'a>,
    monitor: &'a Monitor,
    limit: Option<Arc<Limit>>,
    pending: Option<Pending>,
    /// Frames are being sent, and no message may come between them.
    is_sending: bool,
    /// Whether it is new enough to tell what a plan would come to.
    foresees: bool,
    /// Its answer to a commit may be a lie, and the snapshot may exist.
    has_asked_to_commit: bool,
}

impl<'w, 'a> Remote<'w, 'a> {
    pub(crate) fn new(
        wire: &'w mut Wire<'a>,
        transfer: &'w TransferOptions,
        channels: Channels<'w, 'a>,
        monitor: &'a Monitor,
    ) -> Remote<'w, 'a> {
        Remote {
            wire,
            transfer,
            channels,
            monitor,
            limit: transfer.limit.map(Limit::new),
            pending: None,
            is_sending: false,
            foresees: false,
            has_asked_to_commit: false,
        }
    }

    /// One that may be asked about plans.
    pub(crate) fn foreseeing(self, foresees: bool) -> Remote<'w, 'a> {
        Remote { foresees, ..self }
    }

    fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        self.wire.tell(ask)?;
        self.wire.hear_answer()
    }

    /// Ends the round with its report, which the other end may need.
    pub(crate) fn done(&mut self, report: &Synced) -> Result<()> {
        let report = serde_json::value::to_raw_value(report)
            .map_err(|e| Error::failed(format!("cannot tell the report: {e}"), ""))?;
        self.wire.tell(&Ask::Done { report })
    }

    fn there(&self, path: &str) -> String {
        format!("{}:{path}", self.wire.peer.display())
    }

    fn offer(&mut self, offer: &IncomingDelta<'_>) -> Result<()> {
        let again = offer.again.as_ref().map(Again::told);
        let now = pending(offer);
        // Whoever brings over what is staged reads both manifests.
        let has_manifest = again.is_none() && self.pending.as_ref() == Some(&now);
        let Terms { strict, no_space_check } = offer.terms;
        let spare = offer.spare.clone().filter(|spare| !spare.keep.is_empty());
        self.wire.tell(&Ask::Begin { strict, has_manifest, no_space_check, spare, again })?;
        self.pending = Some(now);
        self.wire.to.get_mut().limit(self.limit.as_ref());
        let to = &mut self.wire.to;
        let mut put = || {
            write_head(to, offer.header)?;
            to.write_all(&offer.manifest.to_bytes())?;
            if !has_manifest {
                std::io::copy(&mut offer.file.open()?, to)?;
            }
            to.flush()
        };
        put().map_err(|e| lift(e, "write to", &self.wire.peer))
    }

    /// Replaces the error by the reason that the other end may have given.
    fn explained(&mut self, error: Error) -> Error {
        match error {
            // The other end may be waiting for something that does not come any more; this end must not wait
            // too.
            Error::Cut { .. } => {
                self.wire.from.get_mut().hurry(LAST_WORDS);
                match self.wire.hear_answer() {
                    Err(told) if self.wire.is_needed.is_some() => told,
                    _ => error,
                }
            }
            other => other,
        }
    }
}

impl StandbyEnd for Remote<'_, '_> {
    fn look(&mut self, lineage: Option<Uuid>, plan: Option<DriftOptions>) -> Result<StandbyInfo> {
        match self.ask(&Ask::Look { lineage, plan })? {
            Answer::Looked(looked) => {
                let lacks = looked.lacks.as_ref().map(|what| named(what, &self.wire.peer, &self.wire.about));
                Ok(StandbyInfo { path: self.there(&looked.path), lacks, ..*looked }.bounded())
            }
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn foresee(&mut self, prospect: Prospect<'_>) -> Result<Option<Outlook>> {
        if !self.foresees {
            return Ok(None);
        }
        let Prospect { manifest, subset, names, owners, terms, spares } = prospect;
        let Terms { strict, no_space_check } = terms;
        let (subset, names, owners) = (subset.cloned(), names.cloned(), owners.cloned());
        self.wire.tell(&Ask::Foresee { strict, no_space_check, spares, subset, names, owners })?;
        let announced = announce(manifest)?;
        let to = &mut self.wire.to;
        let mut put = || {
            to.write_all(&announced.to_bytes())?;
            std::io::copy(&mut manifest.open()?, to)?;
            to.flush()
        };
        put().map_err(|e| lift(e, "write to", &self.wire.peer)).map_err(|e| self.explained(e))?;
        match self.wire.hear_answer()? {
            Answer::Foreseen(mut outlook) => {
                outlook.losses.iter_mut().for_each(|losses| losses.truncate(MOST_TOLD));
                let whom = self.wire.peer.display();
                if let Some(refused) = &mut outlook.refused {
                    refused.what = named(&refused.what, &self.wire.peer, &self.wire.about);
                }
                let notes = std::mem::take(&mut outlook.notes).into_iter().take(MOST_TOLD);
                notes.for_each(|note| self.monitor.note(format!("{whom}: {note}")));
                Ok(Some(*outlook))
            }
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn open(&mut self, opening: OpenRequest) -> Result<State> {
        let OpenRequest { lineage, epoch, promotions, drift, owners, adopt, store } = opening;
        let join = self.channels.announce(store)?;
        match self.ask(&Ask::Open { lineage, epoch, promotions, join, drift, adopt, owners })? {
            Answer::Opened(mut state) => {
                self.channels.open(state.join, self.wire.link(), self.monitor)?;
                state.volume.path = self.there(&state.volume.path.to_string_lossy()).into();
                state.recovered.truncate(MOST_TOLD);
                self.pending.clone_from(&state.pending);
                Ok(*state)
            }
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn records(&mut self, reading: Reading, take: TakeRecords<'_>) -> Result<()> {
        self.wire.tell(&Ask::Records { reading })?;
        let mut records = Records::new(reading, self.wire.peer.clone());
        while let Some(more) = records.next(self.wire, self.monitor)? {
            take(more)?;
        }
        Ok(())
    }

    fn copies(
        &mut self,
        stretches: &[Stretch],
        meanwhile: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Copied>> {
        self.wire.tell(&Ask::Copies { stretches: stretches.to_vec() })?;
        meanwhile()?;
        match self.wire.hear_answer()? {
            Answer::Copied(copied) if copied.len() == stretches.len() => Ok(copied),
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn begin(&mut self, offer: IncomingDelta<'_>) -> Result<StageReport> {
        self.has_asked_to_commit = false;
        let offered = self.offer(&offer);
        offered.map_err(|e| self.explained(e))?;
        match self.wire.hear_answer()? {
            Answer::Begun(mut begun) => {
                begun.losses.truncate(MOST_TOLD);
                begun.pruned.truncate(MOST_TOLD);
                Ok(*begun)
            }
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn transfer(&mut self, data: Data<'_>) -> Result<Transferred> {
        self.is_sending = true;
        let rows = with_data(data.manifest)?;
        let peer = self.wire.peer.clone();
        let mut outlets = vec![self.wire.outlet(self.limit.as_ref())];
        outlets.extend(self.channels.outlets(&peer, self.limit.as_ref(), self.monitor)?);
        let compression = self.transfer.compression;
        let sent = send(rows, data.readable(), data.seed, outlets, compression, workers(), self.monitor);
        let sent = sent.map_err(|e| self.explained(e))?;
        self.is_sending = false;
        Ok(sent)
    }

    fn commit(&mut self) -> Result<SnapshotInfo> {
        self.has_asked_to_commit = true;
        match self.ask(&Ask::Commit)? {
            Answer::Committed { snapshot, notes } => {
                let whom = self.wire.peer.display();
                notes
                    .into_iter()
                    .take(MOST_TOLD)
                    .for_each(|note| self.monitor.note(format!("{whom}: {note}")));
                Ok(*snapshot)
            }
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn keep_secret(&mut self, secret: &Secret) -> Result<bool> {
        match self.ask(&Ask::Secret { secret: secret.clone() })? {
            Answer::Kept => Ok(true),
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn scrub(&mut self, pieces: &[Piece], meanwhile: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Seen>> {
        self.wire.tell(&Ask::Scrub { pieces: pieces.to_vec() })?;
        meanwhile()?;
        match self.wire.hear_answer()? {
            Answer::Scrubbed(seen) if seen.len() == pieces.len() => Ok(seen),
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn prune(&mut self, keep: &Keep, needed: &[Uuid]) -> Result<Vec<SnapshotInfo>> {
        match self.ask(&Ask::Prune { keep: keep.clone(), needed: needed.to_vec() })? {
            Answer::Pruned(mut pruned) => {
                pruned.truncate(MOST_TOLD);
                Ok(pruned)
            }
            Answer::Unpruned(failure) => Err(self.wire.told(failure)),
            _ => Err(out_of_turn(self.wire)),
        }
    }

    fn tells(&self) -> Option<String> {
        Some(printable(&self.wire.peer.to_string_lossy()).into_owned())
    }

    fn failed(&mut self, error: &Error, _snapshot: Uuid) -> bool {
        if !self.is_sending {
            self.wire.fail(error, false);
        }
        // Without an answer it may have a part of the delta, or may have been committing it when it was last
        // heard.
        let may_be = self.has_asked_to_commit || (self.is_sending && is_cut(error));
        self.wire.is_needed.unwrap_or(may_be)
    }
}

/// What the stage holds a part of once this has begun.
fn pending(offer: &IncomingDelta<'_>) -> Pending {
    Pending {
        snapshot: offer.header.snapshot.id,
        base: offer.header.base.map(|base| base.id),
        manifest: hex(&offer.manifest.digest),
    }
}
