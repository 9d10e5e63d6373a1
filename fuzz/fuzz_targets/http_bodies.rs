//! The body of every request that has one, through routes, handlers and the domain, with a store in memory. What must hold is
//! written in `dispatch-api/src/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waypost_dispatch_api::fuzz_bodies(input));
