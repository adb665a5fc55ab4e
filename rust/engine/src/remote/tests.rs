//! A primary that takes its snapshot again after a part of its data has travelled, in the same process and
//! over a channel: what arrived and still holds does not travel again, and the standby becomes what the
//! primary was the last time. On whatever file system `TMPDIR` is.

use crate::delta::outgoing::{announce, copy, header, volume_head};
use crate::delta::sides::Sides;
use crate::delta::staging::{Again, Data, IncomingDelta, StageReport, with_data};
use crate::digest::hex;
use crate::options::{DriftOptions, Options, Terms, TransferOptions};
use crate::remote::channels::Channels;
use crate::remote::edits::{Chance, Tree, seen, visit};
use crate::remote::standby_client::Remote;
use crate::remote::standby_server::{RoundOptions, serve_standby};
use crate::remote::wire::Wire;
use crate::round::primary::drive;
use crate::round::rights::Rights;
use crate::round::standby::Local;
use crate::round::steps::{OpenRequest, StandbyEnd, State};
use snapsync_model::{Change, Monitor, Range, Result, Role, SnapshotInfo};
use snapsync_snapshot::{Request, Volume};
use snapsync_stream::wire::{DeltaHead, write_head};
use snapsync_stream::{Compression, Fate, Held};
use snapsync_sys::{Root, Spot};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// The directory that a process of its own works in.
const WHERE: &str = "CARRY_WHERE";
const SEED: &str = "CARRY_SEED";

/// A primary and its standby, side by side in a directory.
struct World {
    dir: PathBuf,
    monitor: Monitor,
}

/// A snapshot on its way.
struct Offer {
    head: DeltaHead,
    manifest: Spot,
    sides: Sides,
    digest: [u8; 32],
}

impl World {
    fn at(dir: &Path) -> World {
        World { dir: dir.to_path_buf(), monitor: Monitor::default() }
    }

    fn tree(&self, seed: u64) -> Tree {
        let chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Tree { top: self.source(), chance, made: 0, unlike: BTreeSet::new() }
    }

    fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    fn target(&self) -> PathBuf {
        self.dir.join("target")
    }

    fn volume(&self) -> Volume {
        Volume::open(&self.source()).unwrap()
    }

    /// Makes the primary, and the standby by a first round if the delta is to have a base.
    fn begin(&self, tree: &mut Tree, has_base: bool) {
        fs::create_dir(self.source()).unwrap();
        (0..20).for_each(|_| tree.make());
        File::create(self.source().join("empty")).unwrap();
        let root = || Root::open(&self.source()).unwrap();
        if has_base {
            let mut local = self.local();
            drive(root(), &mut local, &Options::default(), Rights::OWNER, &self.monitor).unwrap();
        } else {
            Volume::init_in(root(), Role::Primary, Uuid::new_v4(), 1).unwrap();
        }
    }

    fn local(&self) -> Local<'_> {
        Local::new(&self.target(), None, &self.monitor).unwrap()
    }

    fn take(&self) -> SnapshotInfo {
        let request = Request::New { name: None, subset: None };
        self.volume().lock().unwrap().take(request, &self.monitor).unwrap()
    }

    /// The delta from `base` to `snapshot`, which has the id of an earlier one if it was taken again.
    fn offer(&self, base: Option<&SnapshotInfo>, snapshot: &SnapshotInfo, id: Uuid) -> Offer {
        let volume = self.volume();
        let sides = Sides::of_volume(&volume, base, snapshot, &self.monitor).unwrap();
        let root = Arc::new(Root::open(&self.dir).unwrap());
        let manifest = Spot::top(root).join(format!("{}.arrow", snapshot.id));
        let told = SnapshotInfo { id, ..snapshot.clone() };
        let counts = sides.write_manifest(&manifest, &header(&volume, base, &told), &self.monitor).unwrap();
        let head = volume_head(&volume, base, &told, &counts);
        let digest = announce(&manifest).unwrap().digest;
        Offer { head, manifest, sides, digest }
    }

    /// Asks for the steps of the standby's half, over a channel if it is to be `apart`.
    fn with_standby<T>(&self, apart: bool, steps: impl FnOnce(&mut dyn StandbyEnd) -> T) -> T {
        if !apart {
            return steps(&mut self.local());
        }
        let ((their_from, to), (from, their_to)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let monitor = Monitor::default();
                let mut wire = wire(their_from, their_to, &monitor);
                wire.greet_back().unwrap();
                let mut local = Local::new(&self.target(), None, &monitor).unwrap();
                let options = RoundOptions::Asked { prunes: false };
                let served = serve_standby(&mut wire, &mut local, Channels::wait(1), options, &monitor);
                // Nobody says that the round is done.
                assert!(served.is_err());
            });
            let mut wire = wire(from, to, &self.monitor);
            wire.greet().unwrap();
            let transfer = TransferOptions { compression: Compression::None, limit: None };
            steps(&mut Remote::new(&mut wire, &transfer, Channels::wait(1), &self.monitor))
        })
    }

    /// Returns what both have.
    fn open(&self, standby: &mut dyn StandbyEnd) -> Option<SnapshotInfo> {
        let newest = self.state(standby).newest?;
        self.volume().line().unwrap().into_iter().find(|snapshot| snapshot.id == newest.id)
    }

    fn state(&self, standby: &mut dyn StandbyEnd) -> State {
        let info = self.volume().info();
        let promotions = self.volume().promotions().clone();
        let (lineage, epoch, drift) = (info.lineage, info.epoch, DriftOptions::default());
        standby.look(Some(lineage), None).unwrap();
        standby
            .open(OpenRequest { lineage, epoch, promotions, drift, owners: None, adopt: None, store: None })
            .unwrap()
    }
}

