//! One round, each half written once.

mod adopted;
mod agreement;
pub(crate) mod brought;
mod commands;
mod ending;
pub(crate) mod following;
mod foreseen;
pub(crate) mod guard;
mod held;
pub(crate) mod known;
mod noted;
mod passed_over;
mod passes;
mod passing;
pub(crate) mod plan;
pub(crate) mod primary;
pub(crate) mod rights;
mod scrub;
pub(crate) mod sizes;
mod snapshot;
pub(crate) mod standby;
pub(crate) mod steps;
mod told;
