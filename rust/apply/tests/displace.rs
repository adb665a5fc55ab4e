//! What a commit takes from the tree is in the objects of older snapshots afterwards, and nowhere twice; and
//! the way back leaves none that the tree could change. On whatever file system `TMPDIR` is.

use snapsync_apply::{Incoming, Journal, Phase, clear, discard};
use snapsync_manifest::{ManifestHeader, ManifestReader, ManifestWriter};
use snapsync_model::{
    Attributes, Change, ChangeFlags, Error, Extent, Kind, Link, Monitor, Op, Provider, ROOT, Rare, RelPath,
    Result, SnapshotInfo, Subset, Xattr,
};
use snapsync_stream::{Budget, Frame};
use snapsync_sys::{Entry, Root, Spot, Stat, acl, stat_at};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// The directory that a process of its own works in, and what it does there.
const WHERE: &str = "DISPLACE_WHERE";
const DOES: &str = "DISPLACE_DOES";
const NEW: &[u8] = b"what the next snapshot has";
const ROUND: u64 = 7 << 40;
const ODD: &[u8] = b"odd\xff\nname";

/// May be bound to any port.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Its owner may all, user 77 may read and write, and everybody may read.
const LIST: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 6, 0, 77, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16,
    0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

/// Files of the base that go.
const GONE: [&str; 8] = ["single", "same", "sub/double", "gone/a", "gone/deep/b", "handmade", "odd", "fixed"];

struct World {
    /// None in a process that only works here.
    around: Option<TempDir>,
    dir: PathBuf,
    root: Arc<Root>,
    monitor: Monitor,
}

/// What is at each path that is not in the store.
type Tree = BTreeMap<Vec<u8>, Seen>;

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    bytes: Option<Vec<u8>>,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    time: i64,
    xattrs: Vec<Xattr>,
}

/// Objects and change times by the numbers of inodes.
type Table = HashMap<u64, (u64, i64)>;

