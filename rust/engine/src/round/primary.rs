//! One round: the primary's snapshot, the changes since the newest common one, their data, the standby's
//! snapshot.

use crate::accounts::leaving::Leaving;
use crate::delta::outgoing::{Outgoing, announce, copy, header, volume_head};
use crate::delta::sides::Sides;
use crate::delta::staging::{Data, IncomingDelta, Spare, StageReport};
use crate::digest::hex;
use crate::options::{KnownBy, Options, Terms};
use crate::process::taking::TakenTree;
use crate::process::{hooks, taking};
use crate::report::rounds::{Claimed, Scrubbed, Synced};
use crate::round::adopted::Adopted;
use crate::round::agreement::{Agreement, Purpose, agree, can_go_on, common, history_can_be_set};
use crate::round::brought::{is_the_same, together};
use crate::round::commands;
use crate::round::guard;
use crate::round::held::{LONG, Primary, SHORT};
use crate::round::passed_over;
use crate::round::passes::{LeftOut, Passes};
use crate::round::rights::{Rights, may_undo};
use crate::round::sizes::{note_emptied, note_size, without};
use crate::round::steps::{Adopt, OpenRequest, Pending, StandbyEnd, StandbyInfo, State};
use crate::round::told;
use crate::volume::lost::{self, LostPaths};
use crate::volume::made::{Made, choose_history, tell_what_it_lies_in};
use crate::volume::recovery::recover;
use snapsync_model::{
    Context, Counters, Counts, End, Error, Inode, Monitor, Restless, Result, Role, SnapshotInfo, Stage,
    Subset,
};
use snapsync_snapshot::{Request, Volume};
use snapsync_stream::wire::{DeltaHead, write_head};
use snapsync_sys::{Lock, Root};
use std::collections::BTreeSet;
use std::time::Instant;
use uuid::Uuid;

/// The fields of a report that only the standby at the other end knows.
const CLAIMED: [&str; 5] = ["losses", "pruned", "recovered", "set_aside", "standby"];

/// The primary's half of a round, for any standby. A failure is reported to it.
pub(crate) fn drive(
    source: Root,
    standby: &mut dyn StandbyEnd,
    options: &Options,
    rights: Rights,
    monitor: &Monitor,
) -> Result<Synced> {
    let result = begin(source, standby, options, rights, monitor);
    if let Err(error) = &result {
        standby.failed(error, Uuid::nil());
    }
    result
}

fn begin(
    source: Root,
    standby: &mut dyn StandbyEnd,
    options: &Options,
    rights: Rights,
    monitor: &Monitor,
) -> Result<Synced> {
    let started = Instant::now();
    let agreed = agree(&source, standby, options, rights, Purpose::Round)?;
    let Agreement { primary, ref options, subset, looked } = agreed;
    let mut made = Made::default();
    let primary = match primary {
        Some(volume) => volume,
        None => {
            tell_what_it_lies_in(&source, monitor);
            let volume = Volume::init_in(source, Role::Primary, Uuid::new_v4(), 1)?;
            made.store = Some(volume.clone());
            volume
        }
    };
    let primary = match with_history(primary, made.store.is_some(), options, rights, monitor) {
        Ok(primary) => primary,
        Err(error) => {
            made.unmake();
            return Err(error);
        }
    };
    if let Err(error) = commands::can_run(&primary, options) {
        made.unmake();
        return Err(error);
    }
    let (primary, unlike) = (Primary::new(primary), BTreeSet::new());
    let mut round = Driver {
        primary,
        standby,
        looked,
        noted: None,
        fed: None,
        pending: None,
        unlike,
        lost: None,
        mended: 0,
        pruned: Vec::new(),
        options,
        rights,
        monitor,
        started,
        taken: None,
        alone: None,
        adopted: None,
    };
    let result = round.run(subset);
    // Whatever came of it.
    round.release();
    drop(round);
    if result.is_err() {
        made.unmake();
    }
    result
}

