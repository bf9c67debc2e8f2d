//! What a client sends, read as the gate reads it and to the letter of RFC 9112.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(difference) = wxgate::proxy::compare_readers(bytes) {
        panic!("{}\n{difference}", bytes.escape_ascii());
    }
});
