//! Changes to frames and back: the data that a manifest names is read in parallel, and travels in no order.
//!
//! `run` reads it and hands it on, which is all that two volumes on one machine need. `send` puts it on
//! channels, pipes or files, in the bytes that `wire` knows; `receive` takes it from there. Both ends hold no
//! more than a `Budget`.

mod budget;
mod channel;
mod codec;
mod held;
mod link;
mod read;
mod receive;
mod send;
pub mod wire;

pub use budget::{Budget, MEMORY, Permit};
pub use channel::{Channel, Limit};
pub use codec::Compression;
pub use held::Held;
pub use link::{Connection, Fate, Heart, PATIENCE, Watch};
pub use read::{FRAME, Frame, Sink, run};
pub use receive::{Arrivals, Arrived, Taker, receive};
pub use send::{Outlet, Transferred, send};
