//! The standby's half of a round. The primary's half asks for its steps in their order, whether both are in
//! one process or a channel lies between.

use crate::accounts::arriving::Finding;
use crate::delta::room::Room;
use crate::delta::staging::{
    Data, IncomingDelta, Spare, StageReport, StageTarget, begin, displaces, expect_untouched, fill, give_up,
    is_cut, take,
};
use crate::digest::{Near, Reading};
use crate::keep::Keep;
use crate::location::target::{self, Found, Target};
use crate::names::Names;
use crate::options::DriftOptions;
use crate::round::following::{can_begin, is_of, is_sound};
use crate::round::foreseen::{self, DRIFT, looks_for_drift};
use crate::round::steps::{
    Adopt, OpenRequest, Outlook, Pending, Prospect, StandbyEnd, StandbyInfo, State, TakeRecords, is_occupied,
};
use crate::secret::Secret;
use crate::volume::adopted::{Adopted, takes_away};
use crate::volume::copies::{self, Copied, Stretch};
use crate::volume::let_in::{self, Dated};
use crate::volume::lost::LostPaths;
use crate::volume::made::{Made, can_be_kept, make_target, tell_what_it_lies_in};
use crate::volume::pieces::{self, Piece, Seen};
use crate::volume::recovery::{can_go_on, commit, finish, recover};
use crate::volume::{drift, kept, owned, retention, standing};
use snapsync_apply::{Incoming, Journal, Phase};
use snapsync_model::{Error, Monitor, Naming, Promotions, Result, Role, Side, SnapshotInfo};
use snapsync_snapshot::{FollowedLog, LockedVolume, Volume};
use snapsync_stream::wire::{DeltaEnd, DeltaHead, Digest};
use snapsync_stream::{Arrivals, Limit, Transferred};
use snapsync_sys::Spot;
use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// A standby that this process works on.
pub(crate) struct Local<'a> {
    target: Target,
    /// The name that its client uses, if it must not learn about other volumes.
    called: Option<String>,
    monitor: &'a Monitor,
    volume: Option<LockedVolume>,
    made: Made,
    incoming: Option<Incoming<'a>>,
    /// Whether it follows a log, and goes on doing so whatever becomes of the round.
    is_fed_by_log: bool,
    /// What to do about changes by hand.
    drift: DriftOptions,
    /// The times that directories are to have before anything is applied.
    dated: Dated,
    /// The rate limit of the data that this process itself brings.
    limit: Option<Arc<Limit>>,
    /// Whether this round has staged something, so that an incomplete delta is its own.
    has_begun: bool,
    /// The snapshot being made, and the epoch of its delta.
    under_way: Option<(SnapshotInfo, u64, Promotions)>,
    /// The last snapshot that was begun.
    begun: Option<Uuid>,
    /// What its tree holds instead of a snapshot.
    adopted: Option<Adopted>,
    /// The same, if it stays as a snapshot.
    kept: Option<SnapshotInfo>,
    /// Whether its client may have that taken for a copy of the primary.
    may_adopt: bool,
    /// For a plan: its tree is not the base now, but would be before anything is brought.
    is_rewound: bool,
    /// How it is to find owners by name from now on, if that is asked for.
    naming: Option<Naming>,
}

impl<'a> Local<'a> {
    /// `source` is the place of the primary, if that is on this machine.
    pub(crate) fn new(path: &Path, source: Option<&Path>, monitor: &'a Monitor) -> Result<Local<'a>> {
        Ok(Local::at(target::target(path, source)?, monitor))
    }

    /// The same for a target that was found already.
    pub(crate) fn at(target: Target, monitor: &'a Monitor) -> Local<'a> {
        Local {
            target,
            called: None,
            monitor,
            volume: None,
            made: Made::default(),
            incoming: None,
            drift: DriftOptions::default(),
            dated: Dated::default(),
            limit: None,
            is_fed_by_log: false,
            has_begun: false,
            under_way: None,
            begun: None,
            adopted: None,
            kept: None,
            may_adopt: true,
            is_rewound: false,
            naming: None,
        }
    }

    /// Limits the bytes a second that it takes.
    pub(crate) fn limited(self, rate: Option<u64>) -> Local<'a> {
        Local { limit: rate.map(Limit::new), ..self }
    }

    /// What feeds it is a log: it goes on following that whatever becomes of the round.
    pub(crate) fn fed_by_log(self) -> Local<'a> {
        Local { is_fed_by_log: true, ..self }
    }

