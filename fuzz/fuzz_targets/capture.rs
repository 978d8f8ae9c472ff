//! libFuzzer on [`stoq_fuzz::nic::capture`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stoq_fuzz::nic::capture(input));