/// Sets what is kept of older snapshots, which only who may delete them decides where there are any.
fn with_history(
    primary: Volume,
    is_new: bool,
    options: &Options,
    rights: Rights,
    monitor: &Monitor,
) -> Result<Volume> {
    if is_new && options.history.is_none() && options.taking.identity != KnownBy::Path {
        let mut primary = primary.lock()?;
        choose_history(&mut primary, monitor)?;
        return Ok(primary.unlock());
    }
    let Some(history) = options.history.filter(|history| primary.info().history != Some(*history)) else {
        return Ok(primary);
    };
    history_can_be_set(&primary, options, rights)?;
    let mut primary = primary.lock()?;
    primary.set_history(history)?;
    Ok(primary.unlock())
}

pub(super) struct Driver<'a> {
    pub(super) primary: Primary,
    pub(super) standby: &'a mut dyn StandbyEnd,
    pub(super) looked: StandbyInfo,
    /// The snapshot that the primary has recorded for the standby, as far as this round knows.
    pub(super) noted: Option<Uuid>,
    /// The standby's id.
    fed: Option<Uuid>,
    /// What it has in its stage.
    pending: Option<Pending>,
    /// Files that differed when they were read again, and are sent whole.
    pub(super) unlike: BTreeSet<u64>,
    /// Files that a snapshot has on the primary, and the standby has lost.
    pub(super) lost: Option<(Uuid, LostPaths)>,
    /// How many of them have travelled.
    pub(super) mended: u64,
    /// Snapshots of the primary that went to make room for the round's.
    pub(super) pruned: Vec<SnapshotInfo>,
    pub(super) options: &'a Options,
    pub(super) rights: Rights,
    pub(super) monitor: &'a Monitor,
    started: Instant,
    /// The tree that is read in place of the primary's own.
    pub(super) taken: Option<TakenTree<'a>>,
    /// What the standby holds instead of a snapshot.
    adopted: Option<Adopted>,
    /// Keeps other rounds waiting that would make one, or take it away.
    alone: Option<Lock>,
}

/// The result of bringing one snapshot to the standby.
pub(super) struct Brought {
    pub(super) snapshot: SnapshotInfo,
    counts: Counts,
    counters: Counters,
    begun: StageReport,
    /// Protects the snapshot until the standby is recorded. None if the standby already had it.
    pub(super) outgoing: Option<Outgoing>,
}

/// What the standby has staged.
struct Staged {
    outgoing: Outgoing,
    sides: Sides,
    counts: Counts,
    begun: StageReport,
    /// Files that are not in it, because others have changed them since the snapshot.
    restless: BTreeSet<u64>,
}

