//! Parses `SNAPSYNC_FAULT`: in this build, tests may kill the process at its places.

use rustix::process::Signal;
use snapsync_model::locked;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::{LazyLock, Mutex};

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

/// Whether the step at this place should fail. Costs one load if no test asked for anything.
pub fn fails_at(name: &'static str) -> bool {
    PLAN.as_ref().is_some_and(|plan| pass(plan, name))
}

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
        // SAFETY: `raise` takes a number. It stops this thread before it returns, which `kill` does not
        // promise.
        Act::Stop => drop(unsafe { libc::raise(libc::SIGSTOP) }),
    }
    false
}
