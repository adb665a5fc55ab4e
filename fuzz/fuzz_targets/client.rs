//! A client that lies at every message, at the real server with real volumes. The engine has both ends.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| snapsync_engine::fuzz::client(bytes));
