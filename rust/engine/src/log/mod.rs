//! The two halves of a round that a log lies between: the primary's publishes to it, the standby's follows.

pub(crate) mod follow;
pub(crate) mod publish;
pub(crate) mod seen;
