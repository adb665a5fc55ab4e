//! Restores and clones snapshots, and lists the versions of one file.

use crate::options::{read, supply};
use crate::watch::{Progress, watched};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use snapsync_engine::with_jobs;
use std::path::PathBuf;

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(restore, module)?)?;
    module.add_function(wrap_pyfunction!(restore_to, module)?)?;
    module.add_function(wrap_pyfunction!(restore_paths, module)?)?;
    module.add_function(wrap_pyfunction!(restore_file, module)?)?;
    module.add_function(wrap_pyfunction!(clone, module)?)?;
    module.add_function(wrap_pyfunction!(delete_clone, module)?)?;
    module.add_function(wrap_pyfunction!(versions, module)?)?;
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (address, *, name=None, target, standby=None, ssh=None, jobs=0, progress=None))]
#[allow(clippy::too_many_arguments)]
fn restore(
    py: Python<'_>,
    address: PathBuf,
    name: Option<String>,
    target: &Bound<'_, PyDict>,
    standby: Option<PathBuf>,
    ssh: Option<&Bound<'_, PyDict>>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let (terms, supply) = (read(target)?, supply(standby, ssh)?);
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::restore(&address, name, terms, &supply, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (snapshot, paths, to, *, select, target, standby=None, ssh=None, jobs=0, progress=None))]
#[allow(clippy::too_many_arguments)]
fn restore_to(
    py: Python<'_>,
    snapshot: PathBuf,
    paths: Vec<PathBuf>,
    to: PathBuf,
    select: &Bound<'_, PyDict>,
    target: &Bound<'_, PyDict>,
    standby: Option<PathBuf>,
    ssh: Option<&Bound<'_, PyDict>>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let (select, terms, supply) = (read(select)?, read(target)?, supply(standby, ssh)?);
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || {
            snapsync_engine::restore_to(&snapshot, (&paths, &select), &to, terms, &supply, monitor)
        })
    })
}

#[pyfunction]
#[pyo3(signature = (snapshot, paths, *, select, target, standby=None, ssh=None, jobs=0, progress=None))]
#[allow(clippy::too_many_arguments)]
fn restore_paths(
    py: Python<'_>,
    snapshot: PathBuf,
    paths: Vec<PathBuf>,
    select: &Bound<'_, PyDict>,
    target: &Bound<'_, PyDict>,
    standby: Option<PathBuf>,
    ssh: Option<&Bound<'_, PyDict>>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let (select, terms, supply) = (read(select)?, read(target)?, supply(standby, ssh)?);
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || {
            snapsync_engine::restore_paths(&snapshot, (&paths, &select), terms, &supply, monitor)
        })
    })
}

#[pyfunction]
#[pyo3(signature = (snapshot, path, to, *, standby=None, ssh=None, progress=None))]
fn restore_file(
    py: Python<'_>,
    snapshot: PathBuf,
    path: PathBuf,
    to: PathBuf,
    standby: Option<PathBuf>,
    ssh: Option<&Bound<'_, PyDict>>,
    progress: Progress,
) -> PyResult<String> {
    let supply = supply(standby, ssh)?;
    watched(py, progress, move |monitor| {
        snapsync_engine::restore_file(&snapshot, &path, &to, &supply, monitor)
    })
}

#[pyfunction]
#[pyo3(signature = (snapshot, to, *, name=None, target, standby=None, ssh=None, jobs=0, progress=None))]
#[allow(clippy::too_many_arguments)]
fn clone(
    py: Python<'_>,
    snapshot: PathBuf,
    to: PathBuf,
    name: Option<String>,
    target: &Bound<'_, PyDict>,
    standby: Option<PathBuf>,
    ssh: Option<&Bound<'_, PyDict>>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let (terms, supply) = (read(target)?, supply(standby, ssh)?);
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::clone(&snapshot, &to, name, terms, &supply, monitor))
    })
}

#[pyfunction]
fn delete_clone(py: Python<'_>, volume: PathBuf, name: String) -> PyResult<String> {
    watched(py, None, move |monitor| snapsync_engine::delete_clone(&volume, &name, monitor))
}

#[pyfunction]
#[pyo3(signature = (file, *, part=None, diff=None, progress=None))]
fn versions(
    py: Python<'_>,
    file: PathBuf,
    part: Option<String>,
    diff: Option<Vec<u64>>,
    progress: Progress,
) -> PyResult<String> {
    watched(py, progress, move |monitor| {
        snapsync_engine::versions(&file, part.as_deref(), diff.as_deref(), monitor)
    })
}
