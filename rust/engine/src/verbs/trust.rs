//! Makes a key known whose commits in a log are believed.

use crate::location::logs;
use crate::report::volumes::Trusted;
use snapsync_log::{LogAddress, LogKey};
use snapsync_model::{Error, Result};
use std::path::Path;

/// Believes from now on, on this machine, what `key` signs in the log at an address.
pub fn trust(log: &Path, key: &str) -> Result<Trusted> {
    let address = LogAddress::parse(log)?.ok_or_else(|| {
        Error::usage(
            format!("{} is not the address of a log", log.display()),
            "write s3://BUCKET/PREFIX or file:///DIR",
        )
    })?;
    let key: LogKey = key.parse()?;
    let id = logs::trust(&address, key)?;
    Ok(Trusted { verb: "trust", log: address.to_string(), id, key: key.to_string() })
}
