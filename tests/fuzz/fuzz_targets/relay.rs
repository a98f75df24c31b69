//! See `tests/harness/fuzz/relay.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mape_tests::fuzz::relay::run(data));
