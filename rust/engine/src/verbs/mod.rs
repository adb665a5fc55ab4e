//! Each file is a verb: it parses the request, calls lower levels, and reports.

pub(crate) mod browse;
pub(crate) mod clone;
pub(crate) mod delete;
pub(crate) mod diff;
pub(crate) mod hold;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod mend;
pub(crate) mod promote;
pub(crate) mod prune;
pub(crate) mod receive;
pub(crate) mod receive_as_snapshot;
pub(crate) mod recover;
pub(crate) mod rejoin;
pub(crate) mod restore;
pub(crate) mod send;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod switch;
pub(crate) mod sync;
pub(crate) mod trust;
pub(crate) mod verify;
pub(crate) mod versions;
