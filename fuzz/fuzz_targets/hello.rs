//! libFuzzer on [`stoq_fuzz::transport::hello`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stoq_fuzz::transport::hello(input));