fn wire(
    from: impl Into<std::os::fd::OwnedFd>,
    to: impl Into<std::os::fd::OwnedFd>,
    monitor: &Monitor,
) -> Wire<'_> {
    Wire::new(from, to, PathBuf::from("peer"), Duration::from_secs(60), Fate::default(), monitor).unwrap()
}

impl Offer {
    fn begin(&self, standby: &mut dyn StandbyEnd, again: Option<Again>) -> Result<StageReport> {
        standby.begin(IncomingDelta {
            header: &self.head,
            manifest: announce(&self.manifest)?,
            terms: Terms { strict: false, no_space_check: false },
            file: &self.manifest,
            fetch: &mut |to| copy(&self.manifest, to),
            spare: None,
            again,
        })
    }

    /// Sends what is not `held`.
    fn send(&self, standby: &mut dyn StandbyEnd, held: &Held) -> Result<()> {
        let head = write_head(&mut std::io::sink(), &self.head).unwrap();
        let seed = [head, self.digest];
        let (manifest, side) = (&self.manifest, &*self.sides.target);
        standby.transfer(Data { manifest, side, held, restless: None, seed }).map(drop)
    }

    fn again(&self, unlike: &BTreeSet<u64>) -> Option<Again> {
        Some(Again { from: hex(&self.digest), unlike: unlike.iter().copied().collect() })
    }

    fn rows(&self) -> Vec<Change> {
        with_data(&self.manifest).unwrap().map(|row| row.unwrap()).collect()
    }

    fn all(&self) -> Held {
        let (mut held, mut follows) = (Held::default(), false);
        for row in self.rows() {
            let all: Vec<Range> = row.extents.iter().map(|e| e.range()).collect();
            held.push(&row, &all, std::mem::replace(&mut follows, true));
        }
        held
    }

    /// Some of it, as if that were there already.
    fn some(&self) -> Held {
        let (mut held, mut follows) = (Held::default(), false);
        for (row, number) in self.rows().into_iter().zip(0..) {
            let all: Vec<Range> = row.extents.iter().map(|e| e.range()).collect();
            let ranges = match number % 4 {
                0 => all,
                1 => vec![Range { offset: all[0].offset, length: all[0].length.div_ceil(2) }],
                _ => Vec::new(),
            };
            held.push(&row, &ranges, follows);
            follows = held.left(&row).is_empty();
        }
        held
    }
}

/// A snapshot of which a part is staged, and the snapshot that the standby had before.
struct Half {
    offer: Offer,
    base: Option<SnapshotInfo>,
}

/// Takes a snapshot, and stages a part of it.
fn half(world: &World, tree: &mut Tree, standby: &mut dyn StandbyEnd) -> Half {
    (0..6).for_each(|_| tree.edit());
    for _ in 0..6 {
        let path = tree.directory().join(tree.name());
        tree.file_at(&path);
    }
    let (base, first) = (world.open(standby), world.take());
    let offer = world.offer(base.as_ref(), &first, first.id);
    assert_eq!(offer.begin(standby, None).unwrap().kept, 0);
    offer.send(standby, &offer.some()).unwrap();
    Half { offer, base }
}

