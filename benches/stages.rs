//! How fast each stage is by itself, on 10,000 small files in the directory for temporary files: `make
//! bench-stages`. What a round comes to, beside other tools, is measured by `bench.py`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use snapsync_apply::Incoming;
use snapsync_benches::grow;
use snapsync_compare::{Trust, changes};
use snapsync_manifest::{ManifestHeader, ManifestReader, ManifestWriter};
use snapsync_model::{Change, Monitor, Provider, Result, Side, SnapshotInfo, Subset};
use snapsync_stream::{Arrivals, Budget, Compression, Held, MEMORY, Outlet, Readable, receive, run, send};
use snapsync_sys::{Root, Spot};
use snapsync_walk::Tree;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use uuid::Uuid;

const FILES: u32 = 10_000;
const JOBS: usize = 4;
const SEED: [[u8; 32]; 2] = [[0; 32]; 2];

/// A tree, and the manifest of all of it.
struct Scene {
    home: TempDir,
    tree: Tree,
}

impl Scene {
    fn new() -> Scene {
        let home = tempfile::tempdir().expect("a directory for temporary files");
        let root = home.path().join("tree");
        std::fs::create_dir(&root).and_then(|()| grow(&root, FILES)).expect("files to walk");
        let scene = Scene { tree: walk(&root), home };
        let mut writer =
            ManifestWriter::create(&scene.manifest(), &ManifestHeader::default()).expect("a manifest");
        compare(&scene.tree, None, Trust::Nothing, &mut |change| writer.write(&change));
        writer.finish().expect("a manifest");
        scene
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("tree")
    }

    fn manifest(&self) -> PathBuf {
        self.home.path().join("manifest.arrow")
    }

    fn rows(&self) -> impl Iterator<Item = Result<Change>> + Send + use<> {
        ManifestReader::open(&self.manifest()).expect("a manifest").only(|row| row.data_bytes > 0)
    }

    fn bytes(&self) -> u64 {
        ManifestReader::open(&self.manifest()).and_then(|rows| rows.counts()).expect("totals").data_bytes
    }
}

fn walk(root: &Path) -> Tree {
    Tree::walk(root, &Subset::default(), &Monitor::default()).expect("a tree")
}

fn compare(target: &Tree, base: Option<&Tree>, trust: Trust, emit: &mut dyn FnMut(Change) -> Result<()>) {
    let base = base.map(|base| base as &dyn Side);
    changes(base, target, trust, &BTreeSet::new(), &BTreeMap::new(), &Monitor::default(), emit)
        .expect("changes");
}

fn walking(criterion: &mut Criterion) {
    let scene = Scene::new();
    let mut group = criterion.benchmark_group("walk");
    group.throughput(Throughput::Elements(FILES.into()));
    group.bench_function("tree", |bench| bench.iter(|| walk(&scene.root())));
    group.finish();
}

fn comparing(criterion: &mut Criterion) {
    let scene = Scene::new();
    let mut group = criterion.benchmark_group("compare");
    group.throughput(Throughput::Elements(FILES.into()));
    let none = &mut |_| Ok(());
    let unchanged = Trust::Times { before: i64::MAX };
    group.bench_function("unchanged", |bench| {
        bench.iter(|| compare(&scene.tree, Some(&scene.tree), unchanged, none));
    });
    group.bench_function("created", |bench| {
        bench.iter(|| compare(&scene.tree, None, Trust::Nothing, none));
    });
    group.finish();
}

/// A channel that keeps what is written to it.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn framing(criterion: &mut Criterion) {
    let scene = Scene::new();
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Bytes(scene.bytes()));
    let pack = || {
        let kept = Kept::default();
        let outlet = Outlet { to: Box::new(kept.clone()), name: PathBuf::from("memory") };
        let (held, compression) = (Held::default(), Compression::default());
        let from = Readable { side: &scene.tree, held: &held, restless: None };
        send(scene.rows(), from, SEED, vec![outlet], compression, JOBS, &Monitor::default()).expect("frames");
        Arc::into_inner(kept.0).and_then(|kept| kept.into_inner().ok()).unwrap_or_default()
    };
    group.bench_function("send", |bench| bench.iter(pack));
    let packed = pack();
    group.bench_function("receive", |bench| {
        bench.iter(|| {
            let from =
                Arrivals { from: Box::new(Cursor::new(packed.clone())), name: PathBuf::from("memory") };
            receive(vec![from], SEED, JOBS, &Monitor::default(), &|_, _| false, &|| Box::new(|_| Ok(())))
                .expect("frames")
        });
    });
    group.finish();
}

fn applying(criterion: &mut Criterion) {
    let scene = Scene::new();
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(FILES.into())).sample_size(10);
    let place = || {
        let place = tempfile::tempdir_in(scene.home.path()).expect("a place to apply to");
        for name in ["store", "volume"] {
            std::fs::create_dir(place.path().join(name)).expect("a place to apply to");
        }
        place
    };
    group.bench_function("everything", |bench| {
        // Until it is in place and on the disk; it is removed outside the time.
        bench.iter_batched(place, |place| apply(&scene, place), BatchSize::PerIteration);
    });
    group.finish();
}

fn apply(scene: &Scene, place: TempDir) -> TempDir {
    let open = |name: &str| Arc::new(Root::open(&place.path().join(name)).expect("a place to apply to"));
    let (volume, store) = (open("volume"), Spot::top(open("store")));
    let monitor = Monitor::default();
    let mut incoming = Incoming::begin(&volume, &store, snapshot(), None, &monitor).expect("a stage");
    std::fs::copy(scene.manifest(), incoming.manifest().show()).expect("a manifest");
    incoming.keep("", None).expect("a journal");
    incoming.prepare(false, false, false).expect("a manifest that fits");
    incoming.entries().expect("staged entries");
    let (held, budget) = (Held::default(), Budget::new(MEMORY));
    let from = Readable { side: &scene.tree, held: &held, restless: None };
    run(scene.rows(), from, JOBS, &budget, &monitor, &|| incoming.sink()).expect("staged data");
    incoming.seal().and_then(|()| incoming.commit()).expect("a commit");
    drop(incoming);
    place
}

fn snapshot() -> SnapshotInfo {
    SnapshotInfo {
        id: Uuid::nil(),
        name: "measured".to_owned(),
        sequence: 0,
        parent: None,
        created: "2026-01-01T00:00:00Z".to_owned(),
        provider: Provider::Pool,
        entries: None,
        bytes: None,
        subset: Subset::default(),
        aside: false,
    }
}

criterion_group!(stages, walking, comparing, framing, applying);
criterion_main!(stages);
