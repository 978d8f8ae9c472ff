//! libFuzzer on [`stoq_fuzz::mesh::mdns`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stoq_fuzz::mesh::mdns(input));
