//! See `tests/harness/fuzz/step.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mape_tests::fuzz::step::run(data));
