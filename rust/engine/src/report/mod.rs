//! What each verb tells when it is done; the JSON of the command line.

pub(crate) mod checks;
pub(crate) mod rounds;
pub(crate) mod snapshots;
pub(crate) mod volumes;
