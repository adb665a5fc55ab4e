//! The change manifest.

mod attributes;
pub(crate) mod lookup;
pub(crate) mod read;
pub(crate) mod schema;
pub(crate) mod write;
