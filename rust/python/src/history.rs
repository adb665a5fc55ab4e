//! What changed from snapshot to snapshot, and what was where.

use crate::watch::{Progress, awaited, watched};
use pyo3::prelude::*;
use snapsync_engine::{Select, Window, with_jobs};
use std::path::PathBuf;

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(log, module)?)?;
    module.add_function(wrap_pyfunction!(log_of, module)?)?;
    module.add_function(wrap_pyfunction!(find, module)?)?;
    module.add_function(wrap_pyfunction!(kept, module)?)?;
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (volume, *, since=None, until=None, most=None, stat=false, progress=None))]
fn log(
    py: Python<'_>,
    volume: PathBuf,
    since: Option<String>,
    until: Option<String>,
    most: Option<usize>,
    stat: bool,
    progress: Progress,
) -> PyResult<String> {
    watched(py, progress, move |monitor| {
        let window = Window::parse(since.as_deref(), until.as_deref())?;
        snapsync_engine::log(&volume, &window, most, stat, monitor)
    })
}

#[pyfunction]
#[pyo3(signature = (volume, path, *, since=None, until=None, progress=None))]
fn log_of(
    py: Python<'_>,
    volume: PathBuf,
    path: PathBuf,
    since: Option<String>,
    until: Option<String>,
    progress: Progress,
) -> PyResult<String> {
    watched(py, progress, move |monitor| {
        let window = Window::parse(since.as_deref(), until.as_deref())?;
        snapsync_engine::log_of(&volume, &path, &window, monitor)
    })
}

#[pyfunction]
#[pyo3(signature = (
    volume, patterns, *, deleted=false, kind=None, larger=None, newer=None, since=None, until=None, jobs=0,
    progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn find(
    py: Python<'_>,
    volume: PathBuf,
    patterns: Vec<String>,
    deleted: bool,
    kind: Option<String>,
    larger: Option<u64>,
    newer: Option<String>,
    since: Option<String>,
    until: Option<String>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    watched(py, progress, move |monitor| {
        let window = Window::parse(since.as_deref(), until.as_deref())?;
        let selection = Select { r#match: patterns, r#type: kind, larger, newer }.selection()?;
        with_jobs(jobs, || snapsync_engine::find(&volume, &selection, deleted, &window, monitor))
    })
}

/// The files of the manifests that are kept, oldest first, and notes.
#[pyfunction]
fn kept(py: Python<'_>, volume: PathBuf, directory: PathBuf) -> PyResult<(Vec<PathBuf>, Vec<String>)> {
    awaited(py, None, move |monitor| snapsync_engine::kept(&volume, &directory, monitor))
}
