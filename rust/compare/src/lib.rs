//! Computes the set of changes between two sides: merges two sorted lists of inodes, then compares each pair
//! that may differ.

mod changes;
mod data;
mod lost;
mod pair;
mod share;
mod told;
mod trust;

pub use changes::changes;
pub use lost::lost;
pub use told::Told;
pub use trust::Trust;
