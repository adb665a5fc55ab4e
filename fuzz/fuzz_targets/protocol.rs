//! The messages of the two ends of a round. What is looked at lies in the engine, which shows nobody its
//! messages.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| snapsync_engine::fuzz::messages(bytes));