    /// Whether a client may have what is in a directory taken for a copy.
    pub(crate) fn adopting(self, may_adopt: bool) -> Local<'a> {
        Local { may_adopt, ..self }
    }

    /// Gives the same answer for volumes that its client may not feed and for missing ones.
    pub(crate) fn discreet(self, called: String) -> Local<'a> {
        Local { called: Some(called), ..self }
    }

    fn expect_own(&self, lineage: Option<Uuid>) -> Result<()> {
        let Some(called) = &self.called else { return Ok(()) };
        let is_own = match &self.target.volume {
            None => self.target.lacks.is_none() && (self.may_adopt || !self.target.occupied),
            Some(volume) => standing::is_fed_by(&volume.info(), lineage) || volume.info().lineage.is_nil(),
        };
        if is_own { Ok(()) } else { Err(standing::not_own(called)) }
    }

    fn volume(&mut self) -> Result<&mut LockedVolume> {
        self.volume.as_mut().ok_or_else(|| out_of_turn("the volume is not open"))
    }

    /// The log that the open volume follows.
    pub(crate) fn follows(&mut self) -> Result<Option<FollowedLog>> {
        Ok(self.volume()?.follows().cloned())
    }

    pub(crate) fn follow(&mut self, log: FollowedLog) -> Result<()> {
        self.volume()?.set_follows(Some(log))
    }

    /// The store of the volume, once it is open.
    pub(crate) fn store(&self) -> Option<Spot> {
        self.volume.as_ref().map(|volume| volume.store())
    }

    /// The tree that it adopts.
    pub(crate) fn adopted_side(&self) -> Result<Box<dyn Side>> {
        match (&self.volume, &self.adopted) {
            (Some(volume), Some(adopted)) => volume.open_snapshot(&adopted.probe, self.monitor),
            _ => Err(out_of_turn("it adopts nothing")),
        }
    }

    pub(crate) fn incoming(&self) -> Result<&Incoming<'a>> {
        self.incoming.as_ref().ok_or_else(|| out_of_turn("no delta has begun"))
    }

    /// A snapshot of the volume, by anything that names one.
    pub(crate) fn find(&self, snapshot: &str) -> Option<SnapshotInfo> {
        self.volume.as_ref()?.find_snapshot(snapshot).ok()
    }

    /// The snapshot in its tree.
    pub(crate) fn newest(&mut self) -> Result<Option<SnapshotInfo>> {
        Ok(self.volume()?.line()?.pop())
    }

    /// What it held before its first snapshot, once that has taken some of it away.
    pub(crate) fn kept(&self) -> Option<&SnapshotInfo> {
        self.kept.as_ref()
    }

    /// Takes the frames of the delta that has begun from channels, while another process reads the data.
    pub(crate) fn take(&mut self, arrivals: Vec<Arrivals<'_>>, seed: [Digest; 2]) -> Result<DeltaEnd> {
        take(self.incoming()?, arrivals, seed, self.monitor)
    }

    fn make(&mut self, opening: &OpenRequest) -> Result<LockedVolume> {
        let OpenRequest { lineage, epoch, .. } = *opening;
        self.target.expect_reachable()?;
        if self.target.occupied {
            self.expect_adoption(opening.adopt.as_ref())?;
        }
        let root = match self.target.found.take() {
            Some(Found::Directory(root)) => root,
            Some(Found::Nothing { above, name }) => {
                let root = make_target(&above, &name)?;
                self.made.directory = Some((above, name));
                root
            }
            None => return Err(out_of_turn("it has been made")),
        };
        tell_what_it_lies_in(&root, self.monitor);
        let made = Volume::init_in(root, Role::Standby, lineage, epoch)?;
        let made = self.made.store.insert(made);
        let mut volume = made.lock()?;
        volume.join_lineage(lineage, epoch, opening.promotions.clone())?;
        Ok(volume)
    }

    /// Checks that what is there may be taken for a copy.
    fn expect_adoption<'o>(&self, adopt: Option<&'o Adopt>) -> Result<&'o Adopt> {
        let path = self.target.path.display();
        match adopt {
            None => Err(is_occupied(&path.to_string())),
            Some(_) if !self.may_adopt => Err(Error::refused(
                format!("{path} is not empty, and this server lets its clients adopt nothing"),
                "its administrator can start it with --allow-adopt, or adopt there with a pull",
            )),
            Some(adopt) => Ok(adopt),
        }
    }

    /// Removes what was made for a round that came to nothing.
    fn unmake(&mut self) {
        self.volume = None;
        std::mem::take(&mut self.made).unmake();
    }

    /// On Btrfs it is cheap to find what was written since; elsewhere each path is checked before it is
    /// touched.
    fn look_for_drift(
        &self,
        volume: &mut LockedVolume,
        newest: &SnapshotInfo,
        options: DriftOptions,
    ) -> Result<Option<SnapshotInfo>> {
        if !looks_for_drift(volume, options) {
            return Ok(None);
        }
        match drift::find(volume, newest, "drift-", self.monitor)? {
            None => Ok(None),
            Some(drift) if options.discard_drift => {
                drift.discard(volume, newest, self.monitor).map(|(kept, _)| Some(kept))
            }
            Some(drift) => drift.refuse(volume, DRIFT),
        }
    }

    /// Checks that the snapshot of a header can be taken here after its base.
    fn expect_base(&mut self, header: &DeltaHead) -> Result<()> {
        let is_fed_by_log = self.is_fed_by_log;
        let adopted = self.adopted.as_ref().map(|adopted| (adopted.probe.id, adopted.probe.name.clone()));
        let volume = self.volume()?;
        let (snapshots, info) = (volume.line()?, volume.info());
        let show = info.path.display();
        // An old primary that rejoined gets what it lacks of earlier epochs too, as they lead to the log's.
        if is_fed_by_log && header.epoch < info.epoch {
            is_of(volume, header.lineage, info.epoch, volume.promotions())?;
        } else {
            is_of(volume, header.lineage, header.epoch, &header.promotions)?;
        }
        let name = &header.snapshot.name;
        if snapshots.iter().any(|s| s.id == header.snapshot.id) {
            return Err(Error::refused(
                format!("{show} has snapshot {name} already"),
                "there is nothing to do; send a newer one",
            ));
        }
        let newest = snapshots.last();
        let held = newest.map(|s| (s.id, s.name.clone())).or(adopted);
        if held.as_ref().map(|(id, _)| *id) != header.base.map(|base| base.id) {
            let holds = held.map_or("no snapshot yet".to_owned(), |(_, name)| format!("snapshot {name}"));
            return Err(Error::refused(
                format!("the delta to {name} does not start from what {show} holds, {holds}"),
                "send a delta whose base that is (`snapsync list` shows the snapshots)",
            ));
        }
        is_sound(&header.snapshot, newest)
    }
}

