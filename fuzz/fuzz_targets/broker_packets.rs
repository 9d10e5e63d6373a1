//! The broker's path of a packet: bytes of several connections into the core, without IO, and the bytes that come out of it.
//! What must hold is written in `broker/src/core/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|history: &[u8]| waypost_broker::fuzz_packets(history));
