//! Snapshots received as plain directories, on whatever file system `TMPDIR` is; on Btrfs as root, with
//! subvolumes.

use snapsync_model::{Error, Identity, Kind, Monitor, Origin};
use snapsync_snapshot::{Base, ReceivedDirectory, Work, identity_of};
use snapsync_sys::{APPEND, Entry, FileSystem, IMMUTABLE, btrfs};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use uuid::Uuid;

struct World {
    /// Bases are looked for beside a shelf as well: each has a directory of its own to lie in.
    _around: TempDir,
    dir: PathBuf,
    monitor: Monitor,
}

impl World {
    fn new() -> World {
        let around = tempfile::tempdir().unwrap();
        let dir = around.path().join("shelf");
        fs::create_dir(&dir).unwrap();
        World { _around: around, dir, monitor: Monitor::default() }
    }

    fn path(&self) -> &Path {
        &self.dir
    }

    fn is_btrfs(&self) -> bool {
        let dir = File::open(self.path()).unwrap();
        snapsync_sys::filesystem(dir).unwrap().magic == FileSystem::BTRFS
    }

    fn shelf(&self) -> ReceivedDirectory {
        ReceivedDirectory::open(self.path()).unwrap()
    }

    /// Publishes a full snapshot whose tree `fill` makes.
    fn publish(&self, name: &str, identity: &Identity, fill: impl FnOnce(&Path)) -> PathBuf {
        let shelf = self.shelf();
        let work = shelf.begin(identity, None, &self.monitor).unwrap();
        fill(&work.tree());
        work.publish(name, identity).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".snapsync")
            .collect();
        names.sort();
        names
    }

    fn areas(&self) -> usize {
        let is_area = |entry: &fs::DirEntry| entry.file_name() != "lock";
        let entries = fs::read_dir(self.path().join(".snapsync/receiving"));
        entries.map_or(0, |entries| entries.map(Result::unwrap).filter(is_area).count())
    }
}

fn found(shelf: &ReceivedDirectory, wanted: &Identity) -> Option<PathBuf> {
    shelf.find(wanted).unwrap().map(|base| base.path().to_path_buf())
}

/// As the base of what is received next.
fn base_at(shelf: &ReceivedDirectory, path: &Path) -> Option<Base> {
    let identity = identity_of(path).unwrap().expect("a snapshot");
    Some(shelf.find(&identity).unwrap().expect("it is there"))
}

fn identity(n: u128) -> Identity {
    Identity { id: Uuid::from_u128(n), origin: None }
}

fn of_subvolume(n: u128, uuid: u128, transid: u64) -> Identity {
    Identity { origin: Some(Origin { uuid: Uuid::from_u128(uuid), transid, constant: false }), ..identity(n) }
}

fn refusal<T>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused { what, advice }) => format!("{what}; {advice}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("was not refused"),
    }
}

fn set_flags(path: &Path, flags: u32) -> bool {
    snapsync_sys::set_flags_of(File::open(path).unwrap(), flags).is_ok()
}

fn set_mtime(path: &Path, mtime: i64) {
    Entry::at(rustix::fs::CWD, path.as_os_str()).unwrap().set_mtime(mtime).unwrap();
}

/// Takes off what would keep the temporary directory from being removed.
fn unprotect(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            set_flags(&entry.path(), 0);
            unprotect(&entry.path());
        } else if entry.file_type().unwrap().is_file() {
            set_flags(&entry.path(), 0);
        }
    }
}

