//! The standby's half of a round whose standby is a log: the delta becomes packs, and one commit makes it a
//! part of the log.

use crate::delta::staging::{Data, IncomingDelta, StageReport, with_data, workers};
use crate::digest::{Reading, hex};
use crate::keep::Keep;
use crate::location::logs;
use crate::log::checkpoint::{Numbering, Renumber, with_checkpoint};
use crate::log::renumbered::renumbered;
use crate::options::{DriftOptions, TransferOptions};
use crate::round::following::can_follow;
use crate::round::steps::{OpenRequest, Pending, StandbyEnd, StandbyInfo, State, TakeRecords};
use crate::secret::Secret;
use crate::volume::copies::{Copied, Stretch};
use crate::volume::lost::LostPaths;
use crate::volume::pieces::{Piece, Seen};
use snapsync_log::{
    Appended, Commit, Deed, Log, LogAddress, Packs, Published, StoredObject, Upload, Uploaded,
};
use snapsync_manifest::FrameRow;
use snapsync_model::{Change, Error, Monitor, Range, Result, Role, Side, SnapshotInfo, VolumeInfo};
use snapsync_snapshot::{Standby, Volume};
use snapsync_stream::wire::DeltaHead;
use snapsync_stream::{Held, Limit, Transferred, send};
use snapsync_sys::Root;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// How many packs are filled and sent at once. Each takes `snapsync_log::PACK` bytes of memory.
const WRITERS: usize = 4;

/// The primary that publishes.
pub(crate) struct Publisher<'a> {
    pub(crate) root: &'a Root,
    pub(crate) monitor: &'a Monitor,
}

impl Publisher<'_> {
    fn volume(&self) -> Result<Volume> {
        Volume::open_in(self.root.again()?)
    }

    /// A snapshot as it holds it.
    fn side(&self, snapshot: Uuid) -> Result<Box<dyn Side>> {
        let volume = self.volume()?;
        volume.open_snapshot(&volume.find_snapshot(&snapshot.to_string())?, self.monitor)
    }

    /// Whether another round sends a snapshot now.
    fn sends(&self, snapshot: Uuid) -> bool {
        self.volume().is_ok_and(|volume| volume.is_read(snapshot))
    }
}

/// A log that a primary publishes to.
pub(crate) struct LogStandby<'a> {
    address: LogAddress,
    transfer: &'a TransferOptions,
    monitor: &'a Monitor,
    own: Publisher<'a>,
    log: Option<Arc<Log>>,
    /// What the primary knows of it, read before the log was.
    known: Option<Standby>,
    /// Whether it knows another log at this address.
    is_other: bool,
    /// Its newest commit and the digest of that record.
    head: Option<(Commit, String)>,
    /// The snapshot that it holds.
    newest: Option<SnapshotInfo>,
    delta: Option<Prepared>,
    /// An upload that was cut before.
    cut: Option<Upload>,
    /// Whether the commit may be there although nobody said so, or a part of the upload is.
    may_be_there: bool,
}

/// A delta whose objects are there, or come.
struct Prepared {
    head: DeltaHead,
    manifest: StoredObject,
    upload: Upload,
    packs: Vec<StoredObject>,
    frames: Vec<FrameRow>,
}

