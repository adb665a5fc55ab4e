//! Groups of options, which Python passes whole, each as a dictionary.
//!
//! A group is declared in `options.py` and in the engine's type of that group. Nothing here knows a single
//! option of a round by name.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use snapsync_engine::{Compression, Result, SshOptions, Supply, TransferOptions};
use std::path::PathBuf;

/// How data is sent, in Python's terms: on the wire these options have names of their own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Transfer {
    compress: String,
    bwlimit: Option<u64>,
}

impl Transfer {
    pub(crate) fn read(given: &Bound<'_, PyDict>) -> PyResult<Transfer> {
        read(given)
    }

    pub(crate) fn transfer(&self) -> Result<TransferOptions> {
        Ok(TransferOptions { compression: Compression::parse(&self.compress)?, limit: self.bwlimit })
    }
}

/// How another machine is reached; by default in the usual way.
pub(crate) fn ssh_options(given: Option<&Bound<'_, PyDict>>) -> PyResult<SshOptions> {
    given.map_or_else(|| Ok(SshOptions::default()), read)
}

/// Where lost bytes are taken from.
pub(crate) fn supply(standby: Option<PathBuf>, ssh: Option<&Bound<'_, PyDict>>) -> PyResult<Supply> {
    Ok(Supply { standby, ssh: ssh_options(ssh)? })
}

/// The engine's type of a group.
pub(crate) fn read<T: DeserializeOwned>(given: &Bound<'_, PyDict>) -> PyResult<T> {
    serde_json::from_value(value(given)?).map_err(|error| PyTypeError::new_err(format!("options: {error}")))
}

/// One of the words of an engine's type.
pub(crate) fn word<T: DeserializeOwned>(given: String) -> PyResult<T> {
    serde_json::from_value(given.into()).map_err(|error| PyTypeError::new_err(format!("options: {error}")))
}

fn value(given: &Bound<'_, PyAny>) -> PyResult<Value> {
    if given.is_none() {
        return Ok(Value::Null);
    }
    if given.is_instance_of::<PyBool>() {
        return Ok(Value::Bool(given.extract()?));
    }
    if given.is_instance_of::<PyInt>() || given.hasattr("__index__")? {
        return given.extract::<i64>().map(Value::from).or_else(|_| Ok(Value::from(given.extract::<u64>()?)));
    }
    if given.is_instance_of::<PyFloat>() {
        return Ok(Value::from(given.extract::<f64>()?));
    }
    if given.is_instance_of::<PyString>() {
        return Ok(Value::String(given.extract()?));
    }
    if let Ok(group) = given.cast::<PyDict>() {
        let entries = group.iter().map(|(name, given)| Ok((name.extract()?, value(&given)?)));
        return Ok(Value::Object(entries.collect::<PyResult<Map<_, _>>>()?));
    }
    let items = given.try_iter()?.map(|item| value(&item?));
    Ok(Value::Array(items.collect::<PyResult<_>>()?))
}
