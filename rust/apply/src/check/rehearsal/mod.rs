//! Trying what a commit will do, on throw-away files in the stage.

mod directories;
mod existing;
mod links;
pub(crate) mod names;
pub(crate) mod trial;
mod tried;
mod values;