impl Driver<'_> {
    fn run(&mut self, subset: Option<Subset>) -> Result<Synced> {
        self.alone = taking::alone(&self.primary, &self.options.taking, self.monitor)?;
        self.primary.hold(SHORT, self.monitor)?;
        let mut recovered = self.recover()?;
        let mut state = self.open(subset.as_ref())?;
        self.is_who_was_met(&state)?;
        recovered.append(&mut self.recover()?);
        self.rights.expect_known(&self.primary, &state, &self.looked.path)?;
        self.noted = self.primary.standbys().get(&state.volume.id).map(|known| known.snapshot);
        recovered.append(&mut state.recovered);
        self.fed = Some(state.volume.id);
        self.pending = state.pending.clone();
        let primary = self.primary.hold(LONG, self.monitor)?;
        self.taken = taking::take(primary, self.options, self.monitor)?;
        self.lost = state.newest.as_ref().map(|newest| (newest.id, state.lost.clone()));
        self.unlike = self.known(&state).map(|scrub| scrub.pending.into_keys().collect()).unwrap_or_default();
        self.adopted = Adopted::of(&state, self.options)?;
        let mut base = self.common_base(&state)?;
        base.iter().try_for_each(|base| self.primary.expect_there(base))?;
        let mut earlier = StageReport::default();
        if let Some(snapshot) = self.cut_before(&state, base.as_ref())? {
            let was_asked_for = self.options.name.as_ref() == Some(&snapshot.name);
            if was_asked_for && subset.as_ref().is_some_and(|subset| *subset != snapshot.subset) {
                return Err(Error::refused(
                    format!(
                        "snapshot {} was taken with other patterns, and its transfer was cut",
                        snapshot.name
                    ),
                    "choose another --name, or leave the patterns out",
                ));
            }
            let brought = self.bring_or_undo(&state, base.as_ref(), snapshot, None)?;
            if was_asked_for {
                return self.finish(&state, base, brought, recovered, earlier);
            }
            recovered.push(format!("finished the transfer of snapshot {}", brought.snapshot.name));
            self.remember(&state, &brought)?;
            earlier = brought.begun;
            base = Some(brought.snapshot);
        }
        if let Some(name) = &self.options.snap {
            let snapshot = self.primary.find_snapshot(name)?;
            let brought = self.bring_old(base.as_ref(), snapshot)?;
            return self.finish(&state, base, brought, recovered, earlier);
        }
        recovered.append(&mut self.recover()?);
        self.monitor.start(Stage::Snapshot, 0);
        let (before, doubted) = (self.primary.subset().clone(), self.primary.doubted().clone());
        let request = Request::New { name: self.options.name.clone(), subset };
        let snapshot = self.snapshot(&state, &request)?;
        let brought = self.bring_or_undo(&state, base.as_ref(), snapshot, Some(before))?;
        if !self.rights.only_reads {
            // The snapshot has read them and stays.
            let primary = self.primary.hold(LONG, self.monitor)?;
            primary.doubt(primary.doubted() - &doubted)?;
        }
        self.finish(&state, base, brought, recovered, earlier)
    }

    /// Others may have had the lock, and may have been killed.
    fn recover(&mut self) -> Result<Vec<String>> {
        let primary = self.primary.hold(LONG, self.monitor)?;
        self.rights.expect_finished(primary)?;
        let mut done = recover(primary, self.monitor)?;
        done.extend(hooks::end_what_was_cut(primary, &self.options.hooks, self.monitor)?);
        if self.taken.is_none() {
            let taking = &self.options.taking;
            done.extend(taking::release_what_was_cut(primary, taking, self.alone.as_ref(), self.monitor)?);
        }
        Ok(done)
    }

    fn open(&mut self, subset: Option<&Subset>) -> Result<State> {
        self.primary.let_go();
        let info = self.primary.info();
        let store = Some(self.primary.store());
        let subset = || subset.unwrap_or(self.primary.subset()).clone();
        self.standby.open(OpenRequest {
            lineage: info.lineage,
            epoch: info.epoch,
            promotions: self.primary.promotions().clone(),
            drift: self.options.drift,
            owners: self.options.owners.clone(),
            adopt: self.options.adopt.map(|reading| Adopt { reading, subset: subset() }),
            store,
        })
    }

    /// Checks that the standby belongs to this lineage, and is the one that was met.
    fn is_who_was_met(&self, state: &State) -> Result<()> {
        let is_met = self.looked.volume.is_none_or(|id| id == state.volume.id);
        if is_met
            && state.volume.lineage == self.primary.info().lineage
            && state.volume.role == Role::Standby
            && state.volume.id != self.primary.info().id
        {
            return Ok(());
        }
        Err(Error::integrity(
            format!("{} opened another volume than it showed", self.looked.path),
            "use the same snapsync on both sides; if it is the same, something changes what it sends",
        ))
    }

    /// The standby's newest snapshot, which its tree holds; the primary must have it too.
    fn common_base(&self, state: &State) -> Result<Option<SnapshotInfo>> {
        let Some(newest) = &state.newest else { return Ok(None) };
        let lacks = self.standby.lacks(&self.primary.path().display().to_string());
        common(&self.primary, newest, &self.looked.path, lacks).map(Some)
    }

    /// The snapshot whose delta the standby holds a part of, if that delta can be resumed.
    fn cut_before(&self, state: &State, base: Option<&SnapshotInfo>) -> Result<Option<SnapshotInfo>> {
        let Some(pending) = &state.pending else { return Ok(None) };
        if pending.base != base.map(|base| base.id) {
            return Ok(None);
        }
        Ok(self.primary.snapshot(pending.snapshot)?.filter(|s| !s.aside))
    }

    /// Brings a snapshot that the primary already had. The standby may hold it already.
    fn bring_old(&mut self, base: Option<&SnapshotInfo>, snapshot: SnapshotInfo) -> Result<Brought> {
        if base.is_some_and(|base| base.id == snapshot.id) {
            if !self.lost(base)?.is_empty() {
                return Err(Error::refused(
                    format!("only a new snapshot brings {} what it has lost", self.looked.path),
                    "sync without --snap",
                ));
            }
            let (counts, counters) = (Counts::default(), self.monitor.counters());
            return Ok(Brought { snapshot, counts, counters, begun: StageReport::default(), outgoing: None });
        }
        can_go_on(base, &snapshot, &self.looked.path)?;
        self.bring(base, snapshot)
    }

    /// If a failure left the standby where it was, the primary's new snapshot and its subset are removed. An
    /// interrupted delta needs its snapshot and can be resumed.
    fn bring_or_undo(
        &mut self,
        state: &State,
        base: Option<&SnapshotInfo>,
        snapshot: SnapshotInfo,
        subset: Option<Subset>,
    ) -> Result<Brought> {
        let id = snapshot.clone();
        let result = self.bring(base, snapshot);
        if let Err(error) = &result {
            self.primary.let_go();
            let needed = self.standby.failed(error, id.id);
            // The round's own monitor may have been stopped.
            let monitor = Monitor::default();
            // If another command holds the lock, the snapshot stays.
            if !needed
                && let Ok(primary) = self.primary.hold(SHORT, &monitor)
                && may_undo(primary, id.id, state.volume.id)
                && primary.delete(&id, &monitor).is_ok()
            {
                // Another command may have taken a snapshot since, which has that subset.
                let is_last = |line: Vec<SnapshotInfo>| line.last().is_none_or(|s| s.sequence < id.sequence);
                let subset = subset.filter(|_| primary.line().is_ok_and(is_last));
                let _ = subset.map(|subset| primary.restore_subset(subset));
            }
            if !matches!(error.exit_code(), 5) {
                // A snapshot that was removed during the round is the real reason.
                self.primary.expect_unchanged()?;
            }
        }
        result
    }

    /// Makes the standby hold `snapshot`.
    fn bring(&mut self, base: Option<&SnapshotInfo>, mut snapshot: SnapshotInfo) -> Result<Brought> {
        let (monitor, standby) = (self.monitor, self.fed.unwrap_or_default());
        let pending = self.pending.take().filter(|pending| pending.snapshot == snapshot.id);
        let mut passes = Passes::new(standby, pending.map(|pending| pending.manifest));
        passes.begin(&mut self.primary, &mut snapshot, monitor)?;
        loop {
            let is_asked = passed_over::may_be(self.options);
            let staged = monitor.passing_over(is_asked, || self.stage(base, &mut snapshot, &mut passes));
            let unread = monitor.take_unread();
            if !unread.is_empty() {
                drop(staged);
                self.unlike.retain(|ino| !unread.contains_key(ino));
                passes.pass_over(&mut self.primary, &mut snapshot, base, unread, monitor)?;
                continue;
            }
            let staged = staged.map_err(|error| passed_over::refused_if_strict(self.options, error))?;
            let Staged { sides, restless, .. } = &staged;
            if restless.is_empty() {
                passes.tell(&*sides.target, monitor)?;
                return self.commit(snapshot, staged);
            }
            let left_out = LeftOut::of(&*sides.target, restless)?;
            drop(staged);
            passes.go_on(&mut self.primary, &mut snapshot, base, left_out, monitor)?;
        }
    }

    /// Brings the changes and their data into the standby's stage, without files that others have changed
    /// since the snapshot.
    fn stage(
        &mut self,
        base: Option<&SnapshotInfo>,
        snapshot: &mut SnapshotInfo,
        passes: &mut Passes,
    ) -> Result<Staged> {
        let monitor = self.monitor;
        let lost = self.lost(base)?;
        let outgoing = Outgoing::make(self.primary.hold(LONG, monitor)?, snapshot, base)?;
        let sides = self.sides(base, snapshot)?.with_all_of(&self.unlike)?.without(End::Base, &lost)?;
        let sides = self.told(sides)?;
        let primary = self.primary.hold(LONG, monitor)?;
        let held = self.adopted.as_ref().map(|adopted| adopted.held().clone());
        let base = held.as_ref().or(base);
        let (manifest, header) = (outgoing.manifest(), header(primary, base, snapshot));
        let restless = primary.is_light().then(Restless::default);
        let unread = passed_over::may_be(self.options).then(Restless::default);
        let mut leaving = Leaving::of(primary, snapshot);
        let counts = sides.write_delta(restless.as_ref(), &manifest, &header, &mut leaving, monitor)?;
        leaving.remember(primary)?;
        if let Some(adopted) = &mut self.adopted {
            adopted.note(&manifest)?;
        }
        let tree = primary.tree_of(snapshot).map(|tree| tree.tree()).transpose()?;
        let tree = tree.as_ref().unwrap_or_else(|| primary.tree());
        crate::delta::became::tell(tree, &manifest, self.options.strict, monitor)?;
        crate::delta::nested::check(primary.root(), &snapshot.subset, self.options)?;
        let there = base.map(|base| without(base, &lost));
        note_size(primary, there.as_ref(), snapshot, &sides, &counts)?;
        if let Some(base) = base {
            if let Some(limits) = &self.options.guard {
                guard::check(limits, &manifest, &counts, (base, snapshot), &self.looked.path)?;
            }
            note_emptied(primary, base, snapshot, monitor);
        }
        let names = leaving.names(monitor);
        let head = DeltaHead { names, ..volume_head(primary, base, snapshot, &counts) };
        let announced = announce(&manifest)?;
        let seed =
            [write_head(&mut std::io::sink(), &head).context("describe", manifest.show())?, announced.digest];
        let spare = Spare { keep: self.options.keep.clone(), needed: bases(primary) };
        let again = match &restless {
            Some(_) => Some(passes.offer(&mut self.primary, snapshot, hex(&announced.digest), monitor)?),
            None => None,
        };
        self.primary.let_go();
        let begun = self.standby.begin(IncomingDelta {
            header: &head,
            manifest: announced,
            terms: Terms { strict: self.options.strict, no_space_check: self.options.no_space_check },
            spare: Some(spare),
            file: &manifest,
            fetch: &mut |to| copy(&manifest, to),
            again,
        })?;
        monitor.start(Stage::Stage, counts.data_bytes);
        monitor.advance(begun.kept);
        let data = Data {
            manifest: &manifest,
            side: &*sides.target,
            held: &begun.held,
            restless: restless.as_ref().or(unread.as_ref()),
            seed,
        };
        self.standby.transfer(data)?;
        self.primary.expect_unchanged()?;
        let restless = restless.map(Restless::into_inner).unwrap_or_default();
        Ok(Staged { outgoing, sides, counts, begun, restless })
    }

    /// What the standby holds, and the snapshot.
    fn sides(&mut self, base: Option<&SnapshotInfo>, snapshot: &SnapshotInfo) -> Result<Sides> {
        let monitor = self.monitor;
        let primary = self.primary.hold(LONG, monitor)?;
        monitor.start(Stage::Compare, 0);
        let Some(adopted) = &mut self.adopted else {
            return Sides::of_volume(primary, base, snapshot, monitor);
        };
        let target = primary.open_snapshot(snapshot, monitor)?;
        self.primary.let_go();
        let copy = adopted.copy(&*target, self.standby, &self.looked.path, monitor)?;
        Ok(Sides::of_copy(copy, target))
    }

    fn commit(&mut self, snapshot: SnapshotInfo, staged: Staged) -> Result<Brought> {
        let Staged { outgoing, counts, begun, .. } = staged;
        // What the standby does with it for itself is not counted.
        let counters = self.monitor.counters();
        is_the_same(&self.standby.commit()?, &snapshot, &self.looked.path)?;
        Ok(Brought { snapshot, counts, counters, begun, outgoing: Some(outgoing) })
    }

    /// The same, with what the standby has of files whose old bytes the primary has not.
    fn told(&mut self, sides: Sides) -> Result<Sides> {
        if sides.lost()?.next().is_none() {
            return Ok(sides);
        }
        self.primary.let_go();
        let told = told::ask(&sides, self.standby, &self.looked.path, self.monitor)?;
        Ok(sides.with_told(told))
    }

    /// What the standby lacks of the base: it travels as if it were new.
    fn lost(&self, base: Option<&SnapshotInfo>) -> Result<Vec<Inode>> {
        let (Some(base), Some((of, lost))) = (base, &self.lost) else { return Ok(Vec::new()) };
        if lost.is_empty() || *of != base.id {
            return Ok(Vec::new());
        }
        let rows = lost::named(&self.primary, base, &lost.paths(), self.monitor)?;
        let path = &self.looked.path;
        self.monitor.note(format!("{path} has lost what {} files held: they are brought again", rows.len()));
        Ok(rows)
    }

    fn finish(
        &mut self,
        state: &State,
        base: Option<SnapshotInfo>,
        brought: Brought,
        recovered: Vec<String>,
        earlier: StageReport,
    ) -> Result<Synced> {
        self.remember(state, &brought)?;
        let Brought { snapshot, counts, counters, begun, outgoing } = brought;
        // It is the base of a known standby now, and cannot be deleted either.
        drop(outgoing);
        self.make_known(state)?;
        let set_aside = match &self.adopted {
            Some(adopted) => adopted.kept(),
            None => state.set_aside.clone(),
        };
        let primary = self.primary.hold(LONG, self.monitor)?;
        self.rights.settle(primary, state.volume.id, self.monitor)?;
        let scrub = Scrubbed { mended: self.mended, ..self.scrub(state, &snapshot)? };
        let mut pruned = std::mem::take(&mut self.pruned);
        pruned.extend(begun.pruned.iter().cloned());
        pruned.extend(self.prune()?);
        self.release();
        Ok(Synced {
            verb: "sync",
            primary: self.primary.info(),
            standby: state.volume.clone(),
            set_aside,
            base,
            unchanged: counts.rows == 0,
            changes: counts,
            data_bytes: counts.data_bytes,
            kept_bytes: earlier.kept.saturating_add(begun.kept),
            tree_bytes: snapshot.bytes.unwrap_or(0),
            tree_entries: snapshot.entries.unwrap_or(0),
            snapshot,
            losses: together(earlier.losses, begun.losses),
            skipped: self.monitor.take_skipped(),
            notes: self.monitor.take_notes(),
            recovered,
            pruned,
            scrub,
            counters,
            seconds: self.started.elapsed().as_secs_f64(),
            claimed: self.standby.tells().map(|by| Claimed { by, what: CLAIMED.to_vec() }),
        })
    }
}

/// The bases of standbys.
pub(super) fn bases(primary: &Volume) -> Vec<Uuid> {
    primary.standbys().values().map(|s| s.snapshot).collect()
}
