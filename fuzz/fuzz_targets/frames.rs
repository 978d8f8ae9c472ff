//! libFuzzer on [`stoq_fuzz::transport::frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stoq_fuzz::transport::frames(input));
