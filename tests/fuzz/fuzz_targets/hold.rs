//! See `tests/harness/fuzz/hold.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mape_tests::fuzz::hold::run(data));
