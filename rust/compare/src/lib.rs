//! Computes the set of changes between two sides: merges two sorted lists of inodes, then compares each pair
//! that may differ.

mod changes;
mod data;
mod pair;
mod share;
mod trust;

pub use changes::changes;
pub use trust::Trust;
