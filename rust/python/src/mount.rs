//! A mount that Python holds.

use crate::watch::{Progress, awaited, json};
use pyo3::prelude::*;
use snapsync_engine::{Mount, with_jobs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(50);

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Mounted>()?;
    module.add_function(wrap_pyfunction!(mount, module)?)
}

/// The mount, which ends with `close` or when this is dropped.
#[pyclass]
struct Mounted(Option<Mount>);

#[pymethods]
impl Mounted {
    /// Waits until somebody has unmounted a served file system, and returns whether that happened.
    fn wait(&self, py: Python<'_>, seconds: f64) -> bool {
        let Some(mount) = &self.0 else { return true };
        let end = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default();
        py.detach(|| {
            while !mount.has_ended() && Instant::now() < end {
                std::thread::sleep(TICK);
            }
            mount.has_ended()
        })
    }

    fn close(&mut self, py: Python<'_>) {
        let mount = self.0.take();
        py.detach(|| drop(mount));
    }

    /// Keeps the mount when this is dropped.
    fn leave(&mut self) {
        if let Some(mount) = &mut self.0 {
            mount.leave();
        }
    }
}

#[pyfunction]
#[pyo3(signature = (source, at, *, allow_other=false, jobs=0, progress=None))]
fn mount(
    py: Python<'_>,
    source: PathBuf,
    at: PathBuf,
    allow_other: bool,
    jobs: usize,
    progress: Progress,
) -> PyResult<(String, Mounted)> {
    let (report, mount) = awaited(py, progress, move |monitor| {
        with_jobs(jobs, || snapsync_engine::mount(&source, &at, jobs, allow_other, monitor))
    })?;
    Ok((json(&report)?, Mounted(Some(mount))))
}
