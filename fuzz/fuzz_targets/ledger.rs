#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cooldown_fuzz::ledger::run(data));
