//! The record of what waits for a user, as a bucket of NATS has it. The checks are in the module, whose types nobody else knows.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| notify_server::inbox::fuzz(data));