/// Some of everything that a tree can hold.
fn fill(tree: &Path) {
    let root = rustix::process::geteuid().is_root();
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    fs::write(tree.join("a/file"), vec![7; 300_000]).unwrap();
    fs::hard_link(tree.join("a/file"), tree.join("a/b/again")).unwrap();
    symlink("nowhere/at all", tree.join("link")).unwrap();
    let sparse = File::create(tree.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(b"island", 20 << 20).unwrap();
    let reserved = File::create(tree.join("reserved")).unwrap();
    reserved.set_len(5000).unwrap();
    snapsync_sys::preallocate(&reserved, 8192, 1 << 20).unwrap();
    for (path, mode) in [("a/file", 0o640), ("a/b", 0o1770), ("a/b/c", 0o500)] {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let file = |path: &str| Entry::at(rustix::fs::CWD, tree.join(path).as_os_str()).unwrap();
    if root {
        file("a/file").set_owner(1234, 5678).unwrap();
        file("a/file").set_mode(0o4755).unwrap();
        file("link").set_owner(1, 2).unwrap();
        for (path, kind) in [("fifo", Kind::Fifo), ("device", Kind::CharDevice), ("socket", Kind::Socket)] {
            let dir = File::open(tree).unwrap();
            snapsync_sys::make_node(dir, OsStr::new(path), kind, rustix::fs::makedev(1, 3)).unwrap();
        }
        let _ = file("a").set_xattr(b"trusted.note", b"\0\xff");
        // An entry for a user: version 2, then owner, user 1000, group, mask, others.
        let entry = |tag: u16, mode: u16, id: u32| {
            [&tag.to_le_bytes()[..], &mode.to_le_bytes()[..], &id.to_le_bytes()[..]].concat()
        };
        let none = u32::MAX;
        let entries =
            [entry(1, 7, none), entry(2, 5, 1000), entry(4, 5, none), entry(16, 5, none), entry(32, 0, none)];
        let acl = [&2_u32.to_le_bytes()[..], &entries.concat()[..]].concat();
        let _ = file("a").set_xattr(b"system.posix_acl_default", &acl);
    }
    let _ = file("a/file").set_xattr(b"user.note", b"kept");
    fs::write(tree.join("a/frozen"), "ice").unwrap();
    fs::hard_link(tree.join("a/frozen"), tree.join("frozen too")).unwrap();
    fs::write(tree.join("a/b/growing"), "log").unwrap();
    set_flags(&tree.join("a/frozen"), IMMUTABLE);
    set_flags(&tree.join("a/b/growing"), APPEND);
    for (at, path) in ["link", "sparse", "a/b/c", "a/b", "a", "."].iter().enumerate() {
        set_mtime(&tree.join(path), 1_000_000_000_123_456_789 + at as i64);
    }
    set_flags(&tree.join("a/b"), IMMUTABLE);
}

/// Everything about a tree that an ordinary program can see.
fn describe(tree: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut names) = (BTreeMap::new(), BTreeMap::<u64, PathBuf>::new());
    let mut left = vec![PathBuf::new()];
    while let Some(at) = left.pop() {
        let path = tree.join(&at);
        let meta = fs::symlink_metadata(&path).unwrap();
        let first = names.entry(meta.ino()).or_insert_with(|| at.clone()).clone();
        let kind = meta.file_type();
        let mut flags = 0;
        let mut content = Vec::new();
        if kind.is_dir() {
            let mut entries: Vec<_> =
                fs::read_dir(&path).unwrap().map(|e| at.join(e.unwrap().file_name())).collect();
            entries.retain(|entry| entry.as_os_str() != ".snapsync");
            entries.sort();
            entries.reverse();
            left.extend(entries);
            flags = snapsync_sys::flags_of(File::open(&path).unwrap()).unwrap();
        } else if kind.is_file() {
            content = fs::read(&path).unwrap();
            flags = snapsync_sys::flags_of(File::open(&path).unwrap()).unwrap();
        } else if kind.is_symlink() {
            content = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
        } else {
            assert!(kind.is_fifo() || kind.is_char_device() || kind.is_socket());
        }
        let places = if kind.is_file() { layout(&path) } else { String::new() };
        let size = if kind.is_file() { meta.len() } else { 0 };
        let links = if kind.is_dir() { 0 } else { meta.nlink() };
        let hash = content.iter().fold(0_u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(*b)));
        let xattrs = Entry::at(rustix::fs::CWD, path.as_os_str()).unwrap().xattrs().unwrap();
        found.insert(
            at,
            format!(
                "{:o} {}:{} {size} {links} {first:?} rdev {} {}.{:09} {flags:x} {hash:x} {xattrs:?} {places}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.rdev(),
                meta.mtime(),
                meta.mtime_nsec(),
            ),
        );
    }
    found
}

fn layout(path: &Path) -> String {
    let file = File::open(path).unwrap();
    let filesystem = snapsync_sys::filesystem(&file).unwrap();
    let layout = snapsync_sys::layout(&file, file.metadata().unwrap().len(), filesystem).unwrap();
    layout.segments().iter().map(|s| format!("{:?}@{}+{} ", s.kind, s.offset, s.length)).collect()
}

