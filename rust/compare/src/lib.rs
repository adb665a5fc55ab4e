//! Two sides to the set of changes between them: a merge of two sorted lists of inodes, then a close look at
//! each that may differ.

mod changes;
mod data;
mod pair;
mod share;
mod trust;

pub use changes::changes;
pub use trust::Trust;
