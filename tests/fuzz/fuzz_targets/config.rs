//! See `tests/harness/fuzz/config.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mape_tests::fuzz::config::run(data));
