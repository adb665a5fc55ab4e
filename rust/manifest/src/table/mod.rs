//! The inode table of a pool snapshot.

pub(crate) mod file;
pub(crate) mod find;
pub(crate) mod known;
pub(crate) mod layers;
pub(crate) mod objects;
pub(crate) mod path;
