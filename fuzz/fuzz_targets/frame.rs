//! The frames of the wire, in each direction. What must hold is written in `proto/src/fuzzing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waypost_proto::fuzz_frame(input));
