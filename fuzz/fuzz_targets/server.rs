//! A server that lies at every message, to the real primary or standby that is its client. The engine has
//! both ends.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| snapsync_engine::fuzz::server(bytes));
