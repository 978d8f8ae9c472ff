//! libFuzzer on [`stoq_fuzz::mux`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stoq_fuzz::mux(input));
