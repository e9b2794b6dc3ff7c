//! What another instance says about who is there, a word a line. The checks are in the module, whose types nobody else knows.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| notify_server::presence::fuzz(data));
