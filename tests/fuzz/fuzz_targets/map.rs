//! See `tests/harness/fuzz/map.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mape_tests::fuzz::map::run(data));
