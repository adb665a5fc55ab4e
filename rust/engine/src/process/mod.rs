//! Commands of others that are run: which of them are believed, what they say, and those around a snapshot.

mod command;
pub(crate) mod hooks;
pub(crate) mod overheard;
pub(crate) mod taking;
pub(crate) mod trust;
