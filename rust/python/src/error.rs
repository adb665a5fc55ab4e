//! The one place where errors of the engine become exceptions.

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;
use snapsync_engine::{Error, reason};

create_exception!(_native, SnapsyncError, PyException);
create_exception!(_native, UsageError, SnapsyncError);
create_exception!(_native, RefusedError, SnapsyncError);
create_exception!(_native, IntegrityError, SnapsyncError);
create_exception!(_native, InterruptedRound, SnapsyncError);

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("SnapsyncError", py.get_type::<SnapsyncError>())?;
    module.add("UsageError", py.get_type::<UsageError>())?;
    module.add("RefusedError", py.get_type::<RefusedError>())?;
    module.add("IntegrityError", py.get_type::<IntegrityError>())?;
    module.add("InterruptedRound", py.get_type::<InterruptedRound>())
}

/// I/O errors become `OSError`, which chooses its own subclass by number; all others are subclasses of
/// `SnapsyncError`.
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let message = error.sentence();
    let exception = match error {
        Error::Io { path, source, .. } | Error::Unread { path, source, .. } => match source.raw_os_error() {
            Some(number) => PyOSError::new_err((number, reason(source), path.clone())),
            None => PyOSError::new_err(message.clone()),
        },
        Error::Usage { .. } => UsageError::new_err(message.clone()),
        Error::Refused { .. } | Error::Guarded { .. } | Error::NoSpace { .. } => {
            RefusedError::new_err(message.clone())
        }
        Error::Integrity { .. } | Error::Lost { .. } => IntegrityError::new_err(message.clone()),
        Error::Interrupted | Error::Cut { .. } => InterruptedRound::new_err(message.clone()),
        Error::Failed { .. } => SnapsyncError::new_err(message.clone()),
    };
    let value = exception.value(py);
    let set = || -> PyResult<()> {
        value.setattr("message", message)?;
        value.setattr("advice", error.advice())?;
        value.setattr("exit_code", error.exit_code())?;
        match error {
            Error::Guarded { found, .. } => {
                let text = serde_json::to_string(found).unwrap_or_default();
                value.setattr("guard", py.import("json")?.call_method1("loads", (text,))?)
            }
            _ => Ok(()),
        }
    };
    set().map_or_else(|e| e, |()| exception)
}
