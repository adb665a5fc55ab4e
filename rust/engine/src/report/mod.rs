//! The results of the verbs, as JSON on the command line.

pub(crate) mod checks;
pub(crate) mod history;
pub(crate) mod rounds;
pub(crate) mod snapshots;
pub(crate) mod volumes;
