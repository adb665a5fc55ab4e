//! Where things lie in a store, and how it is held on to.

pub(crate) mod bound;
pub(crate) mod mark;
pub(crate) mod restoring;
