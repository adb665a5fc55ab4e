//! The layout of a store, and how it is held.

pub(crate) mod bound;
pub(crate) mod frozen;
pub(crate) mod mark;
pub(crate) mod restoring;
pub(crate) mod steady;