#[test]
fn a_snapshot_that_was_published_is_found_and_knows_who_it_is() {
    let world = World::new();
    let wanted = of_subvolume(1, 2, 7);
    let path = world.publish("monday", &wanted, |tree| fs::write(tree.join("file"), "new").unwrap());
    assert_eq!(path, world.path().canonicalize().unwrap().join("monday"));
    assert_eq!(fs::read(path.join("file")).unwrap(), b"new");
    assert!(!path.join(".snapsync").exists());
    assert_eq!(world.areas(), 0);
    for known in [wanted, identity(1), identity(2), of_subvolume(9, 2, 7)] {
        assert_eq!(found(&world.shelf(), &known), Some(path.clone()), "{known:?}");
    }
    assert_eq!(found(&world.shelf(), &identity(3)), None);
    assert_eq!(identity_of(&path).unwrap(), Some(wanted));
    assert_eq!(identity_of(&path.join("..")).unwrap(), None, "the shelf is no snapshot");
    if world.is_btrfs() {
        assert!(fs::write(path.join("file"), "changed").is_err());
        let info = btrfs::subvolume(File::open(&path).unwrap()).unwrap();
        let received = info.received.unwrap();
        assert_eq!((Uuid::from_bytes(received.uuid), received.sent), (Uuid::from_u128(2), 7));
        assert!(info.changed <= received.transid, "nothing changed after it was marked: {info:?}");
    }
}

#[test]
fn a_snapshot_is_found_when_it_was_renamed_and_not_when_another_took_its_name() {
    let world = World::new();
    let path = world.publish("monday", &identity(1), |_| {});
    let renamed = path.with_file_name("renamed");
    fs::rename(&path, &renamed).unwrap();
    assert_eq!(found(&world.shelf(), &identity(1)), Some(renamed.clone()));
    let other = world.publish("monday", &identity(2), |_| {});
    assert_eq!(found(&world.shelf(), &identity(1)), Some(renamed));
    assert_eq!(found(&world.shelf(), &identity(2)), Some(other.clone()));
    let away = TempDir::new_in(world.path()).unwrap();
    fs::rename(&other, away.path().join("gone")).ok();
    if !other.exists() {
        fs::create_dir(&other).unwrap();
        assert_eq!(found(&world.shelf(), &identity(2)), None);
        assert_eq!(identity_of(&other).unwrap(), None);
    }
}

#[test]
fn a_tree_made_from_a_base_is_as_the_base_in_everything() {
    let world = World::new();
    let base = world.publish("base", &identity(1), fill);
    let shelf = world.shelf();
    let work = shelf.begin(&identity(2), base_at(&shelf, &base), &world.monitor).unwrap();
    assert!(!work.is_resumed());
    assert_eq!(describe(&work.tree()), describe(&base));
    let address = |tree: &Path| {
        let file = File::open(tree.join("a/file")).unwrap();
        let filesystem = snapsync_sys::filesystem(&file).unwrap();
        snapsync_sys::layout(&file, 300_000, filesystem).unwrap().segments()[0].address
    };
    if snapsync_sys::supports_reflinks(File::open(world.path()).unwrap()) {
        assert_eq!(address(&work.tree()), address(&base), "blocks are shared");
    }
    assert_eq!(fs::read_dir(work.tree().join(".snapsync")).unwrap().count(), 0);
    fs::write(work.tree().join("a/new"), "in the copy").unwrap();
    let path = work.publish("next", &identity(2)).unwrap();
    assert!(!base.join("a/new").exists());
    assert_eq!(found(&shelf, &identity(2)), Some(path));
    assert!(world.monitor.take_notes().is_empty());
    if !world.is_btrfs() {
        unprotect(world.path());
    }
}

#[test]
fn a_root_that_is_protected_keeps_its_flags_and_time() {
    let world = World::new();
    let mut holds = false;
    let base = world.publish("base", &identity(1), |tree| {
        set_mtime(tree, 1_234_567_890_000_000_001);
        holds = set_flags(tree, IMMUTABLE);
    });
    let shelf = world.shelf();
    let work = shelf.begin(&identity(2), base_at(&shelf, &base), &world.monitor).unwrap();
    let next = work.publish("next", &identity(2)).unwrap();
    for path in [&base, &next] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_234_567_890, 1));
        let flags = snapsync_sys::flags_of(File::open(path).unwrap()).unwrap();
        assert_eq!(flags & IMMUTABLE != 0, holds);
    }
    if !world.is_btrfs() {
        unprotect(world.path());
    }
}

#[test]
fn nothing_is_inherited_from_the_shelf() {
    let world = World::new();
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o2755)).unwrap();
    let base = world.publish("base", &identity(1), |tree| fs::create_dir(tree.join("dir")).unwrap());
    assert_eq!(fs::metadata(base.join("dir")).unwrap().mode() & 0o2000, 0);
}

