//! Signing keys that are none: those that stand in public documents, and those that could be
//! guessed.

use zeroize::Zeroizing;

/// Keys that are long enough and stand, word for word, where everybody reads them. (jwt.io's
/// `your-256-bit-secret` is too short anyway.)
pub const PUBLISHED_KEYS: [&str; 4] = [
    // The samples of jwt.io.
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    // RFC 7515, appendix A.1.
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    // RFC 7520, section 3.5.
    "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
];

/// Parts of what waits in a sample to be replaced, in lower case.
const PLACEHOLDERS: [&str; 9] = [
    "changeme",
    "change-me",
    "change_me",
    "replaceme",
    "replace-me",
    "replace_me",
    "example",
    "your-secret",
    "your_secret",
];

/// Whether a key repeats a few letters, or holds a word that waits to be replaced. A random key
/// may by chance, so that this is worth no more than a warning.
pub(super) fn can_be_guessed(key: &str) -> bool {
    let mut bytes = Zeroizing::new(key.as_bytes().to_vec());
    bytes.sort_unstable();
    bytes.dedup();
    let lower = Zeroizing::new(key.to_ascii_lowercase());
    bytes.len() < 4 || PLACEHOLDERS.iter().any(|word| lower.contains(word))
}
