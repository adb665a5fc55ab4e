//! The module itself: all families of verbs, and the functions that belong to none.

use crate::{comparisons, error, history, location, mount, restores, roles, rounds, snapshots};
use pyo3::prelude::*;
use snapsync_sys::PageAligned;
use std::os::fd::IntoRawFd;
use std::path::PathBuf;

/// What Rust keeps; Python has its own.
#[global_allocator]
static MEMORY: PageAligned = PageAligned;

/// A descriptor of a file or directory that nobody but root and this user can have written.
#[pyfunction]
fn trusted(py: Python<'_>, what: &str, path: PathBuf) -> PyResult<i32> {
    let opened = snapsync_engine::trusted(what, &path);
    opened.map(IntoRawFd::into_raw_fd).map_err(|error| error::to_python(py, &error))
}

/// The names of the places where a test can kill the process; none in a release.
#[pyfunction]
fn fault_points() -> Vec<&'static str> {
    snapsync_engine::FAULT_POINTS.to_vec()
}

#[pymodule]
#[pyo3(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    error::add(module)?;
    comparisons::add(module)?;
    history::add(module)?;
    location::add(module)?;
    mount::add(module)?;
    restores::add(module)?;
    roles::add(module)?;
    rounds::add(module)?;
    snapshots::add(module)?;
    module.add_function(wrap_pyfunction!(trusted, module)?)?;
    module.add_function(wrap_pyfunction!(fault_points, module)?)
}