impl World {
    fn new() -> World {
        let around = tempfile::tempdir().unwrap();
        let dir = around.path().join("tree");
        for made in [".snapsync/store/pool", "sub", "gone/deep"] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        for name in GONE {
            fs::write(at(&dir, name), bytes_of(name)).unwrap();
        }
        for name in ["changed", "kept"] {
            fs::write(dir.join(name), bytes_of(name)).unwrap();
        }
        fs::hard_link(dir.join("sub/double"), dir.join("again")).unwrap();
        fs::hard_link(dir.join("handmade"), around.path().join("outside")).unwrap();
        fs::set_permissions(dir.join("single"), fs::Permissions::from_mode(0o4755)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.join("gone/a"), Some(1234), Some(5678)).unwrap();
            // Not every file system has these.
            let _ = entry_at(&dir.join("gone/a")).set_xattr(acl::CAPABILITIES, CAPABILITY);
            let _ = entry_at(&dir.join("single")).set_xattr(acl::ACCESS, LIST);
            let fixed = File::open(dir.join("fixed")).unwrap();
            let _ = snapsync_sys::set_flags_of(fixed, snapsync_sys::IMMUTABLE);
        }
        let mut world = World::at(&dir);
        world.around = Some(around);
        world
    }

    fn at(dir: &Path) -> World {
        let root = Arc::new(Root::open(dir).unwrap());
        World { around: None, dir: dir.to_path_buf(), root, monitor: Monitor::default() }
    }

    fn store(&self) -> Spot {
        Spot::top(self.root.clone()).join(".snapsync/store")
    }

    fn journal(&self) -> Journal {
        Journal::load(&self.store()).unwrap().expect("a commit has begun")
    }

    fn stat(&self, name: &str) -> Stat {
        stat_at(rustix::fs::CWD, at(&self.dir, name).as_os_str()).unwrap()
    }

    /// The rows of the delta: all that `GONE` names goes, another file takes the name of one of them, and one
    /// changes in place.
    fn changes(&self) -> Vec<Change> {
        let mut rows = vec![self.row("", &[], &[])];
        rows.push(self.row("sub", &[], &[]));
        rows.push(self.row("gone", &[], &["gone"]));
        rows.push(self.row("gone/deep", &[], &["gone/deep"]));
        for name in GONE {
            let names: &[&str] = if name == "sub/double" { &[name, "again"] } else { &[name] };
            rows.push(self.row(name, &[], names));
        }
        let mut changed = self.row("changed", &[], &[]);
        let old = changed.old.unwrap();
        changed.new = Some(Attributes { size: NEW.len() as u64, mtime: old.mtime - 1_000_000_000, ..old });
        changed.flags = ChangeFlags { data: true, attributes: true, ..ChangeFlags::default() };
        changed.extents = vec![new_data()];
        rows.push(changed);
        let mut same = self.row("same", &["same"], &[]);
        same.ino = 1 << 60;
        same.new = same.old.take().map(|old| Attributes { size: NEW.len() as u64, ..old });
        (same.old_path, same.nlink_old, same.extents) = (None, 0, vec![new_data()]);
        rows.push(same);
        rows.sort_by_key(|row| row.ino);
        rows
    }

    fn row(&self, name: &str, added: &[&str], removed: &[&str]) -> Change {
        let stat = self.stat(name);
        let attributes = Attributes { flags: stat.attributes.flags & 0x30, ..stat.attributes };
        let path = RelPath::new(named(name)).unwrap();
        let is_gone = !removed.is_empty();
        let link = |name: &&str| {
            let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
            let parent = if above.is_empty() { ROOT } else { self.stat(above).ino };
            Link { parent, name: named(last).into() }
        };
        let count =
            if stat.kind == Kind::Directory { 1 } else { added.len().max(removed.len()).max(1) } as u32;
        let count = if path.is_root() { 0 } else { count };
        Change {
            ino: if path.is_root() { ROOT } else { stat.ino },
            generation: 0,
            kind: stat.kind,
            flags: ChangeFlags { created: !added.is_empty(), deleted: is_gone, ..ChangeFlags::default() },
            path: (!is_gone).then(|| path.clone()),
            old_path: Some(path),
            links_added: added.iter().map(link).collect(),
            links_removed: removed.iter().map(link).collect(),
            nlink: if is_gone { 0 } else { count },
            nlink_old: count,
            new: (!is_gone).then_some(attributes),
            old: Some(attributes),
            symlink_target: None,
            xattrs: (!added.is_empty()).then(Vec::new),
            extents: Vec::new(),
        }
    }

    fn snapshot() -> SnapshotInfo {
        SnapshotInfo {
            id: Uuid::from_u128(8),
            name: "next".to_owned(),
            sequence: 1,
            parent: None,
            created: "2026-11-26T12:00:00Z".to_owned(),
            provider: Provider::Pool,
            entries: None,
            bytes: None,
            subset: Subset::default(),
            aside: false,
        }
    }

    /// All but the commit.
    fn stage(&self) -> Result<Incoming<'_>> {
        self.stage_with(&self.table(), || ())
    }

    /// The same. Between the arrival of the data and the seal `meanwhile` is done.
    fn stage_with(&self, table: &Table, meanwhile: impl FnOnce()) -> Result<Incoming<'_>> {
        let changes = self.changes();
        let base = Some((Uuid::from_u128(7), None));
        let mut incoming =
            Incoming::begin(&self.root, &self.store(), World::snapshot(), base, &self.monitor)?;
        let mut writer = ManifestWriter::create(&incoming.manifest(), &ManifestHeader::default())?;
        changes.iter().try_for_each(|row| writer.write(row))?;
        writer.finish()?;
        incoming.will_displace(false);
        incoming.prepare(false, true, false)?;
        incoming.entries()?;
        let mut sink = incoming.sink();
        for change in ManifestReader::open(&incoming.manifest())? {
            let change = change?;
            if change.data_bytes() > 0 {
                let permit = Arc::new(Budget::new(1 << 20)).take(1);
                let hash = *blake3::hash(NEW).as_bytes();
                sink(Frame { change: Arc::new(change), offset: 0, bytes: NEW.to_vec(), hash, permit })?;
            }
        }
        drop(sink);
        incoming.displaces(&mut |asked| {
            Ok(asked.iter().filter_map(|ino| Some((*ino, *table.get(ino)?))).collect())
        })?;
        meanwhile();
        incoming.seal()?;
        Ok(incoming)
    }

    /// What the table of the base says.
    fn table(&self) -> Table {
        let names = GONE.iter().chain(&["changed", "kept"]);
        let stats = names.map(|name| (object(name), self.stat(name)));
        stats.map(|(object, stat)| (stat.ino, (object, stat.ctime))).collect()
    }

    fn object(&self, name: &str) -> PathBuf {
        self.dir.join(".snapsync/store/pool").join(snapsync_model::object_path(object(name)))
    }

    /// What follows a commit.
    fn finish(&self) {
        clear(&self.root, World::snapshot().id).unwrap();
        discard(&self.root, World::snapshot().id).unwrap();
        Journal::remove(&self.store()).unwrap();
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        walk(&self.dir, &self.dir, &mut tree);
        tree
    }

    /// Runs `action` here in a process of its own, which stops where `fault` says.
    fn apart(&self, action: &str, fault: &str) -> std::process::ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child"])
            .env(WHERE, &self.dir)
            .env(DOES, action)
            .env("SNAPSYNC_FAULT", fault)
            .env("RAYON_NUM_THREADS", "1")
            .output()
            .unwrap()
            .status
    }

    /// The bytes of all that went or was overwritten are in the objects, this process's alone.
    fn assert_displaced(&self) {
        for name in GONE.iter().chain(&["changed"]) {
            let object = self.object(name);
            assert_eq!(fs::read(&object).unwrap(), bytes_of(name), "{name}");
            let found = fs::metadata(&object).unwrap();
            assert_eq!((found.mode() & 0o7777, found.nlink()), (0o600, 1), "{name}");
            assert_eq!(found.uid(), rustix::process::geteuid().as_raw(), "{name}");
            let lets_in = [acl::ACCESS, acl::CAPABILITIES];
            assert!(entry_at(&object).xattrs().unwrap().iter().all(|x| !lets_in.contains(&&*x.name)));
        }
        assert!(!self.object("kept").exists());
    }

    /// No object can change with what is in the tree.
    fn assert_apart(&self) {
        for name in GONE.iter().chain(&["changed"]) {
            let (Ok(object), here) = (fs::metadata(self.object(name)), self.stat(name)) else { continue };
            assert_eq!((object.nlink(), object.ino() == here.ino), (1, false), "{name}");
            assert_eq!(fs::read(self.object(name)).unwrap(), bytes_of(name), "{name}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.around.is_some() {
            let fixed = File::open(self.dir.join("fixed"));
            let _ = fixed.map(|fixed| snapsync_sys::set_flags_of(fixed, 0));
        }
    }
}