/// Edits the tree twice and goes on each time. Returns what did not travel again.
fn rest(world: &World, tree: &mut Tree, standby: &mut dyn StandbyEnd, half: Half) -> u64 {
    let Half { mut offer, base } = half;
    let (id, mut kept) = (offer.head.snapshot.id, 0);
    for edits in [6, 2] {
        tree.unlike.clear();
        (0..edits).for_each(|_| tree.edit());
        let next = world.offer(base.as_ref(), &world.take(), id);
        let begun = next.begin(standby, offer.again(&tree.unlike)).unwrap();
        let differs = |row: &Change| tree.unlike.contains(&row.ino);
        let differ: Vec<Change> = next.rows().into_iter().filter(differs).collect();
        assert!(differ.iter().all(|row| !begun.held.is_whole(row.ino)), "what differs was kept");
        kept += begun.kept;
        next.send(standby, &begun.held).unwrap();
        offer = next;
    }
    assert_eq!(standby.commit().unwrap().id, id);
    kept
}

/// Clears the beginning of every second staged file.
fn spoil(stage: &Path) {
    let mut at = 0;
    visit(stage, &mut |path, stat| {
        if stat.is_file() && !path.ends_with("manifest.arrow") && !path.ends_with("received") {
            at += 1;
            let file = File::options().write(true).open(path).unwrap();
            (at % 2 == 0).then(|| file.write_all_at(&[0; 100], 0).unwrap());
        }
    });
    assert!(at > 1);
}

fn assert_same(world: &World) {
    assert_eq!(seen(&world.target()), seen(&world.source()));
    assert!(!world.target().join(".snapsync/incoming").exists());
}

/// With and without a base, in one process and over a channel, in one round and after it was cut.
#[test]
fn a_snapshot_that_is_taken_again_goes_on_with_what_is_staged() {
    let one = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
    for seed in one.map_or(0..8, |seed| seed..seed + 1) {
        let around = tempfile::tempdir().unwrap();
        let world = World::at(around.path());
        let is = |bit: u64| seed >> bit & 1 == 1;
        let mut tree = world.tree(seed);
        world.begin(&mut tree, is(0));
        let kept = world.with_standby(is(1), |standby| {
            let half = half(&world, &mut tree, standby);
            if is(2) { Err(Box::new(half)) } else { Ok(rest(&world, &mut tree, standby, half)) }
        });
        let kept = kept.unwrap_or_else(|half| {
            spoil(&world.target().join(".snapsync/incoming"));
            world.with_standby(is(1), |standby| {
                world.open(standby);
                // What was spoilt is missed, and does not come before the snapshot is taken again.
                assert!(half.offer.begin(standby, None).unwrap().kept > 0);
                half.offer.send(standby, &half.offer.all()).unwrap();
                rest(&world, &mut tree, standby, *half)
            })
        });
        assert_same(&world);
        assert!(kept > 0, "seed {seed}: nothing was kept");
    }
}

#[test]
fn what_did_not_come_is_missed_by_the_commit_and_not_before() {
    for apart in [false, true] {
        let around = tempfile::tempdir().unwrap();
        let world = World::at(around.path());
        let mut tree = world.tree(3);
        world.begin(&mut tree, true);
        let before = seen(&world.target());
        let error = world.with_standby(apart, |standby| {
            half(&world, &mut tree, standby);
            standby.commit().unwrap_err()
        });
        assert_eq!(error.exit_code(), 4, "{}", error.sentence());
        assert_eq!(seen(&world.target()), before);
    }
}

