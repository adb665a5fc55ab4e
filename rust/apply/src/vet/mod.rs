//! Whether a manifest can be true, before anything believes it.

mod claim;
pub(crate) mod manifest;
mod paths;
mod row;
mod sources;
#[cfg(test)]
mod tests;