fn entry_at(path: &Path) -> Entry {
    Entry::at(rustix::fs::CWD, path.as_os_str()).unwrap()
}

/// One has a name that is no text.
fn named(name: &str) -> &[u8] {
    if name == "odd" { ODD } else { name.as_bytes() }
}

fn at(dir: &Path, name: &str) -> PathBuf {
    dir.join(OsStr::from_bytes(named(name)))
}

fn bytes_of(name: &str) -> Vec<u8> {
    format!("what {name} held before\n").repeat(1000).into_bytes()
}

fn object(name: &str) -> u64 {
    let number = GONE.iter().chain(&["changed", "kept"]).position(|other| *other == name).unwrap();
    // Of two directories.
    ROUND + 4094 + number as u64
}

fn new_data() -> Extent {
    Extent { offset: 0, length: NEW.len() as u64, op: Op::Data, source: None, checksum: None }
}

fn walk(top: &Path, dir: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, found) = (entry.path(), entry.metadata().unwrap());
        if entry.file_name() == ".snapsync" {
            continue;
        }
        let seen = Seen {
            bytes: (!found.is_dir()).then(|| fs::read(&path).unwrap()),
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            links: found.nlink(),
            time: if found.is_dir() { 0 } else { found.mtime() * 1_000_000_000 + found.mtime_nsec() },
            xattrs: entry_at(&path).xattrs().unwrap(),
        };
        tree.insert(path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec(), seen);
        if found.is_dir() {
            walk(top, &path, tree);
        }
    }
}

/// What the tree is after the commit.
fn after(mut tree: Tree) -> Tree {
    tree.retain(|path, _| {
        let is = |name: &str| named(name) == path.as_slice();
        !(path.starts_with(b"gone") || is("again") || GONE.iter().any(|name| is(name)))
    });
    tree
}

fn assert_new(world: &World, before: &Tree) {
    let mut tree = world.tree();
    assert_eq!(tree.remove(&b"same"[..]).unwrap().bytes.unwrap(), NEW);
    let mut wanted = after(before.clone());
    let changed = wanted.get_mut(&b"changed"[..]).unwrap();
    (changed.bytes, changed.time) = (Some(NEW.to_vec()), changed.time - 1_000_000_000);
    assert_eq!(tree, wanted);
}