/// A manifest may be the same though a file is not: it was written without a new size or time.
#[test]
fn the_same_manifest_keeps_only_what_still_holds() {
    for apart in [false, true] {
        let around = tempfile::tempdir().unwrap();
        let world = World::at(around.path());
        let mut tree = world.tree(5);
        world.begin(&mut tree, false);
        world.with_standby(apart, |standby| {
            let Half { offer, .. } = half(&world, &mut tree, standby);
            let all: Vec<u64> = offer.rows().iter().map(|row| row.ino).collect();
            let begun = offer.begin(standby, offer.again(&all[1..].iter().copied().collect())).unwrap();
            assert!(all[1..].iter().all(|ino| !begun.held.is_whole(*ino)));
            offer.send(standby, &Held::default()).unwrap();
            // Too many for a message, or a manifest that is not the staged one: nothing is kept.
            let begun = offer.begin(standby, offer.again(&BTreeSet::new())).unwrap();
            assert!(begun.kept > 0);
            offer.send(standby, &begun.held).unwrap();
            let last = offer.rows().into_iter().next_back().unwrap().ino;
            let many = (last + 1..).take(if apart { Again::MOST + 1 } else { 0 }).collect();
            let from = if apart { hex(&offer.digest) } else { "00".repeat(32) };
            let begun = offer.begin(standby, Some(Again { from, unlike: many })).unwrap();
            assert_eq!(begun.kept, 0);
            offer.send(standby, &begun.held).unwrap();
            standby.commit().unwrap();
        });
        assert_same(&world);
    }
}

#[test]
fn no_other_snapshot_begins_before_the_commit() {
    let around = tempfile::tempdir().unwrap();
    let world = World::at(around.path());
    let mut tree = world.tree(6);
    world.begin(&mut tree, true);
    let error = world.with_standby(true, |standby| {
        let half = half(&world, &mut tree, standby);
        let other = world.offer(half.base.as_ref(), &world.take(), Uuid::new_v4());
        other.begin(standby, None).unwrap_err()
    });
    assert!(error.sentence().contains("another snapshot"), "{}", error.sentence());
}

/// What a process of its own needs to go on.
fn plan(world: &World) -> PathBuf {
    world.dir.join("plan")
}

#[test]
fn child() {
    let Some(dir) = std::env::var_os(WHERE) else { return };
    let world = World::at(Path::new(&dir));
    let (id, again): (Uuid, Again) = serde_json::from_slice(&fs::read(plan(&world)).unwrap()).unwrap();
    world.with_standby(false, |standby| {
        let base = world.open(standby);
        let snapshot = world.volume().line().unwrap().pop().unwrap();
        let offer = world.offer(base.as_ref(), &snapshot, id);
        let begun = offer.begin(standby, Some(again)).unwrap();
        offer.send(standby, &begun.held).unwrap();
        standby.commit().unwrap();
    });
}

/// Where it is killed, and whether something of what had arrived is there afterwards.
const PLACES: [(&str, bool); 8] = [
    ("carry.vetted:1", true),
    ("carry.aside:1", false),
    ("carry.begun:1", false),
    ("carry.file:1", true),
    ("carry.file:2", true),
    ("carry.done:1", true),
    ("stage.manifest:1", true),
    ("stage.frame:1", true),
];

#[test]
fn killed_anywhere_it_goes_on_or_begins_anew() {
    for (number, (place, is_kept)) in (0..).zip(PLACES) {
        let around = tempfile::tempdir().unwrap();
        let world = World::at(around.path());
        let mut tree = world.tree(20 + number);
        world.begin(&mut tree, number % 2 == 0);
        let Half { offer, base } = world.with_standby(false, |standby| half(&world, &mut tree, standby));
        (0..3).for_each(|_| tree.edit());
        let (snapshot, id, again) = (world.take(), offer.head.snapshot.id, offer.again(&tree.unlike));
        fs::write(plan(&world), serde_json::to_vec(&(id, again.clone())).unwrap()).unwrap();
        let ran = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "remote::tests::child"])
            .env(WHERE, &world.dir)
            .env("SNAPSYNC_FAULT", place)
            .env("RAYON_NUM_THREADS", "1")
            .output();
        assert_eq!(ran.unwrap().status.signal(), Some(9), "{place}");
        let kept = world.with_standby(true, |standby| {
            let state = world.state(standby);
            let next = world.offer(base.as_ref(), &snapshot, id);
            let is_new = state.pending.is_some_and(|pending| pending.manifest == hex(&next.digest));
            let begun = next.begin(standby, again.filter(|_| !is_new)).unwrap();
            next.send(standby, &begun.held).unwrap();
            standby.commit().unwrap();
            begun.kept
        });
        assert_same(&world);
        assert_eq!(kept > 0, is_kept, "{place}");
    }
}
