//! Changes roles, and recovers from interrupted commands.

use crate::options::{Transfer, read, ssh_options, word};
use crate::watch::{Progress, watched};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use snapsync_engine::{Naming, OnDrift, with_jobs};
use std::path::PathBuf;

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(init, module)?)?;
    module.add_function(wrap_pyfunction!(trust, module)?)?;
    module.add_function(wrap_pyfunction!(recover, module)?)?;
    module.add_function(wrap_pyfunction!(promote, module)?)?;
    module.add_function(wrap_pyfunction!(promote_preview, module)?)?;
    module.add_function(wrap_pyfunction!(rejoin, module)?)?;
    module.add_function(wrap_pyfunction!(rejoin_preview, module)?)?;
    module.add_function(wrap_pyfunction!(switch, module)?)?;
    Ok(())
}

#[pyfunction]
#[pyo3(signature = (volume, *, read_only=None, history=None, encrypt_to=Vec::new()))]
fn init(
    py: Python<'_>,
    volume: PathBuf,
    read_only: Option<bool>,
    history: Option<String>,
    encrypt_to: Vec<String>,
) -> PyResult<String> {
    let history = history.map(word).transpose()?;
    watched(py, None, move |monitor| snapsync_engine::init(&volume, read_only, history, &encrypt_to, monitor))
}

#[pyfunction]
fn trust(py: Python<'_>, log: PathBuf, key: String) -> PyResult<String> {
    watched(py, None, move |_| snapsync_engine::trust(&log, &key))
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
#[pyo3(signature = (volume, *, jobs=0))]
fn promote_preview(py: Python<'_>, volume: PathBuf, jobs: usize) -> PyResult<String> {
    watched(py, None, move |monitor| with_jobs(jobs, || snapsync_engine::promote_preview(&volume, monitor)))
}

#[pyfunction]
#[pyo3(signature = (
    old, new, *, owners=None, transfer, ssh, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn rejoin(
    py: Python<'_>,
    old: PathBuf,
    new: PathBuf,
    owners: Option<&Bound<'_, PyDict>>,
    transfer: &Bound<'_, PyDict>,
    ssh: &Bound<'_, PyDict>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let ssh = ssh_options(Some(ssh))?;
    let owners: Option<Naming> = owners.map(read).transpose()?;
    let transfer = Transfer::read(transfer)?;
    watched(py, progress, move |monitor| {
        let transfer = transfer.transfer()?;
        with_jobs(jobs, || snapsync_engine::rejoin(&old, &new, owners, &transfer, &ssh, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (
    old, new, output, *, ssh, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn rejoin_preview(
    py: Python<'_>,
    old: PathBuf,
    new: PathBuf,
    output: PathBuf,
    ssh: &Bound<'_, PyDict>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let ssh = ssh_options(Some(ssh))?;
    watched(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::rejoin_preview(&old, &new, &output, &ssh, monitor))
    })
}

#[pyfunction]
#[pyo3(signature = (
    primary, standby, *, owners=None, transfer, ssh, jobs=0, progress=None,
))]
#[allow(clippy::too_many_arguments)]
fn switch(
    py: Python<'_>,
    primary: PathBuf,
    standby: PathBuf,
    owners: Option<&Bound<'_, PyDict>>,
    transfer: &Bound<'_, PyDict>,
    ssh: &Bound<'_, PyDict>,
    jobs: usize,
    progress: Progress,
) -> PyResult<String> {
    let ssh = ssh_options(Some(ssh))?;
    let owners: Option<Naming> = owners.map(read).transpose()?;
    let transfer = Transfer::read(transfer)?;
    watched(py, progress, move |monitor| {
        let transfer = transfer.transfer()?;
        with_jobs(jobs, || snapsync_engine::switch(&primary, &standby, owners, &transfer, &ssh, monitor))
    })
}