impl<'a> LogStandby<'a> {
    pub(crate) fn new(
        address: LogAddress,
        own: Publisher<'a>,
        transfer: &'a TransferOptions,
        monitor: &'a Monitor,
    ) -> LogStandby<'a> {
        let (log, known, head, newest, delta, cut) = Default::default();
        LogStandby {
            address,
            transfer,
            monitor,
            own,
            log,
            known,
            head,
            newest,
            delta,
            cut,
            is_other: false,
            may_be_there: false,
        }
    }

    fn log(&self) -> Result<&Arc<Log>> {
        self.log.as_ref().ok_or_else(|| Error::failed("the log is not open", "report this"))
    }

    fn delta(&mut self) -> Result<Prepared> {
        self.delta.take().ok_or_else(|| Error::failed("no delta has begun", "report this"))
    }

    fn read_head(&mut self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        self.head = log.head()?;
        let Some((head, _)) = &self.head else { return Ok(()) };
        self.newest = log.newest_snapshot(head)?.and_then(|commit| commit.info().cloned());
        Ok(())
    }

    /// The upload of a delta: a new one, or what is there of an earlier one of the same snapshot.
    fn upload_of(
        &mut self,
        offer: &IncomingDelta<'_>,
        manifest: &str,
    ) -> Result<(Upload, Vec<StoredObject>, Vec<FrameRow>)> {
        let snapshot = offer.header.snapshot.id;
        let base = offer.header.base.map(|base| base.id);
        let from = offer.again.as_ref().map_or(manifest, |again| &again.from);
        let goes_on =
            |upload: &Upload| upload.snapshot == snapshot && upload.base == base && upload.manifest == from;
        let delta = self.delta.take().filter(|delta| goes_on(&delta.upload));
        let cut = self.cut.take().filter(goes_on);
        let (mut upload, packs, mut frames) = match (delta, cut) {
            (Some(Prepared { upload, packs, frames, .. }), _) => (upload, packs, frames),
            (None, Some(cut)) => {
                let Uploaded { packs, frames } = self.log()?.uploaded(&cut)?;
                (cut, packs, frames)
            }
            (None, None) => {
                let after = self.head.as_ref().map(|(head, _)| head.sequence);
                let upload = Upload::new(snapshot, base, manifest.to_owned(), after);
                return Ok((upload, Vec::new(), Vec::new()));
            }
        };
        if let Some(again) = &offer.again {
            let stale: BTreeSet<u64> = again.unlike.iter().copied().collect();
            frames.retain(|frame| !stale.contains(&frame.ino));
            upload.begin_pass(manifest.to_owned(), &stale);
        }
        Ok((upload, packs, frames))
    }

    /// The record that is to follow the newest. Now and then it makes a checkpoint of that known.
    fn next(&self, published: Published) -> Result<Commit> {
        let Some((head, digest)) = &self.head else { return Ok(Commit::first(published)) };
        let (epoch, promotions) = (published.delta.epoch, published.delta.promotions.clone());
        let head = Commit { epoch, promotions, ..head.clone() };
        let renumber = |log: &Arc<Log>, whole, info: &SnapshotInfo, volume| {
            renumbered(log, whole, (&*self.own.side(info.id)?, volume))
        };
        let own = self.own.volume()?;
        let (is_primary, renumbered) = (own.info().role == Role::Primary, own.renumbered());
        let renumber: Renumber<'_> = &renumber;
        let next =
            published.delta.volume.map(|volume| Numbering { volume, is_primary, renumbered, renumber });
        let head = with_checkpoint(self.log()?, head, next, self.monitor)?;
        Ok(head.next(digest.clone(), Deed::Snapshot(Box::new(published))))
    }

    /// Appends the commit of a snapshot, in the first place after those that change nothing for it; returns
    /// it and its digest.
    fn append(&mut self, published: &Published) -> Result<(Commit, String)> {
        self.may_be_there = true;
        loop {
            let own = self.next(published.clone())?;
            let found = match self.log()?.append(&own)? {
                Appended::Done { digest } => return Ok((own, digest)),
                Appended::Taken(found) => found,
            };
            if found.is_of(published.delta.snapshot.id) {
                // Another round has gone on with what this one has uploaded.
                return self.log()?.there(found.sequence);
            }
            if !matches!(found.deed, Deed::Held { .. } | Deed::Released { .. }) || found.epoch > own.epoch {
                self.may_be_there = false;
                return Err(self.taken(&found, &own));
            }
            self.head = Some(self.log()?.there(found.sequence)?);
        }
    }

    /// Fails if the log is not the one that this primary brought its snapshots to, or does not show the last
    /// of them any more.
    fn has_not_forgotten(&self, log: &Log) -> Result<()> {
        if self.is_other && !log.is_told()? {
            let address = &self.address;
            return Err(Error::integrity(
                format!("another log is at {address} than the one that this primary published to"),
                format!("if you began it anew, `snapsync trust {address} KEY` with its key, then go on"),
            ));
        }
        let Some(known) = &self.known else { return Ok(()) };
        let head = self.head.iter().map(|(head, _)| head.clone());
        let line = head.map(|head| log.line(head, |commit| commit.is_of(known.snapshot)));
        let line = line.collect::<Result<Vec<_>>>()?.into_iter().flatten();
        if line.take(1).any(|first| first.is_of(known.snapshot)) {
            return Ok(());
        }
        Err(Error::integrity(
            format!(
                "{} had snapshot {} of this primary, and does not show it any more",
                self.address, known.name
            ),
            format!(
                "something changes or hides what is in the log, or it is an older copy: bring back its \
                 objects, or `snapsync release {} --standby {}`, and this primary goes on with what is there",
                self.own.root.path().display(),
                log.id()
            ),
        ))
    }

    /// Why another commit has the place.
    fn taken(&self, found: &Commit, own: &Commit) -> Error {
        let log = &self.address;
        let what =
            found.info().map_or_else(|| "something".to_owned(), |info| format!("snapshot {}", info.name));
        if found.epoch > own.epoch {
            return Error::refused(
                format!("{log} is in epoch {}: another volume was promoted", found.epoch),
                "`snapsync rejoin` makes this one a standby of it",
            );
        }
        Error::refused(
            format!("another snapsync has just published {what} to {log}"),
            "run the same command again; if no other one is known, find out who writes there",
        )
    }
}

