//! Whole exchanges: scripted clients and endpoints around one worker, decided by the input (`src/proxy/sim`).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tako::lab::exchange::play(data));
