//! Compares two sides, and inspects deltas.

use crate::options::ssh_options;
use crate::watch::{Progress, awaited, watched};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use snapsync_engine::{Question, Reading, with_jobs};
use std::path::PathBuf;

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(diff, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(verify_and_mend, module)?)?;
    module.add_function(wrap_pyfunction!(inspect_delta, module)?)?;
    module.add_function(wrap_pyfunction!(ask, module)?)?;
    Ok(())
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
#[pyo3(signature = (
    a, b, *, quick=false, sample=None, seed=None, ssh=None, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn verify(
    py: Python<'_>,
    a: PathBuf,
    b: PathBuf,
    quick: bool,
    sample: Option<f64>,
    seed: Option<u64>,
    ssh: Option<&Bound<'_, PyDict>>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let ssh = ssh_options(ssh)?;
    watched(py, progress, move |monitor| {
        let reading = Reading::new(quick, sample, seed)?;
        with_jobs(jobs, || snapsync_engine::verify(&a, &b, reading, &ssh, monitor))
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
fn inspect_delta(py: Python<'_>, file: PathBuf, manifest: PathBuf) -> PyResult<String> {
    watched(py, None, move |monitor| snapsync_engine::inspect_delta(&file, &manifest, monitor))
}

/// What a verb reports of a place on another machine; the question is in JSON, as it is sent.
#[pyfunction]
#[pyo3(signature = (place, question, *, output=None, ssh, progress=None))]
fn ask(
    py: Python<'_>,
    place: PathBuf,
    question: &str,
    output: Option<PathBuf>,
    ssh: Option<&Bound<'_, PyDict>>,
    progress: Progress,
) -> PyResult<String> {
    let ssh = ssh_options(ssh)?;
    let question: Question =
        serde_json::from_str(question).map_err(|e| PyTypeError::new_err(format!("question: {e}")))?;
    awaited(py, progress, move |monitor| {
        snapsync_engine::ask(&place, question, output.as_deref(), &ssh, monitor)
    })
}