fn owned_by_whom(path: &Path) -> Error {
    Error::refused(
        format!("whose files are whose in {} cannot be told by name: it is a copy to adopt", path.display()),
        "adopt it without --owners, if both machines have the same numbers; else begin with an empty \
         directory",
    )
}

fn out_of_turn(why: &str) -> Error {
    Error::integrity(
        format!("the other end speaks out of turn: {why}"),
        "use the same snapsync on both sides",
    )
}

impl StandbyEnd for Local<'_> {
    fn look(&mut self, lineage: Option<Uuid>, plan: Option<DriftOptions>) -> Result<StandbyInfo> {
        self.expect_own(lineage)?;
        self.drift = plan.unwrap_or_default();
        let volume = self.target.volume.as_ref();
        let journal = volume.map_or(Ok(None), |volume| Journal::load(&volume.store()))?;
        // The records of all snapshots are read for it, and once more when the standby is opened.
        let mut line = volume.filter(|_| plan.is_some()).map_or(Ok(Vec::new()), |volume| volume.line())?;
        let newest = line.pop();
        let lost = volume.zip(newest.as_ref());
        let lost = lost
            .map_or(Ok(LostPaths::default()), |(volume, of)| LostPaths::absent(volume, of, self.monitor))?;
        self.is_rewound = journal.as_ref().is_some_and(|journal| journal.phase != Phase::Staging);
        let fed = volume.filter(|volume| standing::is_fed_by(&volume.info(), lineage) && !self.is_rewound);
        if let (Some(volume), Some(newest), Some(drift)) = (fed, &newest, plan) {
            self.is_rewound = foreseen::goes_back(volume, newest, drift, self.monitor)?;
        }
        Ok(StandbyInfo {
            path: self.target.path.to_string_lossy().into_owned(),
            lineage: volume.map(|volume| volume.info().lineage).filter(|lineage| !lineage.is_nil()),
            role: volume.map(|volume| volume.info().role),
            epoch: volume.map(|volume| volume.info().epoch),
            promotions: volume.map(|volume| volume.promotions().clone()).unwrap_or_default(),
            pending: journal.map(|journal| journal.snapshot.id),
            volume: volume.map(|volume| volume.info().id),
            filesystem: self.target.filesystem(),
            lacks: self.target.lacks.clone(),
            occupied: self.target.occupied,
            newest,
            lost,
            available: plan.and_then(|_| self.target.available()),
        })
    }

    fn foresee(&mut self, prospect: Prospect<'_>) -> Result<Option<Outlook>> {
        foreseen::outlook(&self.target, (self.is_rewound, self.drift), prospect, self.monitor).map(Some)
    }

    fn open(&mut self, opening: OpenRequest) -> Result<State> {
        let OpenRequest { lineage, epoch, ref promotions, drift, ref owners, ref adopt, .. } = opening;
        let follows = |volume: &Volume| !volume.info().lineage.is_nil();
        if !self.target.volume.as_ref().is_some_and(follows) {
            can_begin(epoch, promotions)?;
        }
        self.expect_own(Some(lineage))?;
        let mut volume = match self.target.volume.take() {
            Some(volume) => volume.lock()?,
            None => self.make(&opening)?,
        };
        standing::expect_standby(&volume.path().to_string_lossy(), volume.info().role)?;
        if volume.info().lineage.is_nil() {
            volume.join_lineage(lineage, epoch, promotions.clone())?;
        }
        is_of(&volume, Some(lineage), epoch, promotions)?;
        let recovered = recover(&mut volume, self.monitor)?;
        let newest = volume.line()?.pop();
        let set_aside = match &newest {
            Some(newest) => self.look_for_drift(&mut volume, newest, drift)?,
            None => None,
        };
        if let Some(read_only) = drift.read_only {
            can_be_kept(volume.root(), read_only)?;
            volume.set_read_only(read_only)?;
        }
        if !self.is_fed_by_log {
            volume.set_follows(None)?;
        }
        let accounts = owned::accounts(&volume, newest.as_ref(), owners.is_some(), self.monitor)?;
        if let Some(accounts) = accounts {
            owned::give_up_others(&mut volume, &accounts, owners.as_ref())?;
        }
        (self.naming, self.drift) = (owners.clone(), drift);
        let pending = Journal::load(&volume.store())?.map(|journal| Pending {
            snapshot: journal.snapshot.id,
            base: journal.base,
            manifest: journal.manifest.unwrap_or_default(),
        });
        let secret = volume.secret().map(Secret::kept);
        let lost = match &newest {
            Some(newest) => LostPaths::absent(&volume, newest, self.monitor)?,
            None => LostPaths::default(),
        };
        if newest.is_none() && !snapsync_snapshot::is_vacant_in(volume.root())? {
            let Adopt { subset, .. } = self.expect_adoption(adopt.as_ref())?;
            if owners.is_some() {
                return Err(owned_by_whom(&self.target.path));
            }
            self.adopted = Some(Adopted::of(&mut volume, subset, self.monitor)?);
        }
        let adopted = self.adopted.as_ref().map(|adopted| adopted.probe.clone());
        let (info, join) = (volume.info(), None);
        let state =
            State { volume: info, newest, adopted, pending, recovered, set_aside, lost, join, secret };
        self.volume = Some(volume);
        Ok(state)
    }

    fn records(&mut self, reading: Reading, take: TakeRecords<'_>) -> Result<()> {
        let monitor = self.monitor;
        let side = self.adopted_side()?;
        let names = Names::of(&*side)?;
        let mut near = Near::new(&names, reading, false, monitor)?;
        loop {
            let records = near.more()?;
            if records.is_empty() {
                return Ok(());
            }
            take(records)?;
        }
    }

    fn copies(
        &mut self,
        stretches: &[Stretch],
        meanwhile: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Copied>> {
        meanwhile()?;
        let monitor = self.monitor;
        copies::read(self.volume()?, stretches, monitor)
    }

    fn begin(&mut self, offer: IncomingDelta<'_>) -> Result<StageReport> {
        self.expect_base(offer.header)?;
        // It may have begun before, and both would write into the stage.
        let is_own = self.incoming.take().is_some_and(|incoming| incoming.is_own());
        let held = self.adopted.as_ref().map(|adopted| adopted.probe.clone());
        let newest = self.newest()?.or(held);
        let (monitor, naming) = (self.monitor, self.naming.clone());
        let by_name = naming.is_some() || offer.header.by_name;
        if by_name && self.adopted.is_some() {
            return Err(owned_by_whom(&self.target.path));
        }
        let discards = self.drift.discard_drift;
        let volume = self.volume()?;
        let dated = match &newest {
            Some(newest) => let_in::clear(volume, newest, &offer.header.snapshot, discards, monitor)?,
            None => Dated::default(),
        };
        let accounts = owned::accounts(volume, newest.as_ref(), by_name, monitor)?;
        let finding = Finding {
            names: offer.header.names.as_ref(),
            naming: naming.as_ref(),
            is_strict: offer.terms.strict,
            sequence: offer.header.snapshot.sequence,
        };
        if let Some(accounts) = accounts.as_ref().filter(|_| finding.is_strict) {
            owned::expect_strict(volume, accounts, finding)?;
        }
        volume.unseal()?;
        let DeltaHead { snapshot, epoch, promotions, .. } = offer.header;
        let under_way = (snapshot.clone(), *epoch, promotions.clone());
        let (path, root) = (volume.path().to_path_buf(), volume.root().clone());
        let (spare, is_checked) = (offer.spare.clone(), !offer.terms.no_space_check);
        let volume = RefCell::new(volume);
        let mut free = || match &spare {
            Some(Spare { keep, needed }) if !keep.is_empty() && is_checked => {
                retention::apply(&mut volume.borrow_mut(), keep, needed, monitor).map(|(pruned, _)| pruned)
            }
            _ => Ok(Vec::new()),
        };
        let mut room = Room::made_by(&mut free, &root, monitor);
        let stage = room.take(|| StageTarget::of(&volume.borrow(), newest.as_ref()))?;
        let stage = StageTarget { is_own, by_range: true, ..stage };
        let mut own = |manifest: &Spot| owned::own((accounts.as_ref(), &path), manifest, finding, monitor);
        let (mut incoming, begun) = begin(&stage, offer, &mut own, &mut room, monitor)?;
        self.has_begun = true;
        expect_untouched(self.volume()?, &mut incoming)?;
        self.incoming = Some(incoming);
        self.begun = Some(under_way.0.id);
        (self.under_way, self.dated) = (Some(under_way), dated);
        Ok(begun)
    }

    fn transfer(&mut self, data: Data<'_>) -> Result<Transferred> {
        fill(self.incoming()?, &data, self.limit.as_deref(), self.monitor)
    }

    fn commit(&mut self) -> Result<SnapshotInfo> {
        let (incoming, info) = (self.incoming.take(), self.under_way.take());
        let dated = std::mem::take(&mut self.dated);
        let (Some(mut incoming), Some((info, epoch, promotions))) = (incoming, info) else {
            return Err(out_of_turn("no delta has begun"));
        };
        let is_needed = self.adopted.is_some() && takes_away(&incoming.manifest())?;
        if displaces(self.volume()?, &mut incoming)? {
            incoming.number_after(self.volume()?.claim_round()?);
        }
        // Before the seal, from which on the commit is finished by whoever comes: so far the tree is the old
        // snapshot, and that has these times.
        dated.settle(self.volume()?.root())?;
        incoming.seal()?;
        let monitor = self.monitor;
        if let Local { volume: Some(volume), adopted: Some(adopted), .. } = self {
            adopted.keep(volume, monitor)?;
        }
        let volume = self.volume()?;
        // It is gone with the stage, and is the history of the snapshot only once there is one.
        let manifest = kept::put_by(volume, &incoming.manifest());
        commit(volume, &mut incoming, monitor)?;
        let base = incoming.base();
        drop(incoming);
        let mut taken = finish(volume, &info, base, monitor)?;
        volume.forget_absent()?;
        volume.follow_epoch(epoch, promotions)?;
        if let (Some(entries), Some(bytes)) = (info.entries, info.bytes) {
            volume.record_counts(&mut taken, entries, bytes)?;
        }
        manifest.inspect(|manifest| kept::keep(volume, base, taken.id, manifest));
        volume.seal()?;
        if let Some(adopted) = self.adopted.take() {
            self.kept = adopted.settle(self.volume()?, is_needed, monitor)?;
        }
        Ok(taken)
    }

    fn keep_secret(&mut self, secret: &Secret) -> Result<bool> {
        self.volume()?.keep_secret(secret.text().to_owned()).map(|()| true)
    }

    fn scrub(&mut self, pieces: &[Piece], meanwhile: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Seen>> {
        meanwhile()?;
        let monitor = self.monitor;
        pieces::read(self.volume()?, pieces, monitor)
    }

    fn prune(&mut self, keep: &Keep, needed: &[Uuid]) -> Result<Vec<SnapshotInfo>> {
        let monitor = self.monitor;
        retention::apply(self.volume()?, keep, needed, monitor).map(|(pruned, _)| pruned)
    }

    fn tells(&self) -> Option<String> {
        None
    }

    fn failed(&mut self, error: &Error, snapshot: Uuid) -> bool {
        self.incoming = None;
        let Some(volume) = &mut self.volume else {
            self.unmake();
            return false;
        };
        if let Ok(Some(journal)) = Journal::load(&volume.store())
            && self.has_begun
            && journal.phase == Phase::Staging
            && !(is_cut(error) && can_go_on(volume, &journal))
        {
            let _ = give_up(volume.root(), &volume.store(), &journal);
        }
        self.adopted.take().inspect(|adopted| adopted.give_up(volume));
        let _ = volume.seal();
        let has = |id: Uuid| volume.snapshot(id).is_ok_and(|found| found.is_some());
        let needed = !matches!(Journal::load(&volume.store()), Ok(None))
            || has(snapshot)
            || self.begun.is_some_and(has);
        self.unmake();
        needed
    }
}
