//! Volumes that are lied about: made once, and made anew where something changed them; and what must hold of
//! them whoever spoke.

use crate::digest::Reading;
use crate::fuzz::delta::Delta;
use crate::options::{Hooks, Options, SshOptions, TransferOptions};
use crate::verbs::snapshot::snapshot;
use crate::verbs::sync::sync;
use crate::verbs::verify::verify;
use crate::volume::recovery;
use serde_json::Value;
use snapsync_model::{Monitor, Promotions, Role, SnapshotInfo};
use snapsync_snapshot::{Standby, Volume};
use snapsync_walk::STORE;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use uuid::Uuid;

/// The directory that servers are kept to.
const INSIDE: &str = "in";
/// Text with this in it, in a name or in a file, must not reach anybody who may not know it.
pub(super) const HIDDEN: &str = "hidden-name";
pub(super) const BEYOND: &str = "beyond";

/// What there is, and what is beside the directory that servers are kept to.
const PARTS: [&str; 8] =
    ["primary", "standby", "other", "hidden", "fresh", "plain", "plain/fresh", "../outside"];

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// A primary and its standby, which has all but its newest snapshot, and others that are none of a liar's
/// business.
pub(super) struct World {
    base: PathBuf,
    pub(super) lineage: Uuid,
    /// The standby, and what it shows.
    pub(super) standby: Uuid,
    pub(super) secret: String,
    /// One that is nobody's yet.
    pub(super) stranger: Uuid,
    pub(super) first: SnapshotInfo,
    pub(super) second: SnapshotInfo,
    whole: OnceCell<Delta>,
    next: OnceCell<Delta>,
    before: Facts,
}

/// All that can be seen from outside of what is there.
#[derive(Debug, Default)]
pub(super) struct Facts {
    parts: BTreeMap<&'static str, Part>,
    volumes: BTreeMap<&'static str, Rc<State>>,
}

/// A directory without its store, and that.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    tree: Vec<Print>,
    store: Vec<Print>,
}

/// An inode as it would not be after a change.
#[derive(Debug, PartialEq, Eq)]
struct Print {
    name: OsString,
    ino: u64,
    mode: u32,
    size: u64,
    changed: (i64, i64),
}

#[derive(Debug, PartialEq, Eq)]
struct State {
    id: Uuid,
    lineage: Uuid,
    epoch: u64,
    role: Role,
    subset: snapsync_model::Subset,
    promotions: Promotions,
    standbys: BTreeMap<Uuid, Standby>,
    snapshots: Vec<SnapshotInfo>,
    lent: BTreeMap<Uuid, Uuid>,
}

/// Has something said in the world, and what was changed by it made anew. What it is then is told.
pub(super) fn within(act: impl FnOnce(&World) -> Facts) {
    WORLD.with_borrow_mut(|world| {
        let now = act(world.get_or_insert_with(World::make));
        let differs =
            |part: &&&str| world.as_ref().is_some_and(|was| was.before.parts[**part] != now.parts[**part]);
        let changed: Vec<&str> = PARTS.iter().filter(differs).copied().collect();
        if changed.iter().any(|part| !["primary", "standby", "fresh"].contains(part)) {
            *world = None;
        } else if !changed.is_empty() {
            *world = world.take().map(World::made_anew);
        }
    });
}

