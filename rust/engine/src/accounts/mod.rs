//! Whose files are whose, where two machines have other numbers for the same users and groups.
//!
//! Whatever leaves a volume (deltas, records, plans) is in the numbers of its lineage; the volume has
//! numbers of its own, and a map between both in its record, one to one. The map grows by names, and what is
//! in it stays as it is.

pub(crate) mod arriving;
pub(crate) mod leaving;
pub(crate) mod left;
mod rows;
mod system;
pub(crate) mod translated;
