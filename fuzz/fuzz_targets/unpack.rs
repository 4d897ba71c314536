#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tako::archive_lab::unpack_mended(bytes));
