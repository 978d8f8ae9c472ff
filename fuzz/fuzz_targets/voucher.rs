//! libFuzzer on [`stoq_fuzz::mesh::voucher`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stoq_fuzz::mesh::voucher(input));
