//! Checks before staging: drift, space, and what the target can hold.

pub(crate) mod drift;
pub(crate) mod rehearsal;
pub(crate) mod space;
pub(crate) mod unlisted;
pub(crate) mod untouched;
