//! Tries the steps of a commit on temporary files in the stage.

mod directories;
mod existing;
mod links;
pub(crate) mod names;
pub(crate) mod trial;
mod tried;
mod unseen;
mod values;
