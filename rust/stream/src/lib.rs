//! Turns changes into frames and back: the data that a manifest names is read in parallel and sent in no
//! order.
//!
//! `run` reads the data and hands it on, which is all that two volumes on one machine need. `send` writes it
//! to channels (pipes or files) in the format of `wire`; `receive` reads it from there. The memory of both
//! ends is limited by a `Budget`.

mod budget;
mod channel;
mod codec;
mod held;
mod link;
mod read;
mod receive;
mod send;
mod together;
pub mod wire;

pub use budget::{Budget, MEMORY, Permit};
pub use channel::{Channel, Limit};
pub use codec::Compression;
pub use held::Held;
pub use link::{Connection, Fate, Heart, PATIENCE, Watch};
pub use read::{FRAME, Frame, Readable, Sink, run};
pub use receive::{Arrivals, Arrived, Taker, receive, unpacked};
pub use send::{Outlet, Transferred, send};