#[test]
fn an_interrupted_receive_is_taken_up_unless_its_base_differs() {
    let world = World::new();
    let (first, second) =
        (world.publish("first", &identity(1), |_| {}), world.publish("second", &identity(2), |_| {}));
    let shelf = world.shelf();
    let begin = |base: Option<&Path>| {
        let base = base.and_then(|path| base_at(&shelf, path));
        shelf.begin(&identity(3), base, &world.monitor).unwrap()
    };
    let work = begin(Some(&first));
    fs::write(work.tree().join("half"), "done").unwrap();
    fs::write(work.store().join("journal.json").show(), "{}").unwrap();
    drop(work);
    world.shelf();
    let mut work = begin(Some(&first));
    assert!(work.is_resumed());
    assert_eq!(fs::read(work.tree().join("half")).unwrap(), b"done");
    work.start_over().unwrap();
    assert!(!work.is_resumed() && !work.tree().join("half").exists());
    assert!(!work.store().join("journal.json").is_there());
    fs::write(work.tree().join("half"), "done").unwrap();
    drop(work);
    let work = begin(Some(&second));
    assert!(!work.is_resumed() && !work.tree().join("half").exists());
    drop(work);
    let work = begin(None);
    assert!(!work.is_resumed());
    work.discard().unwrap();
    assert_eq!((world.areas(), world.names()), (0, vec!["first".to_owned(), "second".to_owned()]));
}

#[test]
fn a_tree_that_was_not_made_wholly_is_made_anew() {
    let world = World::new();
    let shelf = world.shelf();
    let work = shelf.begin(&identity(1), None, &world.monitor).unwrap();
    fs::write(work.tree().join("half"), "").unwrap();
    fs::remove_file(work.store().join("made").show()).unwrap();
    drop(work);
    let work = shelf.begin(&identity(1), None, &world.monitor).unwrap();
    assert!(!work.is_resumed() && !work.tree().join("half").exists());
    fs::remove_file(work.store().join("made").show()).unwrap();
    drop(work);
    world.shelf();
    assert_eq!(world.areas(), 0, "nothing can take it up");
}

#[test]
fn one_snapshot_is_received_once_at_a_time_and_others_beside_it() {
    let world = World::new();
    let shelf = world.shelf();
    let begin = |n| shelf.begin(&identity(n), None, &world.monitor);
    let first = begin(1).unwrap();
    let second = begin(2).unwrap();
    assert!(refusal(begin(1)).contains("another command is receiving"));
    assert!(first.tree().is_dir() && second.tree().is_dir());
    first.publish("first", &identity(1)).unwrap();
    assert!(refusal(begin(1)).contains("was received before"));
    assert!(second.tree().is_dir());
    second.publish("second", &identity(2)).unwrap();
    assert_eq!(world.names(), ["first", "second"]);
}

#[test]
fn many_receives_at_once_do_not_get_in_each_others_way() {
    let world = World::new();
    std::thread::scope(|scope| {
        for n in 1..=8 {
            let world = &world;
            scope.spawn(move || {
                let monitor = Monitor::default();
                for round in 0..4 {
                    let id = identity(n * 100 + round);
                    let shelf = world.shelf();
                    let work = shelf.begin(&id, None, &monitor).unwrap();
                    fs::write(work.tree().join("own"), id.id.to_string()).unwrap();
                    work.publish(&format!("{n}-{round}"), &id).unwrap();
                }
            });
        }
    });
    assert_eq!((world.names().len(), world.areas()), (32, 0));
    for n in 1..=8 {
        let id = identity(n * 100 + 3);
        let path = found(&world.shelf(), &id).unwrap();
        assert_eq!(fs::read_to_string(path.join("own")).unwrap(), id.id.to_string());
    }
}

#[test]
fn a_name_that_is_taken_or_no_name_leaves_everything_as_it_was() {
    let world = World::new();
    fs::write(world.path().join("mine"), "precious").unwrap();
    let shelf = world.shelf();
    let long = "x".repeat(256);
    for bad in ["", ".", "..", ".snapsync", ".hidden", "-x", "a/b", "a\0b", "a\u{202e}b", &long] {
        assert!(matches!(shelf.name_is_free(bad), Err(Error::Usage { .. })), "{bad:?}");
    }
    shelf.name_is_free(&long[1..]).unwrap();
    let work = shelf.begin(&identity(1), None, &world.monitor).unwrap();
    assert!(refusal(work.publish("mine", &identity(1))).contains("is there already"));
    assert_eq!(fs::read(world.path().join("mine")).unwrap(), b"precious");
    assert_eq!(world.names(), ["mine"]);
    let work = shelf.begin(&identity(1), None, &world.monitor).unwrap();
    assert!(work.is_resumed());
    work.publish("yours", &identity(1)).unwrap();
}

