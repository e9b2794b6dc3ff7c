//! The body of a message that a client publishes. The checks are in the module, whose types nobody else knows.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| notify_server::http::fuzz(data));
