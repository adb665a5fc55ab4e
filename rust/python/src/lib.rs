//! `snapsync._native`: converts arguments, releases the GIL, maps errors. Nothing else.
//!
//! Results are JSON texts: the reports of the engine, as the command line prints them.

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod browse;
mod error;
mod watch;

use pyo3::prelude::*;
use snapsync_engine::{
    Care, Compression, Gate, Keep, OnDrift, Options, Reach, Reading, Scrubbing, Terms, Travel, with_jobs,
};
use std::collections::BTreeMap;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::time::Duration;
use watch::{Progress, watched};

#[pyfunction]
#[pyo3(signature = (
    source, target, *, name=None, snap=None, keep=BTreeMap::new(), strict=false, no_space_check=false,
    exclude=Vec::new(), include=Vec::new(), everything=false, check=false, discard_drift=false, read_only=None, new_standby=false, scrub=0, scrub_limit=0,
    compress="zstd:1", bwlimit=None, rsh=None, remote_path="snapsync", ssh_options=Vec::new(), timeout=60, channels=1,
    jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn sync(
    py: Python<'_>,
    source: PathBuf,
    target: PathBuf,
    name: Option<String>,
    snap: Option<String>,
    keep: BTreeMap<String, i64>,
    strict: bool,
    no_space_check: bool,
    exclude: Vec<String>,
    include: Vec<String>,
    everything: bool,
    check: bool,
    discard_drift: bool,
    read_only: Option<bool>,
    new_standby: bool,
    scrub: u64,
    scrub_limit: u64,
    compress: &str,
    bwlimit: Option<u64>,
    rsh: Option<Vec<String>>,
    remote_path: &str,
    ssh_options: Vec<String>,
    timeout: u64,
    channels: usize,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let care = Care { check, discard_drift, read_only };
    let reach = reach(rsh, remote_path, ssh_options, timeout, channels);
    let compress = compress.to_owned();
    let scrub = Scrubbing { period: scrub, limit: scrub_limit };
    watched(py, progress, move |monitor| {
        let keep = Keep::by_name(keep)?;
        let options = Options {
            name,
            snap,
            keep,
            strict,
            no_space_check,
            exclude,
            include,
            everything,
            care,
            new_standby,
            scrub,
        };
        let travel = Travel { compression: Compression::parse(&compress)?, limit: bwlimit };
        with_jobs(jobs, || snapsync_engine::sync(&source, &target, &options, &travel, &reach, monitor))
    })
}

fn reach(
    rsh: Option<Vec<String>>,
    remote_path: &str,
    options: Vec<String>,
    timeout: u64,
    channels: usize,
) -> Reach {
    let rsh = rsh.unwrap_or_else(|| Reach::default().rsh);
    let patience = Duration::from_secs(timeout);
    Reach { rsh, remote_path: remote_path.to_owned(), options, patience, channels }
}

#[pyfunction]
#[pyo3(signature = (volume, *, back=false, adopt=false, jobs=0, progress=None))]
fn recover(
    py: Python<'_>,
    volume: PathBuf,
    back: bool,
    adopt: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::recover_volume(&volume, back, adopt, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (volume, *, name=None, discard_drift=false, accept_drift=false, jobs=0, progress=None))]
