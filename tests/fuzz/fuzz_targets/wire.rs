//! See `tests/harness/fuzz/wire.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mape_tests::fuzz::wire::run(data));
