//! Places where a test can kill the process. `SNAPSYNC_FAULT=name:n` kills it at the n-th time it passes the
//! place of that name; `SNAPSYNC_FAULT_TRACE=FILE` writes every place passed, a line each.

use snapsync_model::locked;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::{LazyLock, Mutex};

/// Every place, in the order a round passes them; then those of other verbs.
pub const POINTS: &[&str] = &[
    "init.store",
    "snapshot.begin",
    "snapshot.object",
    "snapshot.table",
    "snapshot.recorded",
    "snapshot.kept",
    "snapshot.aside",
    "again.made",
    "again.replaced",
    "stage.begin",
    "stage.manifest",
    "stage.directory",
    "stage.entry",
    "stage.frame",
    "stage.clone",
    "stage.done",
    "commit.marked",
    "commit.detach",
    "commit.detached",
    "commit.attach",
    "commit.attached",
    "commit.data",
    "commit.attributes",
    "commit.applied",
    "commit.snapshot",
    "commit.discarded",
    "commit.cleaned",
    "delete.begin",
    "delete.unlisted",
    "promote.checked",
    "promote.raised",
    "switch.demoted",
    "rejoin.back",
    "rejoin.standby",
    "restore.manifest",
    "restore.done",
    "restore.put",
    "clone.made",
    "receive.tree",
    "receive.made",
    "receive.stripped",
    "receive.recorded",
    "receive.moved",
    "receive.settled",
];

struct Plan {
    kill: Option<(String, u64)>,
    trace: Option<Mutex<File>>,
    hits: Mutex<HashMap<&'static str, u64>>,
}

static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
    let kill = std::env::var("SNAPSYNC_FAULT").ok().and_then(|s| {
        let (name, count) = s.rsplit_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    let trace = std::env::var_os("SNAPSYNC_FAULT_TRACE")
        .and_then(|path| File::options().append(true).create(true).open(path).ok())
        .map(Mutex::new);
    (kill.is_some() || trace.is_some()).then(|| Plan { kill, trace, hits: Mutex::default() })
});

/// Marks a place. Costs one load where no test asked for it.
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is not listed");
    if let Some(plan) = PLAN.as_ref() {
        pass(plan, name);
    }
}

fn pass(plan: &Plan, name: &'static str) {
    if let Some(trace) = &plan.trace {
        let mut file = locked(trace);
        let _ = file.write_all(format!("{name}\n").as_bytes());
    }
    let mut hits = locked(&plan.hits);
    let count = hits.entry(name).or_default();
    *count += 1;
    if plan.kill.as_ref().is_some_and(|(point, n)| point == name && n == count) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
}