#[test]
fn child() {
    let Some(dir) = std::env::var_os(WHERE) else { return };
    let world = World::at(Path::new(&dir));
    let done = match std::env::var(DOES).unwrap().as_str() {
        "apply" => world.stage().and_then(|mut incoming| incoming.commit()),
        "undo" => Incoming::open(&world.root, &world.store(), world.journal(), &world.monitor)
            .and_then(|mut incoming| incoming.undo()),
        _ => Incoming::open(&world.root, &world.store(), world.journal(), &world.monitor)
            .and_then(|mut incoming| incoming.commit()),
    };
    done.unwrap();
}

#[test]
fn what_goes_becomes_its_object_and_what_is_overwritten_is_copied() {
    let world = World::new();
    let (before, inodes) = (world.tree(), GONE.map(|name| world.stat(name).ino));
    world.stage().unwrap().commit().unwrap();
    world.finish();
    assert_new(&world, &before);
    world.assert_displaced();
    for (name, ino) in GONE.iter().zip(inodes) {
        let is_same = fs::metadata(world.object(name)).unwrap().ino() == ino;
        // What has another name outside can change there.
        assert_eq!(is_same, *name != "handmade", "{name}");
    }
    let outside = world.dir.with_file_name("outside");
    assert_eq!(fs::read(&outside).unwrap(), bytes_of("handmade"));
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn what_is_not_what_the_table_says_does_not_get_its_number() {
    let world = World::new();
    let written = world.dir.join("single");
    let open = File::options().write(true).open(world.dir.join("gone/a")).unwrap();
    let incoming = world.stage_with(&world.table(), || {
        let found = fs::metadata(&written).unwrap();
        fs::write(&written, bytes_of("SINGLE")).unwrap();
        File::options().write(true).open(&written).unwrap().set_modified(found.modified().unwrap()).unwrap();
    });
    incoming.unwrap().commit().unwrap();
    world.finish();
    assert!(!world.object("single").exists());
    // Who may write to it still has the file, and the object is another.
    let ino = open.metadata().unwrap().ino();
    assert_ne!(fs::metadata(world.object("gone/a")).unwrap().ino(), ino);
    assert_eq!(fs::read(world.object("gone/a")).unwrap(), bytes_of("gone/a"));
}

#[test]
fn an_object_that_is_there_stays_and_one_of_another_time_is_not_made() {
    let world = World::new();
    let there = world.object("single");
    fs::create_dir_all(there.parent().unwrap()).unwrap();
    fs::write(&there, "there").unwrap();
    let table = world.table();
    for name in ["changed", "again"] {
        fs::set_permissions(world.dir.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    world.stage_with(&table, || ()).unwrap().commit().unwrap();
    world.finish();
    assert_eq!(fs::read(&there).unwrap(), b"there");
    assert!(!world.object("changed").exists() && !world.object("sub/double").exists());
    assert!(world.object("same").exists());
}

#[test]
fn what_gets_other_names_or_writers_after_the_seal_is_copied_still() {
    let world = World::new();
    let mut incoming = world.stage().unwrap();
    let (link, ino) = (world.dir.with_file_name("late"), world.stat("single").ino);
    fs::hard_link(world.dir.join("same"), &link).unwrap();
    let open = File::options().append(true).open(world.dir.join("single")).unwrap();
    incoming.commit().unwrap();
    world.finish();
    (&open).write_all(b"more").unwrap();
    fs::write(&link, "other").unwrap();
    assert_ne!(fs::metadata(world.object("single")).unwrap().ino(), ino);
    // A link changes the time by which the file was known: nothing says any more that it holds what it did.
    assert!(!world.object("same").exists());
    assert_eq!(fs::read(world.object("single")).unwrap(), bytes_of("single"));
}

/// Of an ordinary user it takes the mode first.
#[test]
fn what_its_owner_may_not_read_is_kept_too() {
    let world = World::new();
    fs::set_permissions(world.dir.join("single"), fs::Permissions::from_mode(0o000)).unwrap();
    world.stage().unwrap().commit().unwrap();
    world.finish();
    world.assert_displaced();
}

/// A pool may be in a project of its own, which takes nothing of another.
#[test]
fn a_directory_of_another_project_takes_objects_too() {
    let world = World::new();
    let dir = world.object("single").with_file_name("");
    fs::create_dir_all(&dir).unwrap();
    let open = File::open(&dir).unwrap();
    let project = Rare { project: 9, ..Rare::default() };
    let is_set = snapsync_sys::set_rare_of(&open, project).is_ok()
        && snapsync_sys::set_flags_of(&open, snapsync_sys::PROJECT_INHERIT).is_ok();
    let before = world.tree();
    world.stage().unwrap().commit().unwrap();
    world.finish();
    assert_new(&world, &before);
    world.assert_displaced();
    assert!(!is_set || snapsync_sys::flags_of(&open).unwrap() & snapsync_sys::PROJECT_INHERIT == 0);
}

/// Every place that a commit passes, of those that come after the first write of the stage.
const PLACES: [&str; 11] = [
    "displace.row:1",
    "displace.done:1",
    "commit.marked:1",
    "commit.displace:1",
    "commit.displace:9",
    "commit.displaced:1",
    "commit.detach:3",
    "commit.detached:1",
    "commit.attached:1",
    "commit.data:1",
    "commit.attributes:1",
];

#[test]
fn a_stop_anywhere_goes_on_to_the_new_tree_or_back_to_the_old_one() {
    for place in PLACES {
        for back in [false, true] {
            let world = World::new();
            let before = world.tree();
            assert_eq!(world.apart("apply", place).signal(), Some(9), "{place}");
            let journal = world.journal();
            let open = |journal| Incoming::open(&world.root, &world.store(), journal, &world.monitor);
            if journal.phase == Phase::Staging {
                world.finish();
                assert_eq!(world.tree(), before, "{place}");
                assert!(GONE.iter().all(|name| !world.object(name).exists()), "{place}");
                continue;
            }
            if back {
                open(journal).unwrap().undo().unwrap();
                world.finish();
                assert_eq!(world.tree(), before, "{place}");
                world.assert_apart();
                // And the next try keeps it all.
                world.stage().unwrap().commit().unwrap();
            } else {
                open(journal).unwrap().commit().unwrap();
            }
            world.finish();
            assert_new(&world, &before);
            world.assert_displaced();
        }
    }
}

/// What fails, fails after what was displaced before it.
#[test]
fn a_commit_that_fails_takes_back_what_it_displaced() {
    for fault in ["commit.displace:4", "commit.displaced:1", "commit.detach:5", "commit.attributes:2"] {
        let world = World::new();
        let before = world.tree();
        assert_eq!(world.apart("apply", &format!("{fault}=fail")).code(), Some(101), "{fault}");
        assert_eq!(world.journal().phase, Phase::Staging, "{fault}");
        world.finish();
        assert_eq!(world.tree(), before, "{fault}");
        world.assert_apart();
        world.stage().unwrap().commit().unwrap();
        world.finish();
        assert_new(&world, &before);
        world.assert_displaced();
    }
}

/// By their change times alone nobody could tell any more that they are what the table says.
#[test]
fn the_way_back_tells_what_is_unchanged_before_it_is_over() {
    let world = World::new();
    let (before, table) = (world.tree(), world.table());
    assert_eq!(world.apart("apply", "commit.attributes:1").signal(), Some(9));
    let mut incoming = Incoming::open(&world.root, &world.store(), world.journal(), &world.monitor).unwrap();
    let mut told = Vec::new();
    let failed = incoming.undo_and(&mut |_, _| Err(Error::failed("the disk is full", "")));
    assert!(failed.is_err() && world.journal().goes_back());
    // By hand, in that moment.
    fs::write(world.dir.join("single"), "drift").unwrap();
    let drifted = fs::metadata(world.dir.join("single")).unwrap().ino();
    let undone = incoming.undo_and(&mut |_, back| {
        assert!(world.journal().goes_back());
        for file in back {
            let was = table.get(&file.ino).map(|(_, ctime)| *ctime);
            assert!(was.is_none_or(|ctime| ctime == file.was), "{}", file.ino);
            told.push(file.ino);
        }
        Ok(())
    });
    undone.unwrap();
    world.finish();
    assert!(told.len() >= GONE.len() && !told.contains(&drifted));
    assert_eq!(world.tree().len(), before.len());
}

#[test]
fn a_way_back_that_is_stopped_goes_on_or_is_turned() {
    let places = ["undo.begin:1", "undo.detached:2", "undo.displaced:1", "undo.data:1", "undo.attributes:3"];
    for place in places {
        for turned in [false, true] {
            let world = World::new();
            let before = world.tree();
            assert_eq!(world.apart("apply", "commit.attributes:1").signal(), Some(9), "{place}");
            assert_eq!(world.apart("undo", place).signal(), Some(9), "{place}");
            let action = if turned { "commit" } else { "undo" };
            assert!(world.apart(action, "").success(), "{place}, {action}");
            world.finish();
            if turned {
                assert_new(&world, &before);
                world.assert_displaced();
            } else {
                assert_eq!(world.tree(), before, "{place}");
                world.assert_apart();
            }
        }
    }
}