impl StandbyEnd for LogStandby<'_> {
    fn look(&mut self, _lineage: Option<Uuid>, _plan: Option<DriftOptions>) -> Result<StandbyInfo> {
        self.log = Log::open(&self.address)?.map(Arc::new);
        if let (Some(log), Ok(volume)) = (&self.log, self.own.volume()) {
            let (known, address) = (volume.standbys(), self.address.to_string());
            self.known = known.get(&log.id()).cloned();
            self.is_other = self.known.is_none() && known.values().any(|standby| standby.path == address);
        }
        self.read_head()?;
        let head = self.head.as_ref().map(|(head, _)| head);
        Ok(StandbyInfo {
            path: self.address.to_string(),
            lineage: head.map(|head| head.lineage),
            role: None,
            epoch: head.map(|head| head.epoch),
            promotions: head.map(|head| head.promotions.clone()).unwrap_or_default(),
            pending: None,
            volume: self.log.as_ref().map(|log| log.id()),
            filesystem: None,
            lacks: None,
            occupied: false,
            newest: self.newest.clone(),
            lost: LostPaths::default(),
            available: None,
        })
    }

    fn open(&mut self, opening: OpenRequest) -> Result<State> {
        if self.log.is_none() {
            self.log = Some(Arc::new(Log::init(&self.address, &[])?));
            self.read_head()?;
        }
        let head = self.head.as_ref().map(|(head, _)| head);
        if let Some(head) = head {
            let own = (head.epoch, &head.promotions);
            can_follow(&self.address.to_string(), (opening.epoch, &opening.promotions), own)?;
        }
        let volume = logs::info(self.log()?, head, Role::Standby);
        self.has_not_forgotten(self.log()?)?;
        self.log()?.can_sign()?;
        self.log()?.trust_as_now()?;
        // Another round may still be at it.
        self.cut = self.log()?.upload(head)?.filter(|upload| !self.own.sends(upload.snapshot));
        let pending = self.cut.clone().map(|Upload { snapshot, base, manifest, .. }| Pending {
            snapshot,
            base,
            manifest,
        });
        Ok(State {
            volume: VolumeInfo { lineage: opening.lineage, epoch: opening.epoch, ..volume },
            newest: self.newest.clone(),
            adopted: None,
            pending,
            recovered: Vec::new(),
            set_aside: None,
            lost: LostPaths::default(),
            join: None,
            secret: None,
        })
    }

    fn records(&mut self, _reading: Reading, _take: TakeRecords<'_>) -> Result<()> {
        Err(Error::usage(format!("the log {} adopts nothing", self.address), "leave out --adopt"))
    }

    /// It has no copies of files that could be read in place.
    fn copies(
        &mut self,
        stretches: &[Stretch],
        _meanwhile: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Copied>> {
        let lacks = || Copied::Lacks("a log has no files to compare with".to_owned());
        Ok(stretches.iter().map(|_| lacks()).collect())
    }

    fn begin(&mut self, offer: IncomingDelta<'_>) -> Result<StageReport> {
        let digest = hex(&offer.manifest.digest);
        let (upload, packs, mut frames) = self.upload_of(&offer, &digest)?;
        let (held, kept) = keep(&mut frames, with_data(offer.file)?)?;
        self.log()?.note_upload(&upload)?;
        self.may_be_there = true;
        let key = format!("manifests/{}-{}.arrow", offer.header.snapshot.id, Uuid::new_v4().simple());
        let manifest = self.log()?.put_file(key, offer.file)?;
        self.delta = Some(Prepared { head: offer.header.clone(), manifest, upload, packs, frames });
        Ok(StageReport { held, kept, ..StageReport::default() })
    }

    fn transfer(&mut self, data: Data<'_>) -> Result<Transferred> {
        let mut delta = self.delta()?;
        let earlier = (std::mem::take(&mut delta.packs), std::mem::take(&mut delta.frames));
        let limit = self.transfer.limit.map(Limit::new);
        let packs = Packs::new(self.log()?, delta.upload.folder()?.to_owned(), earlier, limit, self.monitor);
        let outlets = (0..WRITERS).map(|_| packs.outlet()).collect();
        let (rows, compression) = (with_data(data.manifest)?, self.transfer.compression);
        let sent = send(rows, data.readable(), data.seed, outlets, compression, workers(), self.monitor)?;
        (delta.packs, delta.frames) = packs.finish()?;
        self.delta = Some(delta);
        Ok(sent)
    }

    fn commit(&mut self) -> Result<SnapshotInfo> {
        let Prepared { head, manifest, packs, frames, .. } = self.delta()?;
        let key = format!("index/{}-{}.arrow", head.snapshot.id, Uuid::new_v4().simple());
        let index = self.log()?.put_index(key, &frames)?;
        let snapshot = head.snapshot.clone();
        let published = Published { delta: head, manifest, index, packs };
        // A round may bring one more.
        self.head = Some(self.append(&published)?);
        self.newest = Some(snapshot.clone());
        self.log()?.end_upload()?;
        Ok(snapshot)
    }

    /// Whoever reads a log would know it, so it keeps none.
    fn keep_secret(&mut self, _secret: &Secret) -> Result<bool> {
        Ok(false)
    }

    fn scrub(&mut self, pieces: &[Piece], _meanwhile: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Seen>> {
        Ok(pieces.iter().map(|_| Seen::Lacks("a log has no files to read".to_owned())).collect())
    }

    fn prune(&mut self, _keep: &Keep, _needed: &[Uuid]) -> Result<Vec<SnapshotInfo>> {
        let log = &self.address;
        self.monitor
            .note(format!("{log} keeps all of its snapshots: `snapsync prune {log}` takes such rules"));
        Ok(Vec::new())
    }

    fn tells(&self) -> Option<String> {
        None
    }

    fn lacks(&self, source: &str) -> Option<String> {
        let log = &self.address;
        Some(format!(
            "a copy of {source}, or it itself in a later state, has published it, and only one can go on. If \
             that is not this one, promote a standby of {log}: then `snapsync rejoin {source} {log}` keeps \
             what this one has of its own"
        ))
    }

    fn failed(&mut self, _error: &Error, _snapshot: Uuid) -> bool {
        self.may_be_there
    }
}

/// Keeps of frames, which are sorted, those that lie in what is data of `rows` as well; returns which data
/// that is, and its bytes.
fn keep(frames: &mut Vec<FrameRow>, rows: impl Iterator<Item = Result<Change>>) -> Result<(Held, u64)> {
    let (mut kept, mut held, mut bytes) = (Vec::new(), Held::default(), 0);
    if frames.is_empty() {
        return Ok((held, bytes));
    }
    let mut follows = false;
    for row in rows {
        let row = row?;
        let from = frames.partition_point(|frame| frame.ino < row.ino);
        let own = frames[from..].iter().take_while(|frame| frame.ino == row.ino);
        let data =
            |frame: &&FrameRow| row.names_data(Range { offset: frame.offset, length: frame.length.into() });
        let ranges: Vec<Range> = own
            .filter(data)
            .inspect(|frame| kept.push(**frame))
            .map(|frame| Range { offset: frame.offset, length: frame.length.into() })
            .collect();
        held.push(&row, &ranges, follows);
        follows = held.is_whole(row.ino);
        bytes += ranges.iter().map(|range| range.length).sum::<u64>();
    }
    *frames = kept;
    Ok((held, bytes))
}
