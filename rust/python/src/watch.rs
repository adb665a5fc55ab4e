//! Watches a long run: the engine works on a thread of its own, while the caller's thread reports progress
//! and handles Ctrl-C.

use crate::error::to_python;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use serde::Serialize;
use snapsync_engine::{Monitor, Result};
use std::time::Duration;

pub(crate) type Progress = Option<Py<PyAny>>;

const TICK: Duration = Duration::from_millis(100);

/// Runs `work` like `awaited`, and returns its report as JSON.
pub(crate) fn watched<T: Serialize + Send>(
    py: Python<'_>,
    progress: Progress,
    work: impl FnOnce(&Monitor) -> Result<T> + Send,
) -> PyResult<String> {
    json(&awaited(py, progress, work)?)
}

pub(crate) fn json(report: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(report).map_err(|e| PyRuntimeError::new_err(format!("cannot tell the result: {e}")))
}

/// Runs `work` without the GIL. An exception from a signal handler or from `progress` stops the work at a
/// safe point, and is raised once it has stopped.
pub(crate) fn awaited<T: Send>(
    py: Python<'_>,
    progress: Progress,
    work: impl FnOnce(&Monitor) -> Result<T> + Send,
) -> PyResult<T> {
    let monitor = Monitor::default();
    let (done, ready) = bounded(1);
    let (result, raised) = std::thread::scope(|scope| {
        let monitor = &monitor;
        // The thread owns its end, so nobody waits for it if it panics.
        let worker = scope.spawn(move || {
            // The receiver is gone only if this result is not wanted any more.
            let _ = done.send(work(monitor));
        });
        let outcome = wait(py, &ready, monitor, progress.as_ref());
        // The panic was reported where it happened; here it becomes an exception.
        let _ = worker.join();
        outcome
    })?;
    match (result, raised) {
        (_, Some(exception)) => Err(exception),
        (Err(error), None) => Err(to_python(py, &error)),
        (Ok(report), None) => Ok(report),
    }
}

type Outcome<T> = (Result<T>, Option<PyErr>);

fn wait<T: Send>(
    py: Python<'_>,
    ready: &Receiver<Result<T>>,
    monitor: &Monitor,
    progress: Option<&Py<PyAny>>,
) -> PyResult<Outcome<T>> {
    let mut raised = None;
    loop {
        match py.detach(|| ready.recv_timeout(TICK)) {
            Ok(result) => return Ok((result, raised)),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("the engine stopped unexpectedly"));
            }
            Err(RecvTimeoutError::Timeout) if raised.is_none() => {
                raised = py.check_signals().and_then(|()| report(py, monitor, progress)).err();
                if raised.is_some() {
                    monitor.cancel();
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn report(py: Python<'_>, monitor: &Monitor, progress: Option<&Py<PyAny>>) -> PyResult<()> {
    let Some(progress) = progress else { return Ok(()) };
    for (stage, done, total) in monitor.take_states() {
        progress.call1(py, (stage.name(), done, total, stage.unit()))?;
    }
    Ok(())
}
