//! The two halves of a round that a log lies between: the primary's publishes to it, the standby's follows.

mod checkpoint;
pub(crate) mod follow;
pub(crate) mod keeping;
pub(crate) mod past;
mod pinned;
pub(crate) mod promotion;
pub(crate) mod publish;
pub(crate) mod renumbered;
pub(crate) mod restored;
pub(crate) mod seen;
mod steps;
mod wanted;
pub(crate) mod window;
