//! Moves the stage to the tree, and back.

pub(crate) mod aside;
pub(crate) mod before;
mod displace;
mod forward;
mod loosen;
mod moves;
pub(crate) mod returned;
mod save;
mod undo;
