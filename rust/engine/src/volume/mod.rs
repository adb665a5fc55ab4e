//! Operations on a single volume.

pub(crate) mod adopted;
pub(crate) mod copies;
pub(crate) mod drift;
pub(crate) mod holds;
pub(crate) mod kept;
pub(crate) mod let_in;
pub(crate) mod lost;
pub(crate) mod made;
pub(crate) mod now;
pub(crate) mod owned;
pub(crate) mod parts;
pub(crate) mod pieces;
pub(crate) mod recovery;
pub(crate) mod replacement;
pub(crate) mod retention;
pub(crate) mod rewind;
pub(crate) mod roles;
pub(crate) mod standing;
pub(crate) mod trimmed;