#[test]
fn a_plain_directory_is_no_base() {
    let world = World::new();
    let plain = world.path().join("plain");
    fs::create_dir(&plain).unwrap();
    assert_eq!(identity_of(&plain).unwrap(), None);
    assert_eq!(found(&world.shelf(), &identity(1)), None);
    assert_eq!(world.areas(), 0);
}

#[test]
fn a_record_of_a_newer_format_is_refused_and_a_damaged_one_is_named() {
    let world = World::new();
    world.publish("monday", &identity(1), |_| {});
    let record = world.path().join(format!(".snapsync/received/{}.json", identity(1).id));
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    assert!(refusal(world.shelf().find(&identity(1))).contains("has format 2"));
    fs::write(&record, "{").unwrap();
    assert!(matches!(world.shelf().find(&identity(1)), Err(Error::Integrity { .. })));
}

const CHILD: &str = "SNAPSYNC_TEST_SHELF";

/// What `a_crash_anywhere_…` runs and kills.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let (shelf, monitor) = (ReceivedDirectory::open(Path::new(&dir)).unwrap(), Monitor::default());
    let base = shelf.find(&identity(1)).unwrap();
    let work = shelf.begin(&identity(2), base, &monitor).unwrap();
    apply(&work);
    work.publish("next", &identity(2)).unwrap();
}

fn apply(work: &Work<'_>) {
    fs::write(work.tree().join("new"), "whole").unwrap();
    set_mtime(&work.tree(), 1_111_111_111_000_000_007);
}

#[test]
fn a_crash_anywhere_leaves_nothing_or_all_of_a_snapshot() {
    let places = ["tree", "made", "stripped", "recorded", "moved", "settled"];
    for place in places {
        let world = World::new();
        world.publish("base", &identity(1), |tree| {
            fs::write(tree.join("old"), "kept").unwrap();
            set_flags(tree, IMMUTABLE);
            set_flags(tree, 0);
        });
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child"])
            .env(CHILD, world.path())
            .env("SNAPSYNC_FAULT", format!("receive.{place}:1"))
            .output()
            .unwrap()
            .status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{place}");
        let shelf = world.shelf();
        let found = found(&shelf, &identity(2));
        let is_there = matches!(place, "moved" | "settled");
        assert_eq!(found.is_some(), is_there, "{place}");
        assert_eq!(world.names().contains(&"next".to_owned()), is_there, "{place}");
        let path = found.unwrap_or_else(|| {
            let base = shelf.find(&identity(1)).unwrap();
            let work = shelf.begin(&identity(2), base, &world.monitor).unwrap();
            assert_eq!(work.is_resumed(), place != "tree", "{place}");
            if matches!(place, "tree" | "made") {
                apply(&work);
            }
            work.publish("next", &identity(2)).unwrap()
        });
        assert_eq!(fs::read(path.join("new")).unwrap(), b"whole");
        assert_eq!(fs::read(path.join("old")).unwrap(), b"kept");
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_111_111_111, 7), "{place}");
        assert_eq!((world.areas(), world.names()), (0, vec!["base".to_owned(), "next".to_owned()]));
        assert_eq!(fs::write(path.join("new"), "whole").is_err(), world.is_btrfs(), "{place}");
    }
}

