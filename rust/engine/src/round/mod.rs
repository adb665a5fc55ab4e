//! One round, each half written once.

mod held;
pub(crate) mod known;
mod noted;
pub(crate) mod primary;
pub(crate) mod rights;
mod scrub;
pub(crate) mod standby;
pub(crate) mod steps;
mod told;
