//! libFuzzer on [`stoq_fuzz::mesh::index`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stoq_fuzz::mesh::index(input));
