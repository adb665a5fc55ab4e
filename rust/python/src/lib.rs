//! `snapsync._native`: converts arguments, releases the GIL, maps errors. Nothing else.
//!
//! Results are JSON texts: the reports of the engine, as the command line prints them. The verbs are here by families,
//! as they are in `snapsync.api` and `snapsync.reports`.

// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod browse;
mod comparisons;
mod error;
mod options;
mod restores;
mod roles;
mod rounds;
mod snapshots;
mod watch;

use pyo3::prelude::*;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;

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
    browse::add(module)?;
    comparisons::add(module)?;
    restores::add(module)?;
    roles::add(module)?;
    rounds::add(module)?;
    snapshots::add(module)?;
    module.add_function(wrap_pyfunction!(trusted, module)?)?;
    module.add_function(wrap_pyfunction!(fault_points, module)?)
}
