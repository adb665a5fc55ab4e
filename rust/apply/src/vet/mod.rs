//! Checks whether a manifest can be true, before anything relies on it.

mod claim;
pub(crate) mod manifest;
mod paths;
mod row;
mod sources;
#[cfg(test)]
mod tests;
