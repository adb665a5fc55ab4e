//! The snapshots and the state of one volume.

use crate::options::read;
use crate::watch::{Progress, watched};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use snapsync_engine::{Hooks, Keep, with_jobs};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(snapshot, module)?)?;
    module.add_function(wrap_pyfunction!(list, module)?)?;
    module.add_function(wrap_pyfunction!(delete, module)?)?;
    module.add_function(wrap_pyfunction!(prune, module)?)?;
    module.add_function(wrap_pyfunction!(hold, module)?)?;
    module.add_function(wrap_pyfunction!(release, module)?)?;
    module.add_function(wrap_pyfunction!(forget_standby, module)?)?;
    module.add_function(wrap_pyfunction!(status, module)?)?;
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (volume, *, name=None, hooks, keep_going=false, jobs=0, progress=None))]
fn snapshot(
    py: Python<'_>,
    volume: PathBuf,
    name: Option<String>,
    hooks: &Bound<'_, PyDict>,
    keep_going: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let hooks: Hooks = read(hooks)?;
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::snapshot(&volume, name, &hooks, keep_going, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (volume, *, alone=false))]
fn list(py: Python<'_>, volume: PathBuf, alone: bool) -> PyResult<String> {
    watched(py, None, move |_| snapsync_engine::list(&volume, alone))
}

#[pyfunction]
fn delete(py: Python<'_>, volume: PathBuf, snap: String) -> PyResult<String> {
    watched(py, None, move |monitor| snapsync_engine::delete(&volume, &snap, monitor))
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
#[pyo3(signature = (volume, *, history=false))]
fn status(py: Python<'_>, volume: PathBuf, history: bool) -> PyResult<String> {
    watched(py, None, move |_| snapsync_engine::status(&volume, history))
}
