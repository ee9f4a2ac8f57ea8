#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cooldown_fuzz::model_peeker::run(data));
