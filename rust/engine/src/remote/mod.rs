//! The steps of a round over a channel, and questions about volumes there.

pub(crate) mod answered;
pub(crate) mod asked;
pub(crate) mod channels;
mod child;
pub(crate) mod client;
pub(crate) mod digests;
#[cfg(test)]
mod edits;
mod fetched;
pub(crate) mod gate;
pub(crate) mod messages;
pub(crate) mod pulled;
pub(crate) mod question;
mod relay;
pub(crate) mod roles;
mod screen;
pub(crate) mod server;
mod ssh;
mod ssh_config;
pub(crate) mod standby_client;
pub(crate) mod standby_server;
pub(crate) mod supply;
#[cfg(test)]
mod tests;
pub(crate) mod wire;
