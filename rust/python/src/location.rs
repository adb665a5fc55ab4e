//! What people call a place, taken apart as the verbs do it.

use crate::error;
use pyo3::prelude::*;
use snapsync_engine::Location as Taken;
use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Location>()
}

#[pyclass(frozen, module = "snapsync._native")]
struct Location(Taken);

#[pymethods]
impl Location {
    #[new]
    fn new(py: Python<'_>, text: PathBuf) -> PyResult<Location> {
        Taken::parse(&text).map(Location).map_err(|error| error::to_python(py, &error))
    }

    #[staticmethod]
    fn known(text: PathBuf) -> Location {
        Location(Taken::known(&text))
    }

    #[staticmethod]
    fn part_of(py: Python<'_>, text: PathBuf, part: OsString) -> PyResult<OsString> {
        let whole = Taken::part_of(&text, &part).map_err(|error| error::to_python(py, &error))?;
        Ok(whole.into())
    }

    #[getter]
    fn host(&self) -> Option<String> {
        self.0.host.as_ref().map(ToString::to_string)
    }

    #[getter]
    fn path(&self) -> OsString {
        self.0.path.clone().into()
    }

    #[getter]
    fn part(&self) -> Option<OsString> {
        self.0.part.clone()
    }

    #[getter]
    fn snapshot(&self) -> Option<OsString> {
        self.0.snapshot.clone()
    }

    #[getter]
    fn is_log(&self) -> bool {
        self.0.is_log
    }

    fn is_at(&self, place: &Location) -> bool {
        self.0.is_at(&place.0)
    }
}
