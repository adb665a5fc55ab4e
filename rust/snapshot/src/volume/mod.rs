//! A volume: its records, and how it is opened and locked.

pub(crate) mod alive;
pub(crate) mod handle;
pub(crate) mod listed;
pub(crate) mod locked;
pub(crate) mod moment;
pub(crate) mod opening;
pub(crate) mod record;
pub(crate) mod scrubbed;
mod standbys;
