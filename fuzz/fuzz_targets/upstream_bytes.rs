#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cooldown_fuzz::upstream_bytes::run(data));
