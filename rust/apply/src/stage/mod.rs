//! The stage of a delta.

mod carry;
mod clones;
mod entries;
pub(crate) mod foresee;
mod frames;
pub(crate) mod fresh;
pub(crate) mod incoming;
pub(crate) mod intact;
pub(crate) mod objects;
pub(crate) mod prepare;
mod received;
mod resume;
pub(crate) mod rows;
mod share;
mod sources;
pub(crate) mod touched;