/// Runs a command in a directory; for tests that only Btrfs can do.
fn shell(world: &World, script: &str) {
    let ran = Command::new("bash").args(["-ec", script]).current_dir(world.path()).output().unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Needs root, btrfs-progs, and `TMPDIR` on Btrfs.
fn can_send(world: &World) -> bool {
    world.is_btrfs()
        && rustix::process::geteuid().is_root()
        && Command::new("btrfs").arg("version").output().is_ok()
}

const SOURCE: &str = "btrfs -q subvolume create source; head -c 9000000 /dev/urandom >source/f; \
                      btrfs -q subvolume snapshot -r source one";

#[test]
fn a_snapshot_of_btrfs_itself_is_a_base_until_it_is_changed() {
    let world = World::new();
    if !can_send(&world) {
        return;
    }
    shell(&world, SOURCE);
    assert_eq!(identity_of(&world.path().join("source")).unwrap(), None, "it is writable");
    let one = identity_of(&world.path().join("one")).unwrap().unwrap();
    assert_eq!(one.id, one.origin.unwrap().uuid);
    let path = found(&world.shelf(), &one).unwrap();
    assert!(path.ends_with("one"));
    shell(&world, "btrfs property set one ro false");
    assert!(refusal(world.shelf().find(&one)).contains("it is writable"));
    shell(&world, "echo >one/new; btrfs property set one ro true");
    assert!(refusal(world.shelf().find(&one)).contains("another state"));
    let again = identity_of(&path).unwrap().unwrap();
    assert_eq!(found(&world.shelf(), &again), Some(path));
}

#[test]
fn what_btrfs_received_is_a_base_though_its_data_was_written_out_later() {
    let world = World::new();
    if !can_send(&world) {
        return;
    }
    shell(&world, SOURCE);
    let (one, there) = (identity_of(&world.path().join("one")).unwrap().unwrap(), world.path().join("there"));
    // Unless someone else happens to sync in between.
    let is_late = (0..20).any(|_| {
        shell(&world, "rm -rf there; mkdir there; btrfs -q send one | btrfs -q receive there; sync");
        let subvolume = btrfs::subvolume(File::open(there.join("one")).unwrap()).unwrap();
        let is_late = subvolume.changed > subvolume.received.unwrap().transid;
        if !is_late {
            shell(&world, "btrfs -q subvolume delete there/one");
        }
        is_late
    });
    assert!(is_late, "data is written out after a subvolume was marked");
    let shelf = ReceivedDirectory::open(&there).unwrap();
    let path = found(&shelf, &one).unwrap();
    assert_eq!(identity_of(&path).unwrap(), Some(one));
    let work = shelf.begin(&identity(7), base_at(&shelf, &path), &world.monitor).unwrap();
    assert_eq!(describe(&work.tree()), describe(&path));
    fs::write(work.tree().join("more"), "new").unwrap();
    // Its origin is what `btrfs send` calls the next snapshot.
    shell(&world, "echo new >source/more; btrfs -q subvolume snapshot -r source two");
    shell(&world, "echo newer >source/more; btrfs -q subvolume snapshot -r source three");
    let two = identity_of(&world.path().join("two")).unwrap().unwrap();
    let next = Identity { origin: two.origin, ..identity(7) };
    work.publish("two", &next).unwrap();
    assert_eq!(found(&shelf, &two), Some(there.join("two").canonicalize().unwrap()));
    // `btrfs receive` takes it as the parent of what comes next, as if it had made it itself.
    shell(&world, "btrfs -q send -p two three | btrfs -q receive there; cmp source/f there/three/f");
    assert_eq!(fs::read_to_string(there.join("three/more")).unwrap(), "newer\n");
    // It is no base any more once it was changed, whether the change is on the disk or not.
    for (snapshot, identity) in [("one", one), ("two", two)] {
        let set_read_only = |is| btrfs::set_read_only(File::open(there.join(snapshot)).unwrap(), is).unwrap();
        set_read_only(false);
        shell(&world, &format!("touch there/{snapshot}/f"));
        set_read_only(true);
        assert!(refusal(shelf.find(&identity)).contains("changed since it was received"), "{snapshot}");
        let own = identity_of(&there.join(snapshot)).unwrap().unwrap();
        assert!(!own.matches(&identity), "{snapshot}");
    }
}

#[test]
fn a_snapshot_of_a_volume_gives_no_store_to_what_is_made_from_it() {
    let world = World::new();
    if !can_send(&world) {
        return;
    }
    let script = "btrfs -q subvolume create v; mkdir v/.snapsync; btrfs -q subvolume create \
        v/.snapsync/store; \
                  ln -s store v/.snapsync/latest; echo hi >v/f; touch -d 2020-01-01 v; \
                  btrfs -q subvolume snapshot -r v base";
    shell(&world, script);
    let shelf = world.shelf();
    let base = world.path().join("base");
    let work = shelf.begin(&identity(1), base_at(&shelf, &base), &world.monitor).unwrap();
    assert_eq!(fs::read_dir(work.tree().join(".snapsync")).unwrap().count(), 0);
    let path = work.publish("next", &identity(1)).unwrap();
    assert_eq!(describe(&path), describe(&base));
    assert!(!path.join(".snapsync").exists());
}
