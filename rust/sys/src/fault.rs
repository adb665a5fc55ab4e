//! Places where a test can kill the process, or make a step fail. `SNAPSYNC_FAULT=name:n` kills it at the n-th time it
//! passes the place of that name, `name:n=fail` fails there as if the system did not permit it; several are separated by
//! commas. `SNAPSYNC_FAULT_TRACE=FILE` writes every place passed, a line each.

use rustix::process::Signal;
use snapsync_model::locked;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
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
    "save.row",
    "save.done",
    "stage.done",
    "commit.marked",
    "commit.detach",
    "commit.detached",
    "commit.attach",
    "commit.attached",
    "commit.data",
    "commit.attributes",
    "commit.settling",
    "commit.cleared",
    "commit.protected",
    "commit.applied",
    "commit.snapshot",
    "commit.discarded",
    "commit.cleaned",
    "undo.begin",
    "undo.attached",
    "undo.returning",
    "undo.detached",
    "undo.data",
    "undo.attributes",
    "undo.done",
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
    faults: Vec<Fault>,
    trace: Option<Mutex<File>>,
    hits: Mutex<HashMap<&'static str, u64>>,
}

struct Fault {
    point: String,
    hit: u64,
    act: Act,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Kill,
    Stop,
    Fail,
}

impl Fault {
    fn parse(text: &str) -> Option<Fault> {
        let (text, act) = match text.split_once('=') {
            None => (text, Act::Kill),
            Some((text, "fail")) => (text, Act::Fail),
            Some((text, "stop")) => (text, Act::Stop),
            Some(_) => return None,
        };
        let (point, hit) = text.rsplit_once(':')?;
        Some(Fault { point: point.to_owned(), hit: hit.parse().ok()?, act })
    }
}

static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
    let told = std::env::var("SNAPSYNC_FAULT").unwrap_or_default();
    let faults: Vec<Fault> = told.split(',').filter_map(Fault::parse).collect();
    let trace = std::env::var_os("SNAPSYNC_FAULT_TRACE")
        .and_then(|path| File::options().append(true).create(true).open(path).ok())
        .map(Mutex::new);
    (!faults.is_empty() || trace.is_some()).then(|| Plan { faults, trace, hits: Mutex::default() })
});

/// Marks a place. Costs one load where no test asked for it.
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is not listed");
    if let Some(plan) = PLAN.as_ref() {
        pass(plan, name);
    }
}

/// Marks a place where a step can fail.
pub fn step(name: &'static str) -> io::Result<()> {
    debug_assert!(POINTS.contains(&name), "{name} is not listed");
    match PLAN.as_ref() {
        Some(plan) if pass(plan, name) => Err(io::Error::from_raw_os_error(libc::EPERM)),
        _ => Ok(()),
    }
}

/// Whether it is to fail.
fn pass(plan: &Plan, name: &'static str) -> bool {
    if let Some(trace) = &plan.trace {
        let mut file = locked(trace);
        let _ = file.write_all(format!("{name}\n").as_bytes());
    }
    let mut hits = locked(&plan.hits);
    let count = hits.entry(name).or_default();
    *count += 1;
    let Some(fault) = plan.faults.iter().find(|fault| fault.point == name && fault.hit == *count) else {
        return false;
    };
    match fault.act {
        Act::Fail => return true,
        Act::Kill => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
            std::thread::park();
        }
        // SAFETY: `raise` takes a number. It stops this thread before it returns, which `kill` does not promise.
        Act::Stop => drop(unsafe { libc::raise(libc::SIGSTOP) }),
    }
    false
}
