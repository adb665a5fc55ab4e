//! What the fuzzers in `fuzz/` reach. Nothing of it is in the product.

mod client;
mod delta;
mod lies;
mod messages;
mod peer;
mod primary;
mod script;
mod server;
mod standby;
mod world;

pub use client::client;
pub use messages::messages;
pub use server::server;