impl World {
    fn make() -> World {
        let base = std::env::temp_dir().join(format!("lies-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        let at = |path: &str| base.join(path);
        ["in/other", "in/plain", "outside/volume", "scratch"]
            .iter()
            .for_each(|dir| fs::create_dir_all(at(dir)).expect("there is room"));
        let put = |path: &str| {
            fs::write(at(path), path.split('/').next_back().unwrap_or(path)).expect("there is room")
        };
        [
            "outside/beyond",
            "outside/canary",
            "outside/volume/beyond-name",
            "in/other/hidden-name",
            "in/plain/hidden-name",
        ]
        .iter()
        .for_each(|path| put(path));
        fs::write(at("outside/canary"), BEYOND).expect("there is room");
        symlink("../outside", at("in/link")).expect("there is room");
        bring(&at("in/other"), &at("in/hidden"), "hidden-snapshot");
        take(&at("outside/volume"), "beyond-snapshot");
        World::with_pair(base)
    }

    fn made_anew(self) -> World {
        for name in ["primary", "standby", "fresh"] {
            let _ = fs::remove_dir_all(self.at(name));
        }
        World::with_pair(self.base)
    }

    /// A primary with two snapshots, and a standby that has the first of them.
    fn with_pair(base: PathBuf) -> World {
        let at = |path: &str| base.join(INSIDE).join(path);
        let put = |path: &str, bytes: &[u8]| fs::write(at(path), bytes).expect("there is room");
        ["primary/dir", "primary/inner", "primary/gone"]
            .iter()
            .for_each(|dir| fs::create_dir_all(at(dir)).expect("there is room"));
        put("primary/a", &[b'a'; 5000]);
        put("primary/big", &[b'b'; 70_000]);
        put("primary/dir/b", b"b");
        put("primary/gone/under", b"gone");
        symlink("../../outside/canary", at("primary/link")).expect("there is room");
        let first = bring(&at("primary"), &at("standby"), "first");
        put("primary/new", &[b'n'; 3000]);
        put("primary/a", &[b'A'; 5000]);
        fs::rename(at("primary/dir/b"), at("primary/dir/c")).expect("it is there");
        fs::remove_dir_all(at("primary/gone")).expect("it is there");
        let second = take(&at("primary"), "second");
        let volume = Volume::open(&at("standby")).expect("it was made");
        let mut world = World {
            lineage: volume.info().lineage,
            standby: volume.info().id,
            secret: volume.secret().expect("it was given one").to_owned(),
            stranger: Uuid::new_v4(),
            first,
            second,
            whole: OnceCell::new(),
            next: OnceCell::new(),
            before: Facts::default(),
            base,
        };
        world.before = world.facts();
        world
    }

    /// The delta that brings an empty standby to the first snapshot.
    pub(super) fn whole(&self) -> &Delta {
        self.whole.get_or_init(|| Delta::of(&self.at("primary@0"), None, &self.scratch()))
    }

    /// The delta that brings it to the second.
    pub(super) fn next(&self) -> &Delta {
        let base = self.at("primary@0");
        self.next.get_or_init(|| Delta::of(&self.at("primary@1"), Some(base), &self.scratch()))
    }

    pub(super) fn inside(&self) -> PathBuf {
        self.base.join(INSIDE)
    }

    pub(super) fn at(&self, volume: &str) -> PathBuf {
        self.inside().join(volume)
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.base.join("scratch")
    }

    /// The place that a standby claims to be at.
    pub(super) fn place_of(&self, standby: Uuid) -> String {
        let is_known = standby == self.standby;
        self.at(if is_known { "standby" } else { "fresh" }).to_string_lossy().into_owned()
    }

    /// The primary, as it describes itself.
    pub(super) fn info(&self) -> Value {
        let volume = Volume::open(&self.at("primary")).expect("it is there");
        let text = serde_json::to_string(&volume.info()).expect("it can be told");
        serde_json::from_str(&text).expect("it was told")
    }

    pub(super) fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        for name in PARTS {
            let mut part = Part::default();
            print(&self.at(name), &mut part.tree, true);
            print(&self.at(name).join(STORE), &mut part.store, false);
            let was = self.before.volumes.get(name).filter(|_| self.before.parts[name].store == part.store);
            let state = was.cloned().or_else(|| State::of(&self.at(name)).map(Rc::new));
            state.map(|state| facts.volumes.insert(name, state));
            facts.parts.insert(name, part);
        }
        facts
    }

    /// What must hold whoever spoke. An owner may make a volume follow one whose promotions are not shown.
    pub(super) fn expect_sound(&self, now: &Facts, is_owner: bool) {
        self.expect_untouched(now, &["../outside"]);
        for (name, state) in &now.volumes {
            self.expect_free(name);
            let was = self.before.volumes.get(name);
            if self.before.parts[name] != now.parts[name] {
                self.expect_whole(name, state);
            }
            let Some(was) = was else { continue };
            assert_eq!((was.id, was.lineage), (state.id, state.lineage), "{name}");
            assert!(state.epoch >= was.epoch, "{name} went back to epoch {}", state.epoch);
            let is_shown = !state.promotions.is_empty() && state.promotions.lead_to(state.epoch);
            assert!(
                is_owner || is_shown || state.epoch == was.epoch,
                "{name} is of epoch {}, and nothing shows how",
                state.epoch
            );
        }
    }

    fn expect_free(&self, name: &str) {
        let volume = Volume::open(&self.at(name)).expect("it is a volume");
        volume.lock().expect("nobody works on it any more");
    }

    /// It can be healed, and a standby's tree is its newest snapshot.
    fn expect_whole(&self, name: &str, state: &State) {
        let (path, monitor) = (self.at(name), Monitor::default());
        let volume = Volume::open(&path).expect("it is a volume");
        let (volume, _) = recovery::lock(&volume, &monitor).expect("it can be healed");
        let Some(newest) = volume.line().expect("it is a volume").pop() else {
            assert_eq!(
                fs::read_dir(&path).expect("it is there").count(),
                1,
                "{name} has no snapshot, and a tree"
            );
            return;
        };
        if state.role == Role::Standby {
            let snapshot = PathBuf::from(format!("{}@{}", path.display(), newest.id));
            let found = verify(&path, &snapshot, Reading::All, &SshOptions::default(), &monitor)
                .expect("both are there");
            assert!(found.equal, "{name} is not its snapshot {}: {:?}", newest.name, found.differences);
        }
    }

    /// Nothing of it was touched, the store neither.
    pub(super) fn expect_untouched(&self, now: &Facts, names: &[&str]) {
        for name in names {
            assert_eq!(now.parts[name], self.before.parts[name], "{name} was touched");
        }
    }

    /// What was in it is as it was; a new standby may have come beside that, or come and gone.
    pub(super) fn expect_kept(&self, now: &Facts, name: &str) {
        let was = &self.before.parts[name].tree;
        let is_there = |print: &&Print| now.parts[name].tree.contains(print);
        let lacking: Vec<&Print> = was.iter().skip(1).filter(|print| !is_there(print)).collect();
        assert!(lacking.is_empty(), "{name} lost {lacking:?}");
    }

    /// Its files are as they were.
    pub(super) fn expect_same_tree(&self, now: &Facts, name: &str) {
        assert_eq!(now.parts[name].tree, self.before.parts[name].tree, "the tree of {name}");
    }

    /// Checks that a client which only reads has changed nothing.
    pub(super) fn expect_only_read(&self, now: &Facts, rounds: usize) {
        let (was, is) = (&self.before.volumes["primary"], &now.volumes["primary"]);
        assert_eq!((was.epoch, was.role, &was.promotions), (is.epoch, is.role, &is.promotions));
        assert_eq!(was.subset, is.subset);
        let kept = &is.snapshots[..was.snapshots.len().min(is.snapshots.len())];
        assert_eq!(kept, was.snapshots, "old snapshots stay");
        let more = &is.snapshots[was.snapshots.len()..];
        assert!(more.iter().all(|snapshot| is.lent.contains_key(&snapshot.id)), "{more:?}");
        assert!(more.len() <= rounds, "{more:?}");
        for (id, standby) in &was.standbys {
            let now = is.standbys.get(id).expect("a standby is known on");
            assert!(now == standby || *id == self.standby, "{now:?}");
        }
    }

    /// A primary that was answered counts nothing that it has not sent, and nobody else's word.
    pub(super) fn expect_only_seen(&self, now: &Facts, round: &Round) {
        let (was, is) = (&self.before.volumes["primary"], &now.volumes["primary"]);
        assert_eq!((was.epoch, was.role, &was.promotions), (is.epoch, is.role, &is.promotions));
        for (id, standby) in &is.standbys {
            let before = was.standbys.get(id).map(|standby| standby.snapshot);
            assert!(
                before == Some(standby.snapshot) || round.asked.contains(&standby.snapshot),
                "{id} counts as at {}, which it was not sent",
                standby.name
            );
            assert!(
                *id != self.standby || round.has_shown || before == Some(standby.snapshot),
                "who does not know its secret counts as {id}"
            );
        }
    }

    pub(super) fn has(&self, now: &Facts, snapshots: &[SnapshotInfo], volume: &str) -> bool {
        let there = &now.volumes[volume].snapshots;
        snapshots.iter().all(|snapshot| there.iter().any(|other| other.id == snapshot.id))
    }

    /// Volumes that no liar here may learn of.
    pub(super) fn strangers(&self) -> Vec<String> {
        let ids = ["other", "hidden"].map(|name| &self.before.volumes[name]);
        ids.iter().flat_map(|state| [state.id, state.lineage]).map(|id| id.to_string()).collect()
    }
}

impl State {
    fn of(path: &Path) -> Option<State> {
        let volume = Volume::find(path).ok()??;
        let (info, snapshots) = (volume.info(), volume.snapshots().expect("it is a volume"));
        let lent = snapshots.iter().filter_map(|snapshot| {
            volume.taken_for(snapshot.id).filter(|by| by.lent).map(|by| (snapshot.id, by.standby))
        });
        Some(State {
            id: info.id,
            lineage: info.lineage,
            epoch: info.epoch,
            role: info.role,
            subset: info.subset,
            promotions: volume.promotions().clone(),
            standbys: volume.standbys().clone(),
            lent: lent.collect(),
            snapshots,
        })
    }
}

fn bring(source: &Path, target: &Path, name: &str) -> SnapshotInfo {
    let options = Options { name: Some(name.to_owned()), ..Options::default() };
    let (transfer, ssh) = (TransferOptions::default(), SshOptions::default());
    let done = sync(source, target, &options, &transfer, &ssh, &Monitor::default());
    done.expect("a round of who tells the truth").snapshot
}

fn take(volume: &Path, name: &str) -> SnapshotInfo {
    let taken = snapshot(volume, Some(name.to_owned()), &Hooks::default(), false, &Monitor::default());
    taken.expect("a snapshot can be taken").snapshot
}

fn print(path: &Path, to: &mut Vec<Print>, is_root: bool) {
    let Ok(found) = path.symlink_metadata() else { return };
    let (name, changed) =
        (path.file_name().unwrap_or_default().to_owned(), (found.ctime(), found.ctime_nsec()));
    to.push(Print { name, ino: found.ino(), mode: found.mode(), size: found.size(), changed });
    if found.is_dir() {
        let entries = fs::read_dir(path).expect("it is a directory").flatten();
        let entries = entries.filter(|entry| !is_root || entry.file_name() != STORE);
        entries.for_each(|entry| print(&entry.path(), to, false));
    }
}

/// The observed parts of a round, whatever its answers.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Snapshots that came whole, and were asked to be committed then.
    pub(super) asked: Vec<Uuid>,
    /// One of those was said to be committed.
    pub(super) is_committed: bool,
    /// It knew what only the standby that is known knows.
    pub(super) has_shown: bool,
}
