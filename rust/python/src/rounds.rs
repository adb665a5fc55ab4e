//! Runs a round, in one step or as a delta that is sent and received, and serves the other end of one.

use crate::options::{Transfer, read, ssh_options};
use crate::watch::{Progress, watched};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use snapsync_engine::{DriftOptions, Gate, Keep, Naming, Options, with_jobs};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(sync, module)?)?;
    module.add_function(wrap_pyfunction!(plan, module)?)?;
    module.add_function(wrap_pyfunction!(send, module)?)?;
    module.add_function(wrap_pyfunction!(receive, module)?)?;
    module.add_function(wrap_pyfunction!(receive_as_snapshot, module)?)?;
    module.add_function(wrap_pyfunction!(serve, module)?)?;
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (source, target, options, *, keep, hooks, taking, transfer, ssh, jobs=0, progress=None))]
#[allow(clippy::too_many_arguments)]
fn sync(
    py: Python<'_>,
    source: PathBuf,
    target: PathBuf,
    options: &Bound<'_, PyDict>,
    keep: BTreeMap<String, i64>,
    hooks: &Bound<'_, PyDict>,
    taking: &Bound<'_, PyDict>,
    transfer: &Bound<'_, PyDict>,
    ssh: &Bound<'_, PyDict>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let mut options: Options = read(options)?;
    (options.hooks, options.taking) = (read(hooks)?, read(taking)?);
    let (transfer, ssh) = (Transfer::read(transfer)?, ssh_options(Some(ssh))?);
    watched(py, progress, move |monitor| {
        options.keep = Keep::by_name(keep)?;
        let transfer = transfer.transfer()?;
        with_jobs(jobs, || snapsync_engine::sync(&source, &target, &options, &transfer, &ssh, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (
    source, target, options, *, keep, hooks, taking, ssh, paths=false, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn plan(
    py: Python<'_>,
    source: PathBuf,
    target: PathBuf,
    options: &Bound<'_, PyDict>,
    keep: BTreeMap<String, i64>,
    hooks: &Bound<'_, PyDict>,
    taking: &Bound<'_, PyDict>,
    ssh: &Bound<'_, PyDict>,
    paths: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let (mut options, ssh): (Options, _) = (read(options)?, ssh_options(Some(ssh))?);
    (options.hooks, options.taking) = (read(hooks)?, read(taking)?);
    watched(py, progress, move |monitor| {
        options.keep = Keep::by_name(keep)?;
        with_jobs(jobs, || snapsync_engine::plan(&source, &target, &options, &ssh, paths, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (
    snapshot, bases, output=None, *, name=None, transfer, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn send(
    py: Python<'_>,
    snapshot: PathBuf,
    bases: Vec<PathBuf>,
    output: Option<PathBuf>,
    name: Option<String>,
    transfer: &Bound<'_, PyDict>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let transfer = Transfer::read(transfer)?;
    watched(py, progress, move |monitor| {
        let transfer = transfer.transfer()?;
        with_jobs(jobs, || {
            snapsync_engine::send(&snapshot, &bases, output.as_deref(), name, &transfer, monitor)
        })
    })
}

#[pyfunction]
#[pyo3(signature = (
    volume, delta=None, *, target, drift, owners=None, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn receive(
    py: Python<'_>,
    volume: PathBuf,
    delta: Option<PathBuf>,
    target: &Bound<'_, PyDict>,
    drift: &Bound<'_, PyDict>,
    owners: Option<&Bound<'_, PyDict>>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let drift: DriftOptions = read(drift)?;
    let owners: Option<Naming> = owners.map(read).transpose()?;
    let terms = read(target)?;
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || {
            snapsync_engine::receive(&volume, delta.as_deref(), terms, (drift, owners), monitor)
        })
    })
}

#[pyfunction]
#[pyo3(signature = (directory, delta=None, *, name=None, target, jobs=0, progress=None))]
#[allow(clippy::too_many_arguments)]
fn receive_as_snapshot(
    py: Python<'_>,
    directory: PathBuf,
    delta: Option<PathBuf>,
    name: Option<String>,
    target: &Bound<'_, PyDict>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let terms = read(target)?;
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || {
            snapsync_engine::receive_as_snapshot(&directory, delta.as_deref(), name, terms, monitor)
        })
    })
}

#[pyfunction]
#[pyo3(signature = (
    *, restrict_to=None, read_only=false, receive_only=false, allow_prune=false, allow_adopt=false, jobs=0,
))]
fn serve(
    py: Python<'_>,
    restrict_to: Option<PathBuf>,
    read_only: bool,
    receive_only: bool,
    allow_prune: bool,
    allow_adopt: bool,
    jobs: usize,
) -> PyResult<String> {
    // The value in JSON is the exit code.
    let gate = Gate { restrict_to, read_only, receive_only, allow_prune, allow_adopt };
    watched(py, None, move |monitor| with_jobs(jobs, || snapsync_engine::serve(&gate, monitor)))
}
