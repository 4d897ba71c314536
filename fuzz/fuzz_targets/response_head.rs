#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tako::lab::parsers::response_head(bytes));