fn promote(
    py: Python<'_>,
    volume: PathBuf,
    name: Option<String>,
    discard_drift: bool,
    accept_drift: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let on_drift = match (discard_drift, accept_drift) {
        (true, _) => OnDrift::Discard,
        (_, true) => OnDrift::Accept,
        _ => OnDrift::Refuse,
    };
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::promote(&volume, name, on_drift, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (
    old, new, *, compress="zstd:1", bwlimit=None, rsh=None, remote_path="snapsync", ssh_options=Vec::new(), timeout=60,
    channels=1, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn rejoin(
    py: Python<'_>,
    old: PathBuf,
    new: PathBuf,
    compress: &str,
    bwlimit: Option<u64>,
    rsh: Option<Vec<String>>,
    remote_path: &str,
    ssh_options: Vec<String>,
    timeout: u64,
    channels: usize,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let reach = reach(rsh, remote_path, ssh_options, timeout, channels);
    let compress = compress.to_owned();
    watched(py, progress, move |monitor| {
        let travel = Travel { compression: Compression::parse(&compress)?, limit: bwlimit };
        with_jobs(jobs, || snapsync_engine::rejoin(&old, &new, &travel, &reach, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (
    old, new, output, *, rsh=None, remote_path="snapsync", ssh_options=Vec::new(), timeout=60, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn rejoin_preview(
    py: Python<'_>,
    old: PathBuf,
    new: PathBuf,
    output: PathBuf,
    rsh: Option<Vec<String>>,
    remote_path: &str,
    ssh_options: Vec<String>,
    timeout: u64,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let reach = reach(rsh, remote_path, ssh_options, timeout, 1);
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::rejoin_preview(&old, &new, &output, &reach, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (
    primary, standby, *, compress="zstd:1", bwlimit=None, rsh=None, remote_path="snapsync",
    ssh_options=Vec::new(), timeout=60, channels=1, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn switch(
    py: Python<'_>,
    primary: PathBuf,
    standby: PathBuf,
    compress: &str,
    bwlimit: Option<u64>,
    rsh: Option<Vec<String>>,
    remote_path: &str,
    ssh_options: Vec<String>,
    timeout: u64,
    channels: usize,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let reach = reach(rsh, remote_path, ssh_options, timeout, channels);
    let compress = compress.to_owned();
    watched(py, progress, move |monitor| {
        let travel = Travel { compression: Compression::parse(&compress)?, limit: bwlimit };
        with_jobs(jobs, || snapsync_engine::switch(&primary, &standby, &travel, &reach, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (address, *, name=None, strict=false, no_space_check=false, jobs=0, progress=None))]
fn restore(
    py: Python<'_>,
    address: PathBuf,
    name: Option<String>,
    strict: bool,
    no_space_check: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let terms = Terms { strict, no_space_check };
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::restore(&address, name, terms, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (volume, *, read_only=None))]
fn init(py: Python<'_>, volume: PathBuf, read_only: Option<bool>) -> PyResult<String> {
    watched(py, None, move |monitor| snapsync_engine::init(&volume, read_only, monitor))
}

#[pyfunction]
#[pyo3(signature = (*, restrict_to=None, read_only=false, receive_only=false, allow_prune=false, jobs=0))]
fn serve(
    py: Python<'_>,
    restrict_to: Option<PathBuf>,
    read_only: bool,
    receive_only: bool,
    allow_prune: bool,
    jobs: usize,
) -> PyResult<String> {
    // The JSON of the exit code.
    let gate = Gate { restrict_to, read_only, receive_only, allow_prune };
    watched(py, None, move |monitor| with_jobs(jobs, || snapsync_engine::serve(&gate, monitor)))
}

#[pyfunction]
#[pyo3(signature = (
    snapshot, bases, output=None, *, name=None, compress="zstd:1", bwlimit=None, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn send(
    py: Python<'_>,
    snapshot: PathBuf,
    bases: Vec<PathBuf>,
    output: Option<PathBuf>,
    name: Option<String>,
    compress: &str,
    bwlimit: Option<u64>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let compress = compress.to_owned();
    watched(py, progress, move |monitor| {
        let travel = Travel { compression: Compression::parse(&compress)?, limit: bwlimit };
        with_jobs(jobs, || {
            snapsync_engine::send(&snapshot, &bases, output.as_deref(), name, &travel, monitor)
        })
    })
}

#[pyfunction]
#[pyo3(signature = (
    volume, delta=None, *, strict=false, no_space_check=false, check=false, discard_drift=false, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn receive(
    py: Python<'_>,
    volume: PathBuf,
    delta: Option<PathBuf>,
    strict: bool,
    no_space_check: bool,
    check: bool,
    discard_drift: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let care = Care { check, discard_drift, read_only: None };
    let terms = Terms { strict, no_space_check };
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::receive(&volume, delta.as_deref(), terms, care, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (directory, delta=None, *, name=None, strict=false, no_space_check=false, jobs=0, progress=None))]
#[allow(clippy::too_many_arguments)]
fn receive_as_snapshot(
    py: Python<'_>,
    directory: PathBuf,
    delta: Option<PathBuf>,
    name: Option<String>,
    strict: bool,
    no_space_check: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let terms = Terms { strict, no_space_check };
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || {
            snapsync_engine::receive_as_snapshot(&directory, delta.as_deref(), name, terms, monitor)
        })
    })
}

#[pyfunction]
#[pyo3(signature = (volume, *, name=None, jobs=0, progress=None))]
fn snapshot(
    py: Python<'_>,
    volume: PathBuf,
    name: Option<String>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::snapshot(&volume, name, monitor))
    })
}

#[pyfunction]
fn list(py: Python<'_>, volume: PathBuf) -> PyResult<String> {
    watched(py, None, move |_| snapsync_engine::list(&volume))
}

#[pyfunction]
fn delete(py: Python<'_>, volume: PathBuf, snap: String) -> PyResult<String> {
    watched(py, None, move |monitor| snapsync_engine::delete(&volume, &snap, monitor))
}

#[pyfunction]
#[pyo3(signature = (snapshot, paths, to, *, strict=false, no_space_check=false, jobs=0, progress=None))]
#[allow(clippy::too_many_arguments)]
fn restore_to(
    py: Python<'_>,
    snapshot: PathBuf,
    paths: Vec<PathBuf>,
    to: PathBuf,
    strict: bool,
    no_space_check: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let terms = Terms { strict, no_space_check };
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::restore_to(&snapshot, &paths, &to, terms, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (snapshot, paths, *, strict=false, no_space_check=false, jobs=0, progress=None))]
fn restore_paths(
    py: Python<'_>,
    snapshot: PathBuf,
    paths: Vec<PathBuf>,
    strict: bool,
    no_space_check: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let terms = Terms { strict, no_space_check };
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::restore_paths(&snapshot, &paths, terms, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (snapshot, to, *, name=None, strict=false, no_space_check=false, jobs=0, progress=None))]
#[allow(clippy::too_many_arguments)]
fn clone(
    py: Python<'_>,
    snapshot: PathBuf,
    to: PathBuf,
    name: Option<String>,
    strict: bool,
    no_space_check: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let terms = Terms { strict, no_space_check };
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::clone(&snapshot, &to, name, terms, monitor))
    })
}

#[pyfunction]
fn delete_clone(py: Python<'_>, volume: PathBuf, name: String) -> PyResult<String> {
    watched(py, None, move |monitor| snapsync_engine::delete_clone(&volume, &name, monitor))
}

#[pyfunction]
#[pyo3(signature = (volume, keep, *, dry_run=false))]
fn prune(py: Python<'_>, volume: PathBuf, keep: BTreeMap<String, i64>, dry_run: bool) -> PyResult<String> {
    watched(py, None, move |monitor| snapsync_engine::prune(&volume, &Keep::by_name(keep)?, dry_run, monitor))
}

#[pyfunction]
#[pyo3(signature = (volume, snap, reason=""))]
fn hold(py: Python<'_>, volume: PathBuf, snap: String, reason: &str) -> PyResult<String> {
    let reason = reason.to_owned();
    watched(py, None, move |_| snapsync_engine::hold(&volume, &snap, &reason))
}

#[pyfunction]
fn release(py: Python<'_>, volume: PathBuf, snap: String) -> PyResult<String> {
    watched(py, None, move |_| snapsync_engine::release(&volume, &snap))
}

#[pyfunction]
fn forget_standby(py: Python<'_>, volume: PathBuf, standby: String) -> PyResult<String> {
    watched(py, None, move |_| snapsync_engine::forget_standby(&volume, &standby))
}

#[pyfunction]
#[pyo3(signature = (base, target, output=None, *, jobs=0, progress=None))]
fn diff(
    py: Python<'_>,
    base: PathBuf,
    target: PathBuf,
    output: Option<PathBuf>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::diff(&base, &target, output.as_deref(), monitor))
    })
}

#[pyfunction]
fn inspect_delta(py: Python<'_>, file: PathBuf, manifest: PathBuf) -> PyResult<String> {
    watched(py, None, move |monitor| snapsync_engine::inspect_delta(&file, &manifest, monitor))
}

#[pyfunction]
#[pyo3(signature = (
    a, b, *, quick=false, sample=None, seed=None, rsh=None, remote_path="snapsync", ssh_options=Vec::new(), timeout=60, jobs=0,
    progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn verify(
    py: Python<'_>,
    a: PathBuf,
    b: PathBuf,
    quick: bool,
    sample: Option<f64>,
    seed: Option<u64>,
    rsh: Option<Vec<String>>,
    remote_path: &str,
    ssh_options: Vec<String>,
    timeout: u64,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let reach = reach(rsh, remote_path, ssh_options, timeout, 1);
    watched(py, progress, move |monitor| {
        let reading = Reading::new(quick, sample, seed)?;
        with_jobs(jobs, || snapsync_engine::verify(&a, &b, reading, &reach, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (primary, standby, *, discard_drift=false, jobs=0, progress=None))]
fn verify_and_mend(
    py: Python<'_>,
    primary: PathBuf,
    standby: PathBuf,
    discard_drift: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::verify_and_mend(&primary, &standby, discard_drift, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (file, *, progress=None))]
fn versions(py: Python<'_>, file: PathBuf, progress: Progress) -> PyResult<String> {
    watched(py, progress, move |monitor| snapsync_engine::versions(&file, monitor))
}

#[pyfunction]
#[pyo3(signature = (snapshot, path, to, *, progress=None))]
fn restore_file(
    py: Python<'_>,
    snapshot: PathBuf,
    path: PathBuf,
    to: PathBuf,
    progress: Progress,
) -> PyResult<String> {
    watched(py, progress, move |monitor| snapsync_engine::restore_file(&snapshot, &path, &to, monitor))
}

#[pyfunction]
fn status(py: Python<'_>, volume: PathBuf) -> PyResult<String> {
    watched(py, None, move |_| snapsync_engine::status(&volume))
}

/// A descriptor of a file or directory that nobody but root and this user can have made what it is.
#[pyfunction]
fn trusted(py: Python<'_>, what: &str, path: PathBuf) -> PyResult<i32> {
    let opened = snapsync_engine::trusted(what, &path);
    opened.map(IntoRawFd::into_raw_fd).map_err(|error| error::to_python(py, &error))
}

/// Names of the places where a test can kill the process: none in a release.
#[pyfunction]
fn fault_points() -> Vec<&'static str> {
    snapsync_engine::FAULT_POINTS.to_vec()
}

#[pymodule]
#[pyo3(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    error::add(module)?;
    module.add_function(wrap_pyfunction!(sync, module)?)?;
    module.add_function(wrap_pyfunction!(init, module)?)?;
    module.add_function(wrap_pyfunction!(recover, module)?)?;
    module.add_function(wrap_pyfunction!(promote, module)?)?;
    module.add_function(wrap_pyfunction!(rejoin, module)?)?;
    module.add_function(wrap_pyfunction!(rejoin_preview, module)?)?;
    module.add_function(wrap_pyfunction!(switch, module)?)?;
    module.add_function(wrap_pyfunction!(restore, module)?)?;
    module.add_function(wrap_pyfunction!(serve, module)?)?;
    module.add_function(wrap_pyfunction!(send, module)?)?;
    module.add_function(wrap_pyfunction!(receive, module)?)?;
    module.add_function(wrap_pyfunction!(receive_as_snapshot, module)?)?;
    module.add_function(wrap_pyfunction!(snapshot, module)?)?;
    module.add_function(wrap_pyfunction!(list, module)?)?;
    module.add_function(wrap_pyfunction!(delete, module)?)?;
    module.add_function(wrap_pyfunction!(restore_to, module)?)?;
    module.add_function(wrap_pyfunction!(restore_paths, module)?)?;
    module.add_function(wrap_pyfunction!(clone, module)?)?;
    module.add_function(wrap_pyfunction!(delete_clone, module)?)?;
    module.add_class::<browse::Mounted>()?;
    module.add_function(wrap_pyfunction!(browse::browse, module)?)?;
    module.add_function(wrap_pyfunction!(versions, module)?)?;
    module.add_function(wrap_pyfunction!(restore_file, module)?)?;
    module.add_function(wrap_pyfunction!(prune, module)?)?;
    module.add_function(wrap_pyfunction!(hold, module)?)?;
    module.add_function(wrap_pyfunction!(release, module)?)?;
    module.add_function(wrap_pyfunction!(forget_standby, module)?)?;
    module.add_function(wrap_pyfunction!(diff, module)?)?;
    module.add_function(wrap_pyfunction!(inspect_delta, module)?)?;
    module.add_function(wrap_pyfunction!(verify_and_mend, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(status, module)?)?;
    module.add_function(wrap_pyfunction!(trusted, module)?)?;
    module.add_function(wrap_pyfunction!(fault_points, module)?)
}
